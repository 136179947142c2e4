// One run: its graph, its timeline, and the task that is selected in both.
import { Confirm } from "../parts/dialog.js";
import { between, duration, exact, Moment } from "../parts/figures.js";
import { circuitsOf, glyphOf, nextProbe } from "../parts/fleet.js";
import { Glyph, Icon, State, toneOf, wordOf } from "../parts/glyphs.js";
import { Graph, places } from "../parts/graph.js";
import { Json } from "../parts/json.js";
import { may } from "../parts/rights.js";
import { awaitedBy, hasEnded, nodesOf, rowsOf, underWay, withChanges } from "../parts/run.js";
import { Empty, Loading, Trouble } from "../parts/states.js";
import { line, lines, plural, short, whole } from "../parts/text.js";
import { Timeline } from "../parts/timeline.js";
import { html, useEffect, useRef, useState } from "../parts/view.js";

const READ_AGAIN_MS = 300;
const READ_EVERY_MS = 3_000;
const REST_SHARE = 4;

export function Run({ state, feed, now, route, go }) {
  const chainId = route.path[1];
  const { run, trouble, live, read } = useRun(feed, chainId, state.connection.state);
  const [asked, ask] = useState(false);
  /** @type {{current: {digest: string, placed: any}}} */
  const layout = useRef({ digest: "", placed: null });
  if (trouble && !run)
    return trouble.status === 404
      ? html`<${Empty} title=${`No run ${short(chainId)}`}>It may have been pruned, or belongs to another tenant. <a class="link" href="#/runs">All runs</a><//>`
      : html`<${Trouble} what="This run could not be read." why=${trouble.message} next="It is tried again by itself." />`;
  if (!run) return html`<${Loading} />`;
  const digest = `${run.chain_id} ${run.total_tasks}`;
  if (layout.current.digest !== digest) layout.current = { digest, placed: places(Object.keys(run.tasks), run.edges) };
  const isOver = hasEnded(run);
  const nowS = between(run.started_at, isOver ? run.ended_at : now) ?? 0;
  const chosen = run.tasks[route.query.task] ? route.query.task : "";
  const nodes = nodesOf(run, live, state.health, now);
  const choose = (id) => go(`#/runs/${run.chain_id}${id && id !== chosen ? `?task=${encodeURIComponent(id)}` : ""}`);
  return html`<${Head} ...${{ run, nowS, ask, go, feed, state }} />
    ${
      asked &&
      html`<${Confirm} question=${`Cancel ${line(run.name) || "this run"}?`} effects=${[`${plural(run.total_tasks - Object.values(run.tasks).filter(hasEnded).length, "task")} will not be done; those that run are cut off.`, "What is completed stays. Retry makes a new run of the rest."]} deed="Cancel run" act=${async () => {
        await feed.api.post(`/api/tasks/chain/${run.chain_id}/cancel`);
        read();
      }} close=${() => ask(false)} />`
    }
    <div class="run">
      <div class="left">
        <${Graph} nodes=${nodes} edges=${run.edges} placed=${layout.current.placed} chosen=${chosen} choose=${choose} />
        <${Timeline} rows=${rowsOf(run, live, nowS)} nowS=${nowS} isOver=${isOver} chosen=${chosen} choose=${choose} />
      </div>
      <aside class="inspect" aria-label="Selected task">${chosen ? html`<${Task} key=${chosen} ...${{ run, id: chosen, task: run.tasks[chosen], node: nodes.find((node) => node.id === chosen), state, now, feed, close: () => choose("") }} />` : html`<section><p class="soft">Select a task to see its attempts, its result and why it went where it went.</p></section>`}</aside>
    </div>`;
}

/** A run, of which what changed is read when an event is about it, and now and then. */
function useRun(feed, chainId, connection) {
  /** @type {[any, (next: any) => void]} */
  const [found, setFound] = useState({ run: null, trouble: null });
  const [live, setLive] = useState({});
  const reader = useRef(() => {});
  useEffect(() => {
    const stop = new AbortController();
    let due = 0;
    /** @type {any} */
    let known = null;
    let tookMs = 0;
    const read = async () => {
      clearTimeout(due);
      due = 0;
      const began = performance.now();
      try {
        const since = known ? `&since=${known.seq}` : "";
        const changes = await feed.api.get(
          `/api/tasks/chain/${encodeURIComponent(chainId)}?results=false${since}`,
          stop.signal,
        );
        tookMs = performance.now() - began;
        known = withChanges(known, changes);
        if (hasEnded(known)) setLive({});
        setFound({ run: known, trouble: null });
      } catch (error) {
        if (!stop.signal.aborted) setFound((before) => ({ run: before.run, trouble: error }));
      }
    };
    reader.current = read;
    setFound({ run: null, trouble: null });
    setLive({});
    read();
    const end = feed.listen((event) => {
      if (event.chain_id !== chainId && event.kind !== "gap") return;
      setLive((before) => underWay(before, event));
      due ||= setTimeout(read, Math.max(READ_AGAIN_MS, REST_SHARE * tookMs));
    });
    const every = setInterval(() => (known && hasEnded(known)) || due || read(), READ_EVERY_MS);
    return () => {
      stop.abort();
      end();
      clearTimeout(due);
      clearInterval(every);
    };
  }, [chainId, connection === "live"]);
  return { ...found, live, read: () => reader.current() };
}

function Head({ run, nowS, ask, go, feed, state }) {
  const [problem, setProblem] = useState("");
  const retry = async () => {
    try {
      const made = await feed.api.post(`/api/tasks/chain/${run.chain_id}/retry`);
      go(`#/runs/${made.chain_id}`);
    } catch (error) {
      setProblem(error.message);
    }
  };
  const copy = () =>
    navigator.clipboard?.writeText(
      `curl -H "Authorization: Bearer $AICP_API_KEY" ${location.origin}/api/tasks/chain/${run.chain_id}`,
    );
  return html`<div class="head"><h1>${line(run.name) || "Task"}</h1><span class=${`tag is-${toneOf(run.status)}`}><${Glyph} name=${run.status} />${wordOf(run.status)}</span>
    <span class="mid small"><span class="id" title=${run.chain_id}>${short(run.chain_id)}</span> · ${duration(nowS)} · ${whole(run.completed_tasks)} of ${plural(run.total_tasks, "task")} completed${run.retry_of && html` · retry of <a class="id link" href=${`#/runs/${run.retry_of}`}>${short(run.retry_of)}</a>`}</span>
    <div class="actions">${problem && html`<span class="wrong" role="alert">${problem}</span>`}<button class="btn narrow-hide" onClick=${copy}>Copy as curl</button>${hasEnded(run) && may(state, "tasks:submit") && html`<button class="btn" onClick=${retry}>Retry</button>`}${!hasEnded(run) && may(state, "tasks:cancel") && html`<button class="btn stop" onClick=${() => ask(true)}>Cancel run…</button>`}</div></div>`;
}

function Task({ run, id, task, node, state, now, feed, close }) {
  const [why, setWhy] = useState(null);
  const [told, setTold] = useState(null);
  useEffect(() => {
    const stop = new AbortController();
    const path = `/api/tasks/${encodeURIComponent(task.task_id)}`;
    feed.api.get(`${path}/explain`, stop.signal).then(setWhy, () => {});
    if (task.status === "COMPLETED") feed.api.get(path, stop.signal).then(setTold, () => {});
    return () => stop.abort();
  }, [task.status, task.attempts.length]);
  return html`<section>
      <div class="head"><h2 class="id">${line(id)}</h2><${State} name=${node.glyph} /><button class="btn quiet square" aria-label="Close" onClick=${close}><${Icon} name="close" /></button></div>
      <dl class="kv small"><dt>Capability</dt><dd class="id">${line(task.capability)}</dd><dt>Task</dt><dd><span class="id" title=${task.task_id}>${short(task.task_id)}</span></dd>
        ${hasEnded(task) && html`<dt>Duration</dt><dd>${duration(task.timings?.total_s ?? between(task.started_at, task.ended_at))} <span class="soft">from ready to recorded</span></dd>`}
        <dt>After</dt><dd>${awaitedBy(run, id).map(line).join(", ") || html`<span class="soft">nothing: it begins at once</span>`}</dd></dl>
    </section>
    ${node.glyph === "IN_LINE" && html`<${Waiting} ...${{ task, state, now }} />`}
    ${task.error && html`<section><h3>${task.status === "FAILED" ? "Why it failed" : "Why it ended"}</h3><p><span class="id">${line(task.error.code)}</span></p><pre class="json">${lines(task.error.message)}</pre></section>`}
    ${task.attempts.length > 0 && html`<section><h3>Attempts</h3><ol class="attempts">${task.attempts.map((one) => html`<li key=${one.number}><${Glyph} name=${one.outcome === "SUCCESS" ? "COMPLETED" : "FAILED"} label=${one.outcome} /><span><span class="id">${line(one.agent_id)}</span> <span class="soft">·</span> ${one.outcome}</span><span class="num" title=${exact(one.started_at)}>${duration(between(one.started_at, one.ended_at))}</span>${one.reason && html`<span class="second">${line(one.reason)}</span>`}</li>`)}</ol></section>`}
    ${why?.choices?.length > 0 && html`<${Why} choices=${why.choices} />`}
    ${told && html`<section><h3>Result</h3><${Json} value=${told.result} /></section>`}
    ${(task.ready_at || task.ended_at) && html`<section><p class="small soft">${task.ready_at && html`Ready <${Moment} at=${task.ready_at} />`}${task.ready_at && task.ended_at && ", "}${task.ended_at && html`ended <${Moment} at=${task.ended_at} />`} UTC</p></section>`}`;
}

/** Why a task has no agent yet: the circuits that keep its capability out, or who is before it. */
function Waiting({ task, state, now }) {
  const { health, status } = state;
  const line_ = status?.by_capability[task.capability];
  const out = health?.capabilities_out.includes(task.capability) ? circuitsOf(health, task.capability) : [];
  const others = Math.max(0, (line_?.queue_depth ?? 1) - 1);
  if (!out.length)
    return html`<section><h3>Why it waits</h3><p>Every slot of ${plural(line_?.usable ?? 0, "usable agent")} is taken${others ? `, and ${plural(others, "other task")} ${others === 1 ? "waits" : "wait"} for ${others === 1 ? "one" : "them"} too` : ""}.</p></section>`;
  return html`<section><h3>Why it waits</h3><p>No agent of its capability can be used. It runs when one is back.</p>
    <ul class="attempts">${out.slice(0, 10).map(([agentId, circuit]) => html`<li key=${agentId}><${Glyph} name=${glyphOf(circuit)} label=${wordOf(glyphOf(circuit))} /><a class="id" href=${`#/agents/${encodeURIComponent(agentId)}`}>${line(agentId)}</a><span class="num">${nextProbe(circuit, state.readAt.health ?? now, now) || line(circuit.why_out)}</span></li>`)}</ul></section>`;
}

/** Why each attempt went where it went, as a table of terms. */
function Why({ choices }) {
  return html`<section><h3>Why these agents</h3><table><thead><tr><th>Agent</th><th class="num">Free</th><th class="num">Expected</th><th class="num">Waited</th></tr></thead>
    <tbody>${choices.map((choice) => html`<tr key=${choice.attempt}><td class="id">${line(choice.agent_id)}</td><td class="num">${choice.free} / ${choice.agents}</td><td class="num">${duration(choice.estimate_s)}</td><td class="num">${duration(choice.waited_s)}</td></tr>`)}</tbody></table>
    <p class="small soft">Free: how many of its capability's agents had a free slot then. Expected: the time an attempt takes there.</p></section>`;
}
