// Is all well? One sentence with its reason, the figures of the last 15 minutes, and what is in trouble.
import { BUCKET_S, BUCKETS, quantile } from "../live/rates.js";
import { Count, clock, duration, Figure, Moment, percent, UNKNOWN } from "../parts/figures.js";
import { capabilitiesOf, circuitsOf, glyphOf, isReady, nextProbe } from "../parts/fleet.js";
import { Glyph, wordOf } from "../parts/glyphs.js";
import { Chart, Spark } from "../parts/spark.js";
import { Code, Loading } from "../parts/states.js";
import { line, plural, tail, whole } from "../parts/text.js";
import { html } from "../parts/view.js";

const QUARTER_S = BUCKETS * BUCKET_S;
const CAPABILITIES_SHOWN = 12;
const TROUBLE_SHOWN = 6;

export function Overview({ state, rates, now }) {
  const { health, status } = state;
  if (!health || !status) return html`<${Loading} trouble=${state.trouble.health ?? state.trouble.status} />`;
  if (!health.total_agents) return html`<${FirstSteps} />`;
  return html`<${Verdict} ...${{ state, now }} /><${Figures} ...${{ state, rates, now }} />
    <div class="two">
      <div class="stack"><${Capabilities} ...${{ state, rates, now }} /><${HowTasksEnded} ...${{ rates, now }} /></div>
      <div class="stack"><${RunsInTrouble} runs=${state.runs ?? []} /><${LatestFailures} failures=${state.failures ?? []} /></div>
    </div>`;
}

function FirstSteps() {
  return html`<section class="verdict"><${Glyph} name="PENDING" big /><h1>No agent yet.</h1><p class="lede">Tasks go to agents, and none is registered. Start one, and it appears here within a second.</p></section>
    <section class="panel narrow"><ol class="steps body flat">
      <li><span class="n">1</span><div class="to"><h2>Write an agent</h2><p class="mid">A function and its name are enough: docs/howto/write-an-agent.md.</p></div></li>
      <li><span class="n">2</span><div class="to"><h2>Run it beside this server</h2><${Code} text="aicp agent run my_agent.py" /></div></li>
      <li><span class="n">3</span><div class="to"><h2>Give it a task</h2><p class="mid"><a class="link" href="#/try">Try a capability</a> here, or from a terminal.</p></div></li>
    </ol></section>`;
}

/** The one sentence, and who is affected. */
export function verdict(health, outSince) {
  const out = Object.values(health.agents).filter((agent) => !isReady(agent)).length;
  const lost = health.capabilities_out;
  const since = lost.length === 1 && outSince[lost[0]] ? ` since ${clock(outSince[lost[0]], { seconds: false })}` : "";
  const first =
    lost.length === 1 ? `${line(lost[0])} has no agent${since}.` : `${lost.length} capabilities have no agent.`;
  if (!out)
    return {
      glyph: "CLOSED",
      sentence:
        health.total_agents === 1 ? "The agent is ready." : `All ${whole(health.total_agents)} agents are ready.`,
    };
  const agents = `${out} of ${plural(health.total_agents, "agent")} ${out === 1 ? "is" : "are"} out.`;
  return {
    glyph: lost.length ? "OPEN" : "HALF_OPEN",
    sentence: lost.length ? `${agents} ${first}` : `${agents} Every capability has an agent.`,
  };
}

function Verdict({ state, now }) {
  const { health, status } = state;
  const { glyph, sentence } = verdict(health, state.outSince);
  return html`<section class="verdict" aria-live="polite"><${Glyph} name=${glyph} big label=${glyph === "CLOSED" ? "All is well" : "Trouble"} /><h1>${sentence}</h1>
    <p class="lede">${consequences(health, status, state.readAt.health ?? now, now)}</p></section>`;
}

function consequences(health, status, readAt, now) {
  const lost = health.capabilities_out;
  const waiting = lost.reduce((sum, name) => sum + (status.by_capability[name]?.queue_depth ?? 0), 0);
  if (lost.length && waiting) {
    const oldest = Math.max(...lost.map((name) => status.by_capability[name]?.oldest_wait_s ?? 0));
    return `${plural(waiting, "task")} ${waiting === 1 ? "waits" : "wait"} for ${lost.length === 1 ? "it" : "them"}, the oldest for ${duration(oldest)}. Nothing is lost: they run when an agent is back.${probeOf(health, lost[0], readAt, now)}`;
  }
  if (lost.length)
    return `No task waits for ${lost.length === 1 ? "it" : "them"}.${probeOf(health, lost[0], readAt, now)}`;
  return status.queue_depth
    ? `${plural(status.queue_depth, "task")} ${status.queue_depth === 1 ? "waits" : "wait"} for a free slot, the oldest for ${duration(status.oldest_wait_s)}.`
    : "No task waits.";
}

function probeOf(health, capability, readAt, now) {
  const [first] = circuitsOf(health, capability)
    .filter(([, circuit]) => circuit.retry_after_s !== null)
    .sort(([, a], [, b]) => a.retry_after_s - b.retry_after_s);
  const probe = first && nextProbe(first[1], readAt, now);
  return probe ? ` Next probe of ${line(first[0])} ${probe === "probing" ? "is under way" : `in ${probe}`}.` : "";
}

function Figures({ state, rates, now }) {
  const { status, health } = state;
  const all = rates.all;
  const rate = (counts) => counts.ended / BUCKET_S;
  const success = rates.success(all, now);
  const past = (field) =>
    rates
      .values(null, now, () => 0)
      .map((value, index) =>
        value === null ? null : pastAt(state.waitingPast, now - (BUCKETS - 1 - index) * BUCKET_S * 1000, field),
      );
  const failed = rates.sum(all, now, QUARTER_S, (counts) => counts.failed);
  return html`<section class="panel figures" aria-label="The last 15 minutes">
    <${Tile} name="Tasks" value=${rates.rate(all, now, (counts) => counts.ended).toFixed(1)} unit="/s" values=${rates.values(all, now, rate)} note=${`${whole(rates.sum(all, now, QUARTER_S, (counts) => counts.ended))} so far`} />
    <${Tile} name="Success of attempts" value=${percent(success)} unit=${success === null ? "" : "%"} values=${rates.values(all, now, (counts) => (counts.attempts ? 1 - counts.lost / counts.attempts : null))} top=${1} isBad=${success !== null && success < 0.5} note=${`${plural(
      rates.sum(all, now, QUARTER_S, (counts) => counts.lost),
      "attempt",
    )} lost`} />
    <${Tile} name="Attempt, p50" value=${duration(quantile(all, 0.5))} values=${[]} note=${`p99 ${duration(quantile(all, 0.99))}`} />
    <${Tile} name="Waiting" value=${whole(status.queue_depth)} unit=${status.queue_depth === 1 ? "task" : "tasks"} values=${past("waiting")} isBad=${health.capabilities_out.length > 0 && status.queue_depth > 0} note=${status.queue_depth ? `oldest ${duration(status.oldest_wait_s)}` : "no wait"} />
    <${Tile} name="Failovers" value=${whole(rates.sum(all, now, QUARTER_S, (counts) => counts.failovers))} values=${rates.values(all, now, (counts) => counts.failovers)} note=${`${plural(failed, "task")} failed`} />
    <${Tile} name="Slots used" value=${whole(status.current_load)} unit=${`/ ${whole(status.total_capacity)}`} values=${past("used")} top=${status.total_capacity} note=${`${health.healthy_agents} of ${plural(health.total_agents, "agent")} ready`} />
  </section>`;
}

const pastAt = (past, at, field) =>
  past.findLast((one) => one.at <= at + BUCKET_S * 1000 && one.at > at - 2 * BUCKET_S * 1000)?.[field] ?? null;

function Tile({ name, value, unit, values, note, isBad = false, top = 0 }) {
  return html`<div><span class="name">${name}</span><span class="big"><${Figure} value=${value} unit=${unit} /></span><${Spark} ...${{ values, isBad, top }} /><span class="soft small cut">${note}</span></div>`;
}

function Capabilities({ state, rates, now }) {
  const { health, status } = state;
  const names = capabilitiesOf(health).sort(
    (a, b) => Number(health.capabilities_out.includes(b)) - Number(health.capabilities_out.includes(a)),
  );
  return html`<section class="panel"><header><h2>Capabilities</h2><div class="end"><a class="small mid" href="#/fleet">All ${names.length} in the fleet</a></div></header>
    <table class="list rows"><thead><tr><th>Capability</th><th>Circuits</th><th>Agents</th><th class="num">Attempts</th><th class="num">Success</th><th class="num mid-hide">Oldest</th><th class="num">Waiting</th></tr></thead>
    <tbody>${names.slice(0, CAPABILITIES_SHOWN).map((name) => html`<${Capability} key=${name} ...${{ name, health, rates, now, line_: status.by_capability[name], since: state.outSince[name] }} />`)}</tbody></table></section>`;
}

function Capability({ name, health, rates, now, line_, since }) {
  const circuits = circuitsOf(health, name);
  const ready = circuits.filter(([, circuit]) => !circuit.why_out).length;
  const series = rates.byCapability.get(name);
  const success = rates.success(series, now);
  const agents = ready
    ? `${ready} of ${circuits.length} ready`
    : `No agent${since ? ` since ${clock(since, { seconds: false })}` : ""}`;
  return html`<tr class="go"><td class="m-name"><a class="id" href=${`#/fleet?q=${encodeURIComponent(name)}`}>${line(name)}</a></td>
    <td class="m-side"><span class="circuits">${circuits.slice(0, 8).map(([agentId, circuit]) => html`<${Glyph} key=${agentId} name=${glyphOf(circuit)} label=${`${line(agentId)}: ${wordOf(glyphOf(circuit))}`} />`)}${circuits.length > 8 && html`<span class="soft small">+${circuits.length - 8}</span>`}</span></td>
    <td class="m-line"><span class=${ready ? "cut" : "cut st loud is-bad"}>${agents}</span></td>
    <td class="num"><${Figure} value=${rates.rate(series, now, (counts) => counts.attempts).toFixed(1)} unit="/s" /></td>
    <td class="num">${success === null ? html`<span class="soft">${UNKNOWN}</span>` : html`<${Figure} value=${percent(success)} unit="%" />`}</td>
    <td class="num mid-hide">${line_?.queue_depth ? duration(line_.oldest_wait_s) : html`<span class="soft">${UNKNOWN}</span>`}</td>
    <td class="num"><${Count} value=${line_?.queue_depth ?? 0} /></td></tr>`;
}

function HowTasksEnded({ rates, now }) {
  const all = rates.all;
  const series = [
    { name: "ended", values: rates.values(all, now, (counts) => counts.ended / BUCKET_S) },
    { name: "failover", tone: "warn", values: rates.values(all, now, (counts) => counts.failovers / BUCKET_S) },
    { name: "failed", tone: "bad", values: rates.values(all, now, (counts) => counts.failed / BUCKET_S) },
  ];
  return html`<section class="panel"><header><h2>How tasks ended</h2><div class="end"><span class="small soft">last 15 minutes, since this page is open</span></div></header>
    <div class="body"><${Chart} series=${series} unit="tasks/s" now=${now} label="Tasks a second: ended, taken over by another agent, and failed" /></div></section>`;
}

function RunsInTrouble({ runs }) {
  const failed = runs.filter((run) => run.status === "FAILED").slice(0, TROUBLE_SHOWN);
  return html`<section class="panel"><header><h2>Runs that failed</h2><div class="end"><a class="small mid" href="#/runs?status=FAILED">All runs</a></div></header>
    ${failed.length ? html`<ul class="rows">${failed.map((run) => html`<li key=${run.chain_id}><${Glyph} name=${run.status} label=${wordOf(run.status)} /><div><p class="cut"><a class="strong" href=${`#/runs/${run.chain_id}`}>${line(run.name) || "task"}</a> <span class="id soft">${tail(run.chain_id)}</span></p><p class="second cut">${plural(run.total_tasks, "task")}</p></div><span class="at"><${Moment} at=${run.ended_at} /></span></li>`)}</ul>` : html`<p class="body soft">None among the newest ${runs.length}.</p>`}</section>`;
}

function LatestFailures({ failures }) {
  return html`<section class="panel"><header><h2>Latest failures</h2><div class="end"><a class="small mid" href="#/failures">All failures</a></div></header>
    ${failures.length ? html`<ul class="rows">${failures.slice(0, TROUBLE_SHOWN).map((failure) => html`<li key=${failure.task_id + failure.timestamp}><${Glyph} name=${failure.outcome === "TASK_FAILED" ? "FAILED" : "FAILOVER"} label=${failure.outcome} /><div><p class="cut"><span class="id">${line(failure.agent_id)}</span> <span class="soft">·</span> ${line(failure.reason) || failure.outcome}</p><p class="second cut"><span class="id">${line(failure.capability)}</span></p></div><${Moment} at=${failure.timestamp} /></li>`)}</ul>` : html`<p class="body soft">None since the server started.</p>`}</section>`;
}
