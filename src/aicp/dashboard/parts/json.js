// A JSON value as text, at most so much of it at once.
import { lines, whole } from "./text.js";
import { html, useState } from "./view.js";

const SHOWN_CHARS = 4_000;

export function Json({ value }) {
  const [isWhole, setWhole] = useState(false);
  const text = JSON.stringify(value, null, 2) ?? "null";
  const shown = isWhole ? text : text.slice(0, SHOWN_CHARS);
  return html`<pre class="json">${lines(shown)}</pre>${text.length > shown.length && html`<button class="btn" onClick=${() => setWhole(true)}>Show all ${whole(text.length)} characters</button>`}`;
}
