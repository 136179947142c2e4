// A run as the graph and the timeline show it, from what the API says of its tasks and the events since.
import { between, duration } from "./figures.js";
import { plural } from "./text.js";

const ENDED = new Set(["COMPLETED", "FAILED", "CANCELLED", "SKIPPED"]);

/** Whether a task or run has ended. */
export const hasEnded = (one) => ENDED.has(one.status);

const awaited = new WeakMap();

/** A run as it was known, with what changed since. The first answer has all, and the edges, which never change. */
export const withChanges = (before, changes) =>
  changes.edges ? changes : { ...changes, edges: before.edges, tasks: { ...before.tasks, ...changes.tasks } };

/** What each task of a run waits for, made once. */
export function awaitedBy(run, id) {
  let found = awaited.get(run.edges);
  if (!found) {
    found = new Map(Object.keys(run.tasks).map((task) => [task, []]));
    for (const [from, to] of run.edges) found.get(to)?.push(from);
    awaited.set(run.edges, found);
  }
  return found.get(id) ?? [];
}

/** The attempts that are under way, by task: what events say began and did not end. */
export function underWay(before, event) {
  const task = event.task_id?.split(".").slice(1).join(".");
  if (!task || !["attempt_started", "attempt_ended", "task_ended"].includes(event.kind)) return before;
  const { [task]: _, ...others } = before;
  return event.kind === "attempt_started"
    ? { ...others, [task]: { agentId: event.agent_id, number: event.attempt, at: event.at } }
    : others;
}

/** What the graph draws of each task. */
export function nodesOf(run, live, health, now) {
  return Object.entries(run.tasks).map(([id, task]) => {
    const attempt = live[id];
    const lost = task.attempts.filter((one) => one.outcome !== "SUCCESS").length;
    const isOut = health?.capabilities_out.includes(task.capability) ?? false;
    const isWaiting = task.status === "RUNNING" && waits(task, attempt, isOut);
    const isStuck = isWaiting && isOut;
    return {
      id,
      glyph: isWaiting ? "IN_LINE" : task.status,
      sub: isStuck ? "no agent available" : isWaiting ? "waits for a free slot" : subOf(run, id, task, attempt, now),
      tone: isStuck || task.status === "FAILED" ? "bad" : "",
      signs: lost ? [{ name: "FAILOVER", words: String(lost + (attempt || hasEnded(task) ? 1 : 0)) }] : [],
      isToCome: task.status === "PENDING",
    };
  });
}

/** Whether a running task waits for an agent. Where the server does not say, the agent that had it last may still have it. */
function waits(task, attempt, isOut) {
  return task.phase ? task.phase === "in_line" : !attempt && (isOut || !task.agent_id);
}

function subOf(run, id, task, attempt, now) {
  const first = task.attempts[0]?.agent_id;
  const agent = attempt?.agentId ?? task.agent_id;
  if (task.status === "PENDING") {
    const left = awaitedBy(run, id).filter((from) => !hasEnded(run.tasks[from])).length;
    return left ? `waits for ${plural(left, "task")}` : task.capability;
  }
  if (task.status === "FAILED") return task.error?.code ?? "failed";
  if (!agent) return task.capability;
  if (task.attempts.length > 1 && first !== agent) return `${first} → ${agent}`;
  const took = hasEnded(task) ? between(task.started_at, task.ended_at) : between(attempt?.at ?? task.started_at, now);
  return took === null ? agent : `${agent} · ${duration(took)}`;
}

/** What the timeline draws of each task, in the order of their first attempts; seconds since the submit. */
export function rowsOf(run, live, nowS) {
  const at = (moment) => between(run.started_at, moment) ?? 0;
  return Object.entries(run.tasks)
    .map(([id, task]) => ({ id, spans: spansOf(run, id, task, live[id], at, nowS) }))
    .filter((row) => row.spans.length)
    .sort((a, b) => a.spans[0].from - b.spans[0].from);
}

function spansOf(run, id, task, attempt, at, nowS) {
  const spans = [];
  const sources = awaitedBy(run, id).map((from) => run.tasks[from]);
  const isReady = sources.every((one) => hasEnded(one));
  let before = task.ready_at
    ? at(task.ready_at)
    : isReady
      ? Math.max(0, ...sources.map((one) => at(one.ended_at)))
      : null;
  for (const one of task.attempts) {
    if (before !== null && at(one.started_at) > before)
      spans.push({ kind: "wait", from: before, to: at(one.started_at) });
    before = at(one.ended_at);
    spans.push({ kind: one.outcome === "SUCCESS" ? "ok" : "failed", from: at(one.started_at), to: before });
  }
  if (attempt)
    spans.push(...(before !== null ? [{ kind: "wait", from: before, to: at(attempt.at) }] : []), {
      kind: "now",
      from: at(attempt.at),
      to: nowS,
    });
  else if (task.status === "RUNNING" && before !== null) spans.push({ kind: "wait", from: before, to: nowS });
  return spans;
}
