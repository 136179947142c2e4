// What server this is, and how the page stands to it.
import { duration, Moment } from "../parts/figures.js";
import { rightsOf, tenantOf } from "../parts/rights.js";
import { Loading } from "../parts/states.js";
import { line } from "../parts/text.js";
import { html } from "../parts/view.js";

export function About({ state, now }) {
  const { info, reader } = state;
  if (!info) return html`<${Loading} trouble=${state.trouble.info} />`;
  const facts = [
    ["Version", line(info.version)],
    ["Record", info.durable ? `on disk (${line(info.journal)})` : "in memory: it ends with the process"],
    ["Unfinished tasks", info.unfinished_tasks.toLocaleString("en-US")],
    ["Last answer", `${duration((now - state.connection.answeredAt) / 1000)} ago`],
  ];
  return html`<div class="head"><h1>About</h1></div>
    <section class="panel narrow"><header><h2>This server</h2></header><dl class="kv body">${facts.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl></section>
    ${reader && html`<section class="panel narrow"><header><h2>Your key</h2></header><dl class="kv body"><dt>Tenant</dt><dd>${line(tenantOf(reader))}</dd><dt>May</dt><dd>${line(rightsOf(reader))}</dd><dt>Key</dt><dd class="id">${line(reader.key_id)}</dd><dt>Ends</dt><dd>${reader.expires_at ? html`<${Moment} at=${reader.expires_at} /> UTC` : "never"}</dd></dl></section>`}
    <section class="panel narrow"><header><h2>More</h2></header><ul class="rows plain"><li><div><a class="link" href="/docs">The HTTP API</a><p class="second">Every route, with its parameters, bounds and refusals.</p></div></li><li><div><a class="link" href="vendor/LICENSES.txt">Licences</a><p class="second">Of what this page is made with.</p></div></li></ul></section>`;
}
