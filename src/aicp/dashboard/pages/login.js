// Sign in with a key, in exchange for a session.

import { sessionOfKey } from "../live/session.js";
import { Icon } from "../parts/glyphs.js";
import { Code } from "../parts/states.js";
import { html, useState } from "../parts/view.js";

export function Login({ enter, notice }) {
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const key = String(new FormData(event.target).get("key")).trim();
    setBusy(true);
    setProblem("");
    try {
      enter(await sessionOfKey(key));
    } catch (error) {
      setProblem(
        error.status === 401 ? "This key opens nothing here. It may be mistyped, revoked or expired." : error.message,
      );
      setBusy(false);
    }
  };
  return html`<main class="door"><div class="card">
    <p class="brand"><${Icon} name="brand" />AICP</p>
    ${notice && html`<section class="notice is-warn" role="status"><div><p class="strong">${notice}</p></div></section>`}
    <form class="panel" onSubmit=${submit}>
      <h1>Sign in</h1>
      <div class="field"><label for="key">API key</label><input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required aria-describedby="key-hint" /><span class="hint" id="key-hint">It is exchanged for a session of 12 hours, which stays in this tab.</span>${problem && html`<span class="wrong" role="alert">${problem}</span>`}</div>
      <button class="btn first" disabled=${isBusy}>${isBusy ? "Signing in…" : "Sign in"}</button>
    </form>
    <div class="stack tight"><p class="mid">Where AICP is installed, this opens the page without a key to enter:</p><${Code} text="aicp dashboard" /></div>
  </div></main>`;
}
