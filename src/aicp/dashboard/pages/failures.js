// The last attempts that did not succeed.
import { Moment } from "../parts/figures.js";
import { Glyph } from "../parts/glyphs.js";
import { Empty, Loading } from "../parts/states.js";
import { line, plural } from "../parts/text.js";
import { html } from "../parts/view.js";

export function Failures({ state }) {
  const { failures } = state;
  if (!failures) return html`<${Loading} trouble=${state.trouble.failures} />`;
  return html`<div class="head"><h1>Failures</h1>${failures.length > 0 && html`<p class="mid">The newest ${plural(failures.length, "attempt")} that did not succeed. Most tasks go on at another agent.</p>`}</div>
    ${
      failures.length
        ? html`<section class="panel"><table class="list"><thead><tr><th>Outcome</th><th>Agent</th><th class="only-narrow"></th><th>Capability</th><th>Reason</th><th class="mid-hide">Task</th><th class="num">Time (UTC)</th></tr></thead>
      <tbody>${failures.map(
        (
          failure,
        ) => html`<tr key=${failure.task_id + failure.agent_id + failure.timestamp} class="go"><td class="fit m-side"><span class="st"><${Glyph} name=${failure.outcome === "TASK_FAILED" ? "FAILED" : "FAILOVER"} /><span class="id">${failure.outcome}</span></span></td>
        <td class="m-name"><a class="id strong" href=${`#/agents/${encodeURIComponent(failure.agent_id)}`}>${line(failure.agent_id)}</a></td><td class="m-line only-narrow">${line(failure.capability)} · ${line(failure.reason)} · <${Moment} at=${failure.timestamp} /></td>
        <td><span class="id">${line(failure.capability)}</span></td><td class="wide"><span class="cut" title=${failure.reason}>${line(failure.reason)}</span></td>
        <td class="mid-hide"><${TaskLink} id=${failure.task_id} /></td><td class="num"><${Moment} at=${failure.timestamp} /></td></tr>`,
      )}</tbody></table></section>`
        : html`<${Empty} title="No failure">No attempt has failed since the server started.<//>`
    }`;
}

/** A task by its run; a direct call belongs to none. */
function TaskLink({ id }) {
  const [chain, ...rest] = id.split(".");
  return rest.length
    ? html`<a class="id" title=${id} href=${`#/runs/${chain}?task=${encodeURIComponent(rest.join("."))}`}>${chain.slice(-4)}.${line(rest.join("."))}</a>`
    : html`<span class="id soft" title=${id}>${line(id).slice(0, 12)}</span>`;
}
