// Sign in with a key. It stays in this tab and is gone when the tab is closed.
import { Icon } from "../parts/glyphs.js";
import { Api } from "../live/api.js";
import { Code } from "../parts/states.js";
import { html, useState } from "../parts/view.js";

export function Login({ enter, notice }) {
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const key = new FormData(event.target).get("key").trim();
    setBusy(true);
    setProblem("");
    try {
      await new Api(key).get("/api/info");
      enter(key);
    } catch (error) {
      setProblem(error.status === 401 ? "This key opens nothing here. It may be mistyped, revoked or expired." : error.message);
      setBusy(false);
    }
  };
  return html`<main class="door"><div class="card">
    <p class="brand"><${Icon} name="brand" />AICP</p>
    ${notice && html`<section class="notice is-warn" role="status"><div><p class="strong">${notice}</p></div></section>`}
    <form class="panel" onSubmit=${submit}>
      <h1>Sign in</h1>
      <div class="field"><label for="key">API key</label><input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required aria-describedby="key-hint" /><span class="hint" id="key-hint">It stays in this tab, and is gone when you close it.</span>${problem && html`<span class="wrong" role="alert">${problem}</span>`}</div>
      <button class="btn first" disabled=${isBusy}>${isBusy ? "Signing in…" : "Sign in"}</button>
    </form>
    <div class="stack tight"><p class="mid">On the machine that runs the server, the first key is a file:</p><${Code} text="cat $AICP_DATA_DIR/admin.key" /></div>
  </div></main>`;
}
