// A confirmation: the deed as a question, its effects, how it is undone. The way back has the focus.
import { Icon } from "./glyphs.js";
import { html, useLayoutEffect, useRef, useState } from "./view.js";

/** @param {{question: string, effects: string[], deed: string, act: () => Promise<void>, close: () => void}} props */
export function Confirm({ question, effects, deed, act, close }) {
  const dialog = useRef(null);
  const [state, setState] = useState({ isBusy: false, problem: "" });
  useLayoutEffect(() => dialog.current.showModal(), []);
  const go = async (event) => {
    event.preventDefault();
    setState({ isBusy: true, problem: "" });
    try {
      await act();
      close();
    } catch (error) {
      setState({ isBusy: false, problem: error.message });
    }
  };
  return html`<dialog ref=${dialog} aria-labelledby="question" onClose=${close}>
    <form onSubmit=${go}>
      <h2 id="question">${question}</h2>
      <ul class="effects">${effects.map((effect) => html`<li><${Icon} name="down" />${effect}</li>`)}</ul>
      ${state.problem && html`<p class="wrong" role="alert">${state.problem}</p>`}
      <div class="end"><button type="button" class="btn" autofocus onClick=${close}>Keep as it is</button><button class="btn stop sure" disabled=${state.isBusy}>${deed}</button></div>
    </form>
  </dialog>`;
}
