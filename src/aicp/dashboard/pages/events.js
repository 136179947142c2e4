// The live events as they came, newest first.
import { Moment } from "../parts/figures.js";
import { Empty } from "../parts/states.js";
import { line, tail } from "../parts/text.js";
import { html, useState } from "../parts/view.js";

const HIDDEN = new Set(["kind", "at", "id"]);
const SAID = new Set([...HIDDEN, "chain_id", "task_id"]);

export function Events({ state }) {
  const [held, hold] = useState(null);
  const [wanted, want] = useState("");
  const events = (held ?? state.events).filter((event) => !wanted || event.kind === wanted);
  const kinds = [...new Set(state.events.map((event) => event.kind))].sort();
  return html`<div class="head"><h1>Events</h1>${state.events.length > 0 && html`<p class="mid">The last ${state.events.length} since this page is open</p>`}<div class="actions"><button class="btn" onClick=${() => hold(held ? null : state.events)}>${held ? "Go on" : "Pause"}</button></div></div>
    <div class="filters"><select aria-label="Kind" value=${wanted} onChange=${(event) => want(event.target.value)}><option value="">Any kind</option>${kinds.map((kind) => html`<option>${kind}</option>`)}</select></div>
    ${
      events.length
        ? html`<section class="panel"><table class="list"><thead><tr><th>Time (UTC)</th><th>Kind</th><th>What</th></tr></thead>
      <tbody>${events.slice(0, 200).map((event) => html`<tr key=${event.id + event.kind}><td class="fit m-side"><${Moment} at=${event.at} /></td><td class="fit m-name"><span class="id">${line(event.kind)}</span></td><td class="wide m-line"><span class="cut" title=${told(event)}><${What} event=${event} /></span></td></tr>`)}</tbody></table></section>`
        : html`<${Empty} title="Quiet">Events appear here as they happen: tasks, attempts, circuits, agents.<//>`
    }`;
}

/** Who and what an event is about: its task by a link, then its other fields. */
function What({ event }) {
  const [chain, ...task] = String(event.task_id ?? event.chain_id ?? "").split(".");
  const address = `#/runs/${chain}${task.length ? `?task=${encodeURIComponent(task.join("."))}` : ""}`;
  return html`${event.chain_id && html`<a class="id" href=${address}>${[tail(chain), ...task.map(line)].join(".")}</a> `}<span class="id">${told(event, SAID)}</span>`;
}

/** The fields of an event as text. */
const told = (event, hidden = HIDDEN) =>
  Object.entries(event)
    .filter(([field]) => !hidden.has(field))
    .map(([field, value]) => `${field}=${line(typeof value === "object" ? JSON.stringify(value) : value)}`)
    .join(" ");
