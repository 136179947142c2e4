// The newest runs: how they stand, with a filter by status; pages by cursor, never a list that grows.
import { between, duration, Moment, UNKNOWN } from "../parts/figures.js";
import { State } from "../parts/glyphs.js";
import { may } from "../parts/rights.js";
import { Empty, Loading, Trouble } from "../parts/states.js";
import { line, tail } from "../parts/text.js";
import { html, useEffect, useState } from "../parts/view.js";

const STATUSES = ["PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"];
const PAGE = 50;

export function Runs({ state, feed, now, route, go }) {
  const { status = "", cursor = "" } = route.query;
  const isNewest = !status && !cursor;
  const [page, setPage] = useState(null);
  const changed = isNewest ? "" : state.runs;
  useEffect(() => {
    if (isNewest) return setPage(null);
    const stop = new AbortController();
    const query = new URLSearchParams({ limit: String(PAGE), ...(status && { status }), ...(cursor && { cursor }) });
    feed.api
      .get(`/api/tasks/chain?${query}`, stop.signal)
      .then(setPage, (error) => stop.signal.aborted || setPage({ trouble: error.message }));
    return () => stop.abort();
  }, [status, cursor, changed]);
  const runs = isNewest ? state.runs?.slice(0, PAGE) : page?.chains;
  const next = isNewest ? state.runs?.[PAGE - 1]?.chain_id : page?.next_cursor;
  const running = state.runs?.filter((run) => run.status === "RUNNING").length ?? 0;
  return html`<div class="head"><h1>Runs</h1><p class="mid">${running ? `${running} running among the newest ${state.runs.length}` : "none of the newest is running"}</p>${may(state, "tasks:submit") && html`<div class="actions"><a class="btn first" href="#/try">Try a capability</a></div>`}</div>
    <div class="filters" role="search"><select aria-label="Status" value=${status} onChange=${(event) => go(event.target.value ? `#/runs?status=${event.target.value}` : "#/runs")}><option value="">Any status</option>${STATUSES.map((name) => html`<option value=${name}>${name.charAt(0) + name.slice(1).toLowerCase()}</option>`)}</select></div>
    ${page?.trouble ? html`<${Trouble} what="The runs could not be read." why=${page.trouble} next="" />` : !runs ? html`<${Loading} trouble=${state.trouble.runs} />` : !runs.length ? html`<${Nothing} ...${{ status, go }} />` : html`<${List} ...${{ runs, now, next, status, cursor }} />`}`;
}

function Nothing({ status, go }) {
  return status
    ? html`<${Empty} title=${`No run is ${status.toLowerCase()} here`}><button class="btn" onClick=${() => go("#/runs")}>Clear filters</button><//>`
    : html`<${Empty} title="No run yet">A run is a chain of tasks, or a task on its own. <a class="link" href="#/try">Try a capability</a>, or run a chain file: <code>aicp chain run my-chain.yaml</code>.<//>`;
}

function List({ runs, now, next, status, cursor }) {
  const more = new URLSearchParams({ ...(status && { status }), cursor: next ?? "" });
  return html`<section class="panel"><table class="list">
    <thead><tr><th>Status</th><th>Run</th><th class="only-narrow"></th><th class="num">Tasks</th><th class="mid-hide">Retry of</th><th class="num">Submitted (UTC)</th><th class="num">Duration</th></tr></thead>
    <tbody>${runs.map(
      (run) => html`<tr key=${run.chain_id} class="go">
      <td class="fit m-side"><${State} name=${run.status} /></td>
      <td class="m-name"><span class="cut"><a class="strong" href=${`#/runs/${run.chain_id}`} title=${run.chain_id}>${line(run.name) || "task"}</a> <span class="id soft">${tail(run.chain_id)}</span></span></td>
      <td class="m-line only-narrow">${run.total_tasks} tasks · ${duration(between(run.started_at, run.ended_at ?? now))}</td>
      <td class="num">${run.total_tasks}</td>
      <td class="mid-hide">${run.retry_of ? html`<a class="id" href=${`#/runs/${run.retry_of}`}>${tail(run.retry_of)}</a>` : html`<span class="soft">${UNKNOWN}</span>`}</td>
      <td class="num"><${Moment} at=${run.started_at} /></td>
      <td class="num">${duration(between(run.started_at, run.ended_at ?? now))}</td></tr>`,
    )}</tbody></table>
    <footer>${cursor && html`<a class="btn" href=${status ? `#/runs?status=${status}` : "#/runs"}>Newest</a>`}<span class="end">${next && html`<a class="btn" href=${`#/runs?${more}`}>Older</a>`}</span></footer></section>`;
}
