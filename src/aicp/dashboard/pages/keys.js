// Keys that open the server, and who changed what with them.
import { Confirm } from "../parts/dialog.js";
import { Moment, UNKNOWN } from "../parts/figures.js";
import { may } from "../parts/rights.js";
import { Empty, Loading, Trouble } from "../parts/states.js";
import { line, short, whole } from "../parts/text.js";
import { html, useEffect, useState } from "../parts/view.js";

const PAGE = 100;
const KEYS_SHOWN = 200;

export function Keys({ state, feed, now, route }) {
  const [asked, ask] = useState(null);
  const { cursor = "" } = route.query;
  const { keys, audit, trouble, read } = useKeys(feed, cursor, may(state, "admin"));
  if (state.reader && !may(state, "admin"))
    return html`<div class="head"><h1>Keys and audit</h1></div><${Empty} title="Not with this key">Keys and the audit log are shown to a key with the scope <code>admin</code>.<//>`;
  if (trouble)
    return html`<${Trouble} what="The keys could not be read." why=${trouble} next="Open the page again." />`;
  if (!keys || !audit) return html`<${Loading} />`;
  const revoke = async () => {
    await feed.api.post(`/api/keys/${encodeURIComponent(asked.key_id)}/revoke`);
    read();
  };
  return html`<div class="head"><h1>Keys and audit</h1></div>
    ${asked && html`<${Confirm} question=${`Revoke ${line(asked.name)}?`} effects=${["It opens nothing any more, from now on, nor do the sessions that came from it.", "What was submitted with it goes on.", "It cannot be undone: make a new key."]} deed="Revoke" act=${revoke} close=${() => ask(null)} />`}
    <${KeyList} ...${{ keys, now, ask }} /><${Audit} ...${{ audit, cursor }} />`;
}

function useKeys(feed, cursor, isAllowed) {
  const [found, setFound] = useState({ keys: null, audit: null, trouble: "" });
  const [round, setRound] = useState(0);
  useEffect(() => {
    if (!isAllowed) return undefined;
    const stop = new AbortController();
    const query = new URLSearchParams({ limit: String(PAGE), ...(cursor && { cursor }) });
    Promise.all([feed.api.get("/api/keys", stop.signal), feed.api.get(`/api/audit?${query}`, stop.signal)]).then(
      ([{ keys }, audit]) => setFound({ keys, audit, trouble: "" }),
      (error) => stop.signal.aborted || setFound((before) => ({ ...before, trouble: error.message })),
    );
    return () => stop.abort();
  }, [cursor, round, isAllowed]);
  return { ...found, read: () => setRound((before) => before + 1) };
}

function KeyList({ keys, now, ask }) {
  const sorted = [...keys].sort(
    (a, b) => Number(isOver(a, now)) - Number(isOver(b, now)) || a.name.localeCompare(b.name),
  );
  return html`<section class="panel"><header><h2>Keys</h2><div class="end"><span class="small soft">Make one with <code>aicp key create</code></span></div></header>
    ${
      keys.length
        ? html`<table class="list"><thead><tr><th>Name</th><th class="only-narrow"></th><th>Id</th><th>Tenant</th><th>Scopes</th><th class="num mid-hide">Made (UTC)</th><th class="num">Ends (UTC)</th><th class="act"><span class="vh">Actions</span></th></tr></thead>
    <tbody>${sorted.slice(0, KEYS_SHOWN).map((key) => html`<${KeyRow} key=${key.key_id} ...${{ one: key, now, ask }} />`)}</tbody></table>${keys.length > KEYS_SHOWN && html`<footer>The first ${KEYS_SHOWN} of ${whole(keys.length)} keys, those that are good first. <code>aicp key list</code> shows all.</footer>`}`
        : html`<p class="body soft">None but the admin key of the data directory, which is in no list.</p>`
    }</section>`;
}

const isOver = (key, now) => Boolean(key.revoked_at) || (key.expires_at !== null && Date.parse(key.expires_at) <= now);

function KeyRow({ one, now, ask }) {
  const ended = isOver(one, now);
  const scopes = one.scopes.join(" ");
  return html`<tr><td class="m-name"><span class=${ended ? "cut soft" : "cut strong"} title=${one.name}>${line(one.name)}</span>${one.kind === "session" && html`<span class="second">session</span>`}</td>
    <td class="m-line only-narrow">${line(one.tenant)} · ${line(scopes)}</td><td><span class="id" title=${one.key_id}>${line(one.key_id)}</span></td><td>${line(one.tenant)}</td>
    <td class="wide"><span class="cut id" title=${scopes}>${line(scopes)}</span></td><td class="num mid-hide"><${Moment} at=${one.created_at} seconds=${false} /></td>
    <td class="num">${one.revoked_at ? html`revoked <${Moment} at=${one.revoked_at} seconds=${false} />` : one.expires_at ? html`<${Moment} at=${one.expires_at} seconds=${false} />` : html`<span class="soft">never</span>`}</td>
    <td class="act m-side">${ended ? html`<span class="soft small">ended</span>` : html`<button class="btn quiet stop" aria-label=${`Revoke ${line(one.name)}`} onClick=${() => ask(one)}>Revoke…</button>`}</td></tr>`;
}

function Audit({ audit, cursor }) {
  return html`<section class="panel"><header><h2>Who changed what</h2></header>${
    audit.records.length
      ? html`<table class="list"><thead><tr><th>Action</th><th class="only-narrow"></th><th>Object</th><th>Key</th><th>Tenant</th><th class="num">Answer</th><th class="num">Time (UTC)</th></tr></thead>
    <tbody>${audit.records.map(
      (
        one,
      ) => html`<tr key=${one.number}><td class="m-name"><span class="id">${line(one.action)}</span>${one.count > 1 && html` <span class="count">×${whole(one.count)}</span>`}</td><td class="m-line only-narrow">${line(one.key_id) || "no key"} · ${short(one.object_id)}</td>
      <td class="wide"><span class="cut id" title=${one.object_id}>${one.object_id ? short(one.object_id) : html`<span class="soft">${UNKNOWN}</span>`}</span></td><td><span class="id">${line(one.key_id) || html`<span class="soft">${UNKNOWN}</span>`}</span></td><td>${line(one.tenant) || html`<span class="soft">${UNKNOWN}</span>`}</td>
      <td class=${one.status >= 400 ? "num wrong" : "num"}>${one.status}</td><td class="num m-side"><${Moment} at=${one.at} /></td></tr>`,
    )}</tbody></table>
    <footer>${cursor && html`<a class="btn" href="#/keys">Newest</a>`}<span class="end">${audit.next_cursor && html`<a class="btn" href=${`#/keys?cursor=${encodeURIComponent(audit.next_cursor)}`}>Older</a>`}</span></footer>`
      : html`<p class="body soft">Nothing was changed over HTTP yet.</p>`
  }</section>`;
}
