// Agents by capability: their circuits, slots, success, and when a circuit that is out is probed next.
import { BUCKET_S } from "../live/rates.js";
import { duration, Figure, percent, UNKNOWN } from "../parts/figures.js";
import { capabilitiesOf, circuitsOf, glyphOf, isReady, nextProbe } from "../parts/fleet.js";
import { Icon, State, wordOf } from "../parts/glyphs.js";
import { Spark } from "../parts/spark.js";
import { Empty, Loading } from "../parts/states.js";
import { line, plural } from "../parts/text.js";
import { html } from "../parts/view.js";

const SHOWN_MAX = 500;
const SLOTS_DRAWN = 12;

export function Fleet({ state, rates, now, route, go }) {
  const { health, agents } = state;
  if (!health || !agents) return html`<${Loading} trouble=${state.trouble.health ?? state.trouble.agents} />`;
  const wanted = route.query.q ?? "";
  const only = route.query.show ?? "all";
  const known = new Map(agents.map((agent) => [agent.agent_id, agent]));
  const out = Object.values(health.agents).filter((agent) => !isReady(agent)).length;
  const groups = groupsOf(health, known, wanted.toLowerCase(), only);
  const count = groups.reduce((sum, group) => sum + group.rows.length, 0);
  const set = (query) => go(`#/fleet?${new URLSearchParams({ ...route.query, ...query })}`);
  return html`<div class="head"><h1>Fleet</h1><p class="mid">${plural(health.total_agents, "agent")}, ${capabilitiesOf(health).length === 1 ? "1 capability" : `${capabilitiesOf(health).length} capabilities`}</p></div>
    <div class="filters" role="search">
      <span class="search"><${Icon} name="search" /><input type="search" placeholder="Agent, capability or label" aria-label="Filter the fleet" value=${wanted} onInput=${(event) => set({ q: event.target.value })} /></span>
      <div class="seg" role="group" aria-label="Show">
        <button aria-pressed=${only === "all"} onClick=${() => set({ show: "all" })}>All <span class="soft">${health.total_agents}</span></button>
        <button aria-pressed=${only === "out"} onClick=${() => set({ show: "out" })}>Out <span class="soft">${out}</span></button>
      </div>
    </div>
    ${
      !health.total_agents
        ? html`<${Empty} title="No agent yet">Start one with <code>aicp agent run my_agent.py</code>; it appears here within a second.<//>`
        : !count
          ? html`<${Empty} title=${`No agent fits "${line(wanted)}"`}><button class="btn" onClick=${() => go("#/fleet")}>Clear filters</button><//>`
          : html`<section class="panel"><table class="list">
          <thead><tr><th>Circuit</th><th>Agent</th><th class="only-narrow"></th><th>Slots</th><th class="num">Success</th><th class="wide-only">15 min</th><th class="num">Latency</th><th class="mid-hide">Why it is out</th><th>Next probe</th><th class="wide-only">Heard</th></tr></thead>
          ${groups.map((group) => html`<${Group} key=${group.name} ...${{ group, known, state, rates, now }} />`)}
        </table>${count > SHOWN_MAX && html`<footer>The first ${SHOWN_MAX} of ${count} circuits, trouble first. Use the filter to find others.</footer>`}</section>`
    }`;
}

/** Capabilities with the circuits that fit, those without a usable agent first. */
function groupsOf(health, known, wanted, only) {
  let room = SHOWN_MAX;
  return capabilitiesOf(health)
    .map((name) => ({
      name,
      isOut: health.capabilities_out.includes(name),
      rows: circuitsOf(health, name).filter(
        ([agentId, circuit]) => fits(name, agentId, known.get(agentId), wanted) && (only === "all" || circuit.why_out),
      ),
    }))
    .filter((group) => group.rows.length)
    .sort((a, b) => Number(b.isOut) - Number(a.isOut) || a.name.localeCompare(b.name))
    .map((group) => {
      const rows = group.rows.slice(0, Math.max(0, room));
      room -= rows.length;
      return { ...group, total: group.rows.length, rows };
    });
}

function fits(capability, agentId, agent, wanted) {
  const labels = Object.entries(agent?.labels ?? {}).map(([key, value]) => `${key}=${value}`);
  return !wanted || [capability, agentId, ...labels].some((text) => text.toLowerCase().includes(wanted));
}

function Group({ group, known, state, rates, now }) {
  const { status } = state;
  const waiting = status?.by_capability[group.name]?.queue_depth ?? 0;
  const rate = rates.rate(rates.byCapability.get(group.name), now, (counts) => counts.attempts);
  return html`<tbody><tr class="group"><th colspan="10" scope="rowgroup"><${Icon} name="down" /><span class="cap">${line(group.name)}</span>${
    group.isOut
      ? html`<span class="st loud is-bad">No agent available · ${waiting} waiting</span>`
      : html`<span class="soft">${plural(group.total, "agent")} · ${rate.toFixed(1)} /s${waiting ? ` · ${waiting} waiting` : ""}</span>`
  }</th></tr>
    ${group.rows.map(([agentId, circuit, agent]) => html`<${Row} key=${agentId} ...${{ agentId, circuit, agent, known: known.get(agentId), rates, now, readAt: state.readAt.health ?? now }} />`)}</tbody>`;
}

function Row({ agentId, circuit, agent, known, rates, now, readAt }) {
  const series = rates.byAgent.get(agentId);
  const success = rates.success(series, now) ?? agent.success_rate;
  const probe = nextProbe(circuit, readAt, now);
  const labels = Object.entries(known?.labels ?? {})
    .map(([key, value]) => `${key}=${value}`)
    .join(" ");
  const glyph = glyphOf(circuit);
  return html`<tr class="go">
    <td class="fit m-side"><${State} name=${glyph} word=${circuit.why_out && glyph === "CLOSED" ? capital(circuit.why_out) : wordOf(glyph)} /></td>
    <td class="m-name"><a class="id strong" href=${`#/agents/${encodeURIComponent(agentId)}`} title=${agentId}>${line(agentId)}</a><span class="second narrow-hide">${line(labels)}</span></td>
    <td class="m-line only-narrow">${circuit.why_out ? `${line(circuit.reason || circuit.why_out)}${probe ? ` · probe ${probe}` : ""}` : `${agent.taken} of ${plural(agent.slots, "slot")}`}</td>
    <td class="fit"><span class="slots" aria-hidden="true">${Array.from({ length: Math.min(agent.slots, SLOTS_DRAWN) }, (_, index) => html`<i class=${index < agent.taken ? "on" : ""}></i>`)}</span> <span class="mid">${agent.taken}/${agent.slots}</span></td>
    <td class="num">${success === null ? html`<span class="soft">${UNKNOWN}</span>` : html`<${Figure} value=${percent(success)} unit="%" />`}</td>
    <td class="fit wide-only"><${Spark} values=${rates.values(series, now, (counts) => counts.attempts / BUCKET_S)} isBad=${glyph === "OPEN"} /></td>
    <td class="num">${duration(circuit.latency_ms === null ? null : circuit.latency_ms / 1000)}</td>
    <td class="mid-hide"><span class="cut" title=${circuit.reason || circuit.why_out}>${line(circuit.reason || circuit.why_out) || html`<span class="soft">${UNKNOWN}</span>`}</span></td>
    <td class="fit">${probe ? html`<${Ring} ...${{ circuit, readAt, now }} /> ${probe}` : html`<span class="soft">${UNKNOWN}</span>`}</td>
    <td class="fit wide-only"><${State} name=${agent.draining ? "DRAINING" : agent.liveness} word=${known?.silent_s === null || known?.silent_s === undefined ? undefined : duration(known.silent_s)} /></td></tr>`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** A ring that empties until the next probe. */
export function Ring({ circuit, readAt, now }) {
  if (!circuit.retry_after_s) return null;
  const left = Math.max(0, circuit.retry_after_s - (now - readAt) / 1000);
  const share = (100 * left) / Math.max(circuit.retry_after_s, 0.001);
  return html`<svg class="ring" viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6" /><circle class="left" cx="8" cy="8" r="6" pathLength="100" style=${{ "--v": share.toFixed(0) }} /></svg>`;
}
