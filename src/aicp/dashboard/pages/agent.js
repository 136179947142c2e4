// One agent: its circuits, what it is, its last failures, and what an operator can do with it.

import { Confirm } from "../parts/dialog.js";
import { duration, Figure, Moment, percent, UNKNOWN } from "../parts/figures.js";
import { glyphOf, isReady, nextProbe, whyOut } from "../parts/fleet.js";
import { Glyph, State, wordOf } from "../parts/glyphs.js";
import { may } from "../parts/rights.js";
import { Empty, Loading } from "../parts/states.js";
import { line, plural } from "../parts/text.js";
import { html, useState } from "../parts/view.js";
import { Ring } from "./fleet.js";

export function Agent({ state, feed, now, route }) {
  const [asked, ask] = useState(null);
  const { health, agents } = state;
  if (!health || !agents) return html`<${Loading} trouble=${state.trouble.health ?? state.trouble.agents} />`;
  const agentId = route.path[1];
  const known = agents.find((agent) => agent.agent_id === agentId);
  const agent = health.agents[agentId];
  if (!known || !agent)
    return html`<${Empty} title=${`No agent ${line(agentId)}`}>It was removed, or belongs to another tenant. <a class="link" href="#/fleet">All agents</a><//>`;
  const failures = (state.failures ?? []).filter((failure) => failure.agent_id === agentId);
  return html`<div class="head"><h1 class="id">${line(agentId)}</h1><${State} name=${known.draining ? "DRAINING" : agent.liveness} /><span class="mid small">${isReady(agent) ? "Ready for all that it offers" : line(whyOut(agent))}</span>
      <${Actions} ...${{ state, ask }} /></div>
    ${asked && html`<${Confirm} ...${deeds(feed, agentId, agent)[asked]} close=${() => ask(null)} />`}
    <div class="two">
      <div class="stack"><${Circuits} ...${{ agent, readAt: state.readAt.health ?? now, now }} /><${Failures} failures=${failures} /></div>
      <div class="stack"><${Facts} ...${{ known, agent }} /><${Schemas} capabilities=${known.capabilities} /></div>
    </div>`;
}

function Actions({ state, ask }) {
  return html`<div class="actions">
    ${
      may(state, "breakers:write") &&
      html`<button class="btn" onClick=${() => ask("reset")}>Reset circuits…</button>
    <button class="btn" onClick=${() => ask("open")}>Hold open…</button>
    <button class="btn" onClick=${() => ask("disable")}>Disable…</button>`
    }
    ${
      may(state, "agents:write") &&
      html`<button class="btn" onClick=${() => ask("drain")}>Drain…</button>
    <button class="btn stop" onClick=${() => ask("remove")}>Remove…</button>`
    }
  </div>`;
}

/** What each button does, in numbers of now. */
function deeds(feed, agentId, agent) {
  const name = line(agentId);
  const path = encodeURIComponent(agentId);
  const running = `${plural(agent.taken, "task")} that it has now ${agent.taken === 1 ? "goes" : "go"} on.`;
  const act = (call) => async () => {
    await call();
    feed.read("health");
    feed.read("agents");
  };
  return {
    reset: {
      question: `Reset the circuits of ${name}?`,
      effects: [
        "They close, and it gets tasks again at once.",
        "If it is still broken, its circuits open again after the next failures.",
      ],
      deed: "Reset circuits",
      act: act(() => feed.api.post(`/api/circuit-breaker/reset/${path}`)),
    },
    open: {
      question: `Hold the circuits of ${name} open?`,
      effects: ["It gets no new task until someone resets or disables it.", running, "Undo it with Reset circuits."],
      deed: "Hold open",
      act: act(() => feed.api.post(`/api/circuit-breaker/open/${path}`)),
    },
    disable: {
      question: `Disable the circuits of ${name}?`,
      effects: ["It gets tasks whatever becomes of them: no failure opens a circuit.", "Undo it with Reset circuits."],
      deed: "Disable",
      act: act(() => feed.api.post(`/api/circuit-breaker/disable/${path}`)),
    },
    drain: {
      question: `Drain ${name}?`,
      effects: ["It gets no new task.", running, "It gets tasks again when it registers anew."],
      deed: "Drain",
      act: act(() => feed.api.post(`/ains/agents/${path}/drain`, {})),
    },
    remove: {
      question: `Remove ${name}?`,
      effects: [
        "The registry forgets it. Tasks that it has now go to other agents if they may be done twice.",
        "It comes back when it registers anew.",
      ],
      deed: "Remove",
      act: act(() => feed.api.delete(`/ains/agents/${path}`)),
    },
  };
}

function Circuits({ agent, readAt, now }) {
  return html`<section class="panel"><header><h2>Circuits</h2></header><table class="list rows"><thead><tr><th>Circuit</th><th>Capability</th><th class="num">Latency</th><th>Why it is out</th><th>Next probe</th></tr></thead>
    <tbody>${Object.entries(agent.capabilities).map(
      ([
        name,
        circuit,
      ]) => html`<tr key=${name}><td class="fit m-side"><${State} name=${glyphOf(circuit)} word=${wordOf(glyphOf(circuit))} /></td><td class="m-name"><span class="id">${line(name)}</span></td>
      <td class="num">${duration(circuit.latency_ms === null ? null : circuit.latency_ms / 1000)}</td><td class="m-line"><span class="cut">${line(circuit.reason || circuit.why_out) || UNKNOWN}</span></td>
      <td class="fit"><${Ring} ...${{ circuit, readAt, now }} /> ${nextProbe(circuit, readAt, now) || html`<span class="soft">${UNKNOWN}</span>`}</td></tr>`,
    )}</tbody></table></section>`;
}

function Facts({ known, agent }) {
  const facts = [
    ["Slots", `${agent.taken} of ${agent.slots} used`],
    [
      "Attempts",
      html`${agent.success_count + agent.failure_count} · <${Figure} value=${percent(agent.success_rate)} unit=${agent.success_rate === null ? "" : "%"} /> succeeded`,
    ],
    ["Latency", duration(agent.latency_ms === null ? null : agent.latency_ms / 1000)],
    [
      "Endpoint",
      known.endpoint
        ? html`<span class="id" title=${known.endpoint}>${line(known.endpoint)}</span>`
        : "in the server's own process",
    ],
    [
      "Labels",
      Object.entries(known.labels)
        .map(([key, value]) => `${key}=${value}`)
        .map(line)
        .join(" ") || UNKNOWN,
    ],
    ["Registered", html`<${Moment} at=${known.registered_at} /> UTC`],
    ["Tenant", known.tenant ? line(known.tenant) : "another one, shared"],
  ];
  return html`<section class="panel"><header><h2>About</h2></header><dl class="kv body">${facts.map(([name, value]) => html`<dt>${name}</dt><dd class="cut">${value}</dd>`)}</dl></section>`;
}

function Schemas({ capabilities }) {
  return html`<section class="panel"><header><h2>Capabilities</h2></header><ul class="rows plain">${capabilities.map(
    (
      one,
    ) => html`<li key=${one.name}><div><p><span class="id">${line(one.name)}</span> <span class="soft">${line(one.version)}</span></p>
    <p class="second">${one.timeout_s ? `at most ${duration(one.timeout_s)} an attempt` : "time of an attempt measured"} · ${one.input_schema ? "with an input schema" : "takes any params"}</p></div></li>`,
  )}</ul></section>`;
}

function Failures({ failures }) {
  return html`<section class="panel"><header><h2>Its latest failures</h2></header>${failures.length ? html`<ul class="rows">${failures.slice(0, 20).map((failure) => html`<li key=${failure.task_id + failure.timestamp}><${Glyph} name=${failure.outcome === "TASK_FAILED" ? "FAILED" : "FAILOVER"} /><div><p class="cut"><span class="id">${failure.outcome}</span> <span class="soft">·</span> ${line(failure.reason)}</p><p class="second cut"><a class="id" href=${`#/runs/${failure.task_id.split(".")[0]}?task=${encodeURIComponent(failure.task_id.split(".").slice(1).join("."))}`}>${line(failure.capability)}</a></p></div><${Moment} at=${failure.timestamp} /></li>`)}</ul>` : html`<p class="body soft">None among the newest 100 of all agents.</p>`}</section>`;
}
