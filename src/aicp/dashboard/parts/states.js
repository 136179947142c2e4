// What a page shows before, instead of and beside its content.
import { Glyph, Icon } from "./glyphs.js";
import { html, useState } from "./view.js";

/** Bars in the shape of rows, or what keeps the page from being read. */
export function Loading({ trouble = "" }) {
  if (trouble)
    return html`<${Trouble} what="This could not be read." why=${trouble} next="It is tried again by itself." />`;
  return html`<div class="panel" aria-busy="true" aria-label="Loading"><div class="body stack tight"><span class="skeleton w60"></span><span class="skeleton w80"></span><span class="skeleton w60"></span></div></div>`;
}

/** In the place of what failed: what, why, what happens next. */
export function Trouble({ what, why, next }) {
  return html`<section class="notice is-bad" role="alert"><${Glyph} name="LOST" /><div><p class="strong">${what}</p><p class="mid">${why} ${next}</p></div></section>`;
}

/** Nothing to show, and how to change that. */
export function Empty({ title, children }) {
  return html`<section class="panel"><div class="body stack tight"><h2>${title}</h2><p class="mid">${children}</p></div></section>`;
}

/** A command or text to copy. */
export function Code({ text }) {
  const [isCopied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard?.writeText(text);
    setCopied(true);
  };
  return html`<div class="code"><pre>${text}</pre><button class="btn quiet" type="button" aria-label=${isCopied ? "Copied" : "Copy"} onClick=${copy}><${Icon} name=${isCopied ? "check" : "copy"} /></button></div>`;
}
