// Counts of the last 15 minutes in buckets of 5 s: the server's history of before, then the events that this page sees.

export const BUCKET_S = 5;
export const BUCKETS = 180;
const DURATIONS_KEPT = 1_000;
const SERIES_MAX = 1_000;

const empty = () => ({ ended: 0, failed: 0, attempts: 0, lost: 0, failovers: 0 });

class Series {
  constructor() {
    this.buckets = new Map();
    this.durations = [];
  }

  at(bucket) {
    let found = this.buckets.get(bucket);
    if (!found) {
      this.buckets.set(bucket, (found = empty()));
      for (const old of this.buckets.keys()) if (old <= bucket - BUCKETS) this.buckets.delete(old);
    }
    return found;
  }

  took(seconds) {
    this.durations.push(seconds);
    if (this.durations.length > DURATIONS_KEPT) this.durations.shift();
  }
}

export class Rates {
  /** @param {number} now Milliseconds of the page's clock: what was before, `remember` tells. */
  constructor(now) {
    this.since = bucketOf(now);
    this.all = new Series();
    this.byCapability = new Map();
    this.byAgent = new Map();
  }

  /** Count an event that came at `now`, in milliseconds. */
  count(event, now) {
    const bucket = bucketOf(now);
    const touched = [this.all, this.#of(this.byCapability, event.capability), this.#of(this.byAgent, event.agent_id)];
    for (const series of touched) if (series) add(series, series.at(bucket), event);
  }

  /**
   * Take over what the server counted before this page was open. By age, since the two clocks may differ.
   * @param {{bucket_s: number, series: {capability?: string, agent_id?: string, values: Record<string, number[]>}[]}} history
   */
  remember(history, now) {
    const opened = this.since;
    for (const { capability, agent_id, values } of history.series) {
      const first = bucketOf(now) - values.attempts_per_s.length;
      const touched = agent_id
        ? [this.#of(this.byAgent, agent_id)]
        : [this.#of(this.byCapability, capability), this.all];
      for (let bucket = first; bucket < opened && bucket < bucketOf(now); bucket += 1) {
        const was = countsOf(values, bucket - first, history.bucket_s);
        if (Object.values(was).some(Boolean)) for (const series of touched) if (series) addAll(series.at(bucket), was);
      }
      this.since = Math.min(this.since, first);
    }
  }

  /** A value of each bucket, oldest first; null before anything is known. */
  values(series, now, value) {
    const last = bucketOf(now);
    return Array.from({ length: BUCKETS }, (_, index) => {
      const bucket = last - BUCKETS + 1 + index;
      return bucket < this.since ? null : value(series?.buckets.get(bucket) ?? empty());
    });
  }

  /** The sum of a value over the last seconds, at most 15 minutes. */
  sum(series, now, seconds, value) {
    const last = bucketOf(now);
    let total = 0;
    for (const [bucket, counts] of series?.buckets ?? [])
      if (bucket > last - seconds / BUCKET_S) total += value(counts);
    return total;
  }

  /** Things a second, over the last minute or as long as anything is known. */
  rate(series, now, value) {
    const seconds = Math.min(60, Math.max(BUCKET_S, (bucketOf(now) - this.since + 1) * BUCKET_S));
    return this.sum(series, now, seconds, value) / seconds;
  }

  /** The share of attempts that succeeded within 15 minutes; null without any. */
  success(series, now) {
    const attempts = this.sum(series, now, BUCKETS * BUCKET_S, (counts) => counts.attempts);
    return attempts ? 1 - this.sum(series, now, BUCKETS * BUCKET_S, (counts) => counts.lost) / attempts : null;
  }

  #of(series, name) {
    if (!name) return null;
    let found = series.get(name);
    if (!found && series.size < SERIES_MAX) series.set(name, (found = new Series()));
    return found ?? null;
  }
}

/** A quantile of the newest durations of a series; null without any. */
export function quantile(series, share) {
  const sorted = [...(series?.durations ?? [])].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] : null;
}

const bucketOf = (now) => Math.floor(now / 1000 / BUCKET_S);

function countsOf(values, index, seconds) {
  const count = (metric) => Math.round(values[metric][index] * seconds);
  const failed = count("failed_per_s");
  return {
    ended: count("completed_per_s") + failed,
    failed,
    attempts: count("attempts_per_s"),
    lost: count("failures_per_s"),
    failovers: count("failovers_per_s"),
  };
}

function addAll(counts, more) {
  for (const name of Object.keys(more)) counts[name] += more[name];
}

function add(series, counts, event) {
  if (event.kind === "task_ended") {
    counts.ended += 1;
    counts.failed += event.status === "FAILED" ? 1 : 0;
  } else if (event.kind === "attempt_ended" && event.outcome !== "CANCELLED") {
    counts.attempts += 1;
    counts.lost += event.outcome === "SUCCESS" ? 0 : 1;
    if (event.outcome === "SUCCESS") series.took(event.elapsed_s ?? 0);
  } else if (event.kind === "attempt_started" && event.attempt > 1) {
    counts.failovers += 1;
  }
}
