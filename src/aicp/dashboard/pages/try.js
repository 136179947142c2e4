// Give a capability a task and watch it: the first thing a newcomer does.
import { between, duration } from "../parts/figures.js";
import { capabilitiesOf } from "../parts/fleet.js";
import { Glyph, State } from "../parts/glyphs.js";
import { Json } from "../parts/json.js";
import { may } from "../parts/rights.js";
import { hasEnded } from "../parts/run.js";
import { Code, Empty, Loading } from "../parts/states.js";
import { line } from "../parts/text.js";
import { html, useEffect, useState } from "../parts/view.js";

const LOOK_EVERY_MS = 500;

export function Try({ state, feed }) {
  const { health, agents } = state;
  const [chosen, choose] = useState("");
  const [text, setText] = useState(null);
  const [task, setTask] = useState(null);
  const [problem, setProblem] = useState("");
  useTask(feed, task, setTask);
  if (!health || !agents) return html`<${Loading} trouble=${state.trouble.agents} />`;
  if (state.reader && !may(state, "tasks:submit"))
    return html`<div class="head"><h1>Try it</h1></div><${Empty} title="Not with this key">It may not submit tasks: that takes the scope <code>tasks:submit</code>.<//>`;
  const names = capabilitiesOf(health);
  if (!names.length)
    return html`<div class="head"><h1>Try it</h1></div><${Empty} title="Nothing to try yet">No agent offers a capability. <a class="link" href="#/overview">How to start one</a><//>`;
  const capability = names.includes(chosen) ? chosen : names[0];
  const schema = agents
    .flatMap((agent) => agent.capabilities)
    .find((one) => one.name === capability.split("@")[0])?.input_schema;
  const params = text ?? JSON.stringify(sample(schema), null, 2);
  const submit = async (event) => {
    event.preventDefault();
    setProblem("");
    setTask(null);
    try {
      setTask(await feed.api.post("/api/tasks?wait_s=0.2", { capability, params: JSON.parse(params) }));
    } catch (error) {
      setProblem(error instanceof SyntaxError ? `The params are not JSON: ${error.message}` : error.message);
    }
  };
  return html`<div class="head"><h1>Try it</h1><p class="mid">One task, with its result here. It is a run like any other.</p></div>
    <div class="two even">
      <form class="panel" onSubmit=${submit}><div class="body stack tight">
        <div class="field"><label for="capability">Capability</label><select id="capability" value=${capability} onChange=${(
          event,
        ) => {
          choose(event.target.value);
          setText(null);
        }}>${names.map((name) => html`<option value=${name}>${line(name)}</option>`)}</select></div>
        <div class="field"><label for="params">Params</label><textarea id="params" class="mono" rows="9" spellcheck="false" value=${params} onInput=${(event) => setText(event.target.value)}></textarea><span class="hint">${schema ? "JSON; filled in from the schema of the capability." : "A JSON object; this capability takes any."}</span></div>
        ${problem && html`<p class="wrong" role="alert">${problem}</p>`}
        <div><button class="btn first">Submit task</button></div>
        <${Code} text=${`curl -H "Authorization: Bearer $AICP_API_KEY" -H "Content-Type: application/json" -d '${JSON.stringify({ capability, params: safe(params) })}' "${location.origin}/api/tasks?wait_s=30"`} />
      </div></form>
      <section class="panel"><header><h2>What happened</h2></header>${task ? html`<${Outcome} task=${task} />` : html`<p class="body soft">Nothing yet: submit the task.</p>`}</section>
    </div>`;
}

function useTask(feed, task, setTask) {
  const isOpen = task !== null && !hasEnded(task);
  useEffect(() => {
    if (!isOpen) return undefined;
    const stop = new AbortController();
    const timer = setInterval(
      () => feed.api.get(`/api/tasks/${encodeURIComponent(task.task_id)}`, stop.signal).then(setTask, () => {}),
      LOOK_EVERY_MS,
    );
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, [isOpen, task?.task_id]);
}

function Outcome({ task }) {
  const [chain, ...id] = task.task_id.split(".");
  return html`<div class="body stack tight"><p class="row"><${State} name=${task.status} /><a class="link" href=${`#/runs/${chain}?task=${encodeURIComponent(id.join("."))}`}>Open the run</a></p>
    <ol class="track">${(task.attempts ?? []).map((one) => html`<li key=${one.number}><${Glyph} name=${one.outcome === "SUCCESS" ? "COMPLETED" : "FAILED"} label=${one.outcome} /><span><span class="id">${line(one.agent_id)}</span> <span class="soft">·</span> ${one.outcome}</span><span class="num">${duration(between(one.started_at, one.ended_at))}</span>${one.reason && html`<span class="second">${line(one.reason)}</span>`}</li>`)}</ol>
    ${task.error && html`<p class="wrong">${line(task.error.code)}: ${line(task.error.message)}</p>`}${task.status === "COMPLETED" && html`<${Json} value=${task.result} />`}</div>`;
}

const safe = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
};

/** A value that fits a schema as far as it says what it wants. */
function sample(schema) {
  const examples = { string: "", number: 0, integer: 0, boolean: false, array: [], null: null };
  if (schema?.default !== undefined) return schema.default;
  if (schema?.examples?.length) return schema.examples[0];
  if (schema?.enum?.length) return schema.enum[0];
  if (schema?.properties)
    return Object.fromEntries(Object.entries(schema.properties).map(([name, one]) => [name, sample(one)]));
  return examples[schema?.type] ?? {};
}
