// Keeps the store true: events say what changed, and that part is read again; without events it is read at intervals.
import { Refusal } from "./api.js";
import { Rates } from "./rates.js";
import { follow } from "./stream.js";

const STATUS_EVERY_MS = 2_000;
const READ_AGAIN_MS = 400;
const AGENTS_A_PAGE = 1_000;
const RUNS_SHOWN = 100;
const FAILURES_SHOWN = 100;
const WAITING_KEPT = 450;

const PARTS = {
  info: "/api/info",
  reader: "/api/keys/current",
  health: "/api/circuit-breaker/health",
  status: "/api/scheduler/status",
  failures: `/api/circuit-breaker/failures?limit=${FAILURES_SHOWN}`,
  runs: `/api/tasks/chain?limit=${RUNS_SHOWN}`,
};

/** The parts that an event makes stale. */
const STALE_AFTER = {
  circuit_changed: ["health", "agents"],
  agent_changed: ["health", "agents"],
  capability_changed: ["health", "status"],
  chain_submitted: ["runs"],
  chain_cancelled: ["runs"],
  chain_ended: ["runs"],
  gap: ["health", "agents", "status", "runs", "failures"],
};

export class Feed {
  /**
   * @param {import("./api.js").Api} api
   * @param {import("./store.js").Store} store
   * @param {() => void} whenOver Called when the key opens nothing any more.
   */
  constructor(api, store, whenOver) {
    this.api = api;
    this.store = store;
    this.whenOver = whenOver;
    this.rates = new Rates(Date.now());
    this.stop = new AbortController();
    this.due = new Map();
    /** When each part may be read again, in milliseconds of `performance.now()`. */
    this.rests = new Map();
    this.listeners = new Set();
    api.whenAnswered = () => this.#answered();
  }

  /** Begin; `close` ends it. */
  open() {
    for (const part of [...Object.keys(PARTS), "agents"]) this.read(part);
    this.#readHistory();
    follow(
      this.api,
      { event: (event) => this.#take(event), alive: () => this.#answered(), refused: (error) => this.#refused(error) },
      this.stop.signal,
    );
    this.timer = setInterval(() => this.#look(), STATUS_EVERY_MS);
  }

  close() {
    this.stop.abort();
    clearInterval(this.timer);
    for (const timer of this.due.values()) clearTimeout(timer);
  }

  /** Call a listener with every event; the function that is returned ends that. */
  listen(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Read a part again: at once when it was not read lately, else once after a while, however often it is asked for. */
  soon(part) {
    if (this.due.has(part)) return;
    const read = () => {
      this.due.delete(part);
      this.read(part);
    };
    this.due.set(part, setTimeout(read, Math.max(0, (this.rests.get(part) ?? 0) - performance.now())));
  }

  /** Read a part of what is shown. */
  async read(part) {
    this.#rest(part);
    try {
      const found = part === "agents" ? await this.#agents() : await this.api.get(PARTS[part], this.stop.signal);
      const { [part]: _, ...trouble } = this.store.state.trouble;
      const value = { runs: found?.chains, agents: found }[part] ?? found;
      this.store.set({ [part]: value, trouble, readAt: { ...this.store.state.readAt, [part]: Date.now() } });
      if (part === "status") this.#remember(found);
    } catch (error) {
      if (this.stop.signal.aborted) return;
      this.#refused(error);
      this.store.set({ trouble: { ...this.store.state.trouble, [part]: error.message } });
    } finally {
      this.#rest(part);
    }
  }

  /** What was before the page was open; without it the charts begin now. */
  async #readHistory() {
    try {
      this.rates.remember(await this.api.get("/api/history", this.stop.signal), Date.now());
      this.store.set({});
    } catch (error) {
      if (!this.stop.signal.aborted) this.#refused(error);
    }
  }

  #rest(part) {
    this.rests.set(part, performance.now() + READ_AGAIN_MS);
  }

  async #agents() {
    const found = [];
    for (let cursor = ""; cursor !== null && found.length < 10 * AGENTS_A_PAGE; ) {
      const page = await this.api.get(
        `/ains/agents?limit=${AGENTS_A_PAGE}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`,
        this.stop.signal,
      );
      found.push(...page.agents);
      cursor = page.next_cursor;
    }
    return found;
  }

  #take(event) {
    this.#answered();
    this.rates.count(event, Date.now());
    this.store.note(event);
    for (const part of STALE_AFTER[event.kind] ?? []) this.soon(part);
    if (event.kind === "attempt_ended" && !["SUCCESS", "CANCELLED"].includes(event.outcome)) this.soon("failures");
    for (const listener of this.listeners) listener(event);
  }

  #look() {
    this.read("status");
    if (
      !this.store.state.health?.healthy_agents ||
      this.store.state.health.healthy_agents < this.store.state.health.total_agents
    )
      this.soon("health");
    this.store.set({});
  }

  #remember(status) {
    const waitingPast = [
      ...this.store.state.waitingPast,
      { at: Date.now(), waiting: status.queue_depth, used: status.current_load },
    ];
    this.store.set({ waitingPast: waitingPast.slice(-WAITING_KEPT) });
  }

  #answered() {
    const isBack = this.store.state.connection.state === "lost";
    this.store.set({ connection: { state: "live", answeredAt: Date.now() } });
    if (isBack) for (const part of [...Object.keys(PARTS), "agents"]) this.soon(part);
  }

  #refused(error) {
    if (error instanceof Refusal && error.status === 401) {
      this.whenOver();
    } else if (error instanceof Refusal && error.status === 0) {
      this.store.set({ connection: { ...this.store.state.connection, state: "lost" } });
    }
  }
}
