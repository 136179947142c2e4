// What waits for which capability, how long, and what was refused.
import { Count, duration, Figure, UNKNOWN } from "../parts/figures.js";
import { Empty, Loading } from "../parts/states.js";
import { line, plural } from "../parts/text.js";
import { html } from "../parts/view.js";

export function Queues({ state }) {
  const { status } = state;
  if (!status) return html`<${Loading} trouble=${state.trouble.status} />`;
  const lines = Object.entries(status.by_capability).sort(
    ([a, one], [b, other]) => other.queue_depth - one.queue_depth || a.localeCompare(b),
  );
  return html`<div class="head"><h1>Queues</h1><p class="mid">${status.queue_depth ? `${plural(status.queue_depth, "task")} ${status.queue_depth === 1 ? "waits" : "wait"}, the oldest for ${duration(status.oldest_wait_s)}` : "No task waits"}</p></div>
    ${
      lines.length
        ? html`<section class="panel"><table class="list rows"><thead><tr><th>Capability</th><th class="only-narrow"></th><th class="only-narrow"></th><th class="num">Free slots</th><th class="num">Agents</th><th class="num">High</th><th class="num">Normal</th><th class="num">Low</th><th class="num">Oldest wait</th><th class="num mid-hide">Expected wait</th><th class="num mid-hide">Refused</th></tr></thead>
      <tbody>${lines.map(
        ([
          name,
          one,
        ]) => html`<tr key=${name}><td class="m-name"><span class="id">${line(name)}</span></td><td class="m-side only-narrow">${one.queue_depth ? plural(one.queue_depth, "waiting task") : html`<span class="soft">no wait</span>`}</td><td class="m-line only-narrow">${plural(one.free_slots, "free slot")} · ${one.usable} of ${plural(one.agents, "agent")} ready${one.queue_depth ? ` · oldest ${duration(one.oldest_wait_s)}` : ""}</td><td class="num"><${Count} value=${one.free_slots} /></td>
        <td class="num"><${Figure} value=${String(one.usable)} unit=${`/ ${one.agents}`} /></td>${["high", "normal", "low"].map((priority) => html`<td class="num"><${Count} value=${one.waiting[priority] ?? 0} /></td>`)}
        <td class="num">${one.queue_depth ? duration(one.oldest_wait_s) : html`<span class="soft">${UNKNOWN}</span>`}</td><td class="num mid-hide">${one.expected_wait_s ? duration(one.expected_wait_s) : html`<span class="soft">none</span>`}</td><td class="num mid-hide"><${Count} value=${one.refused} /></td></tr>`,
      )}</tbody></table></section>`
        : html`<${Empty} title="No capability yet">Each capability that an agent offers has a line here.<//>`
    }`;
}
