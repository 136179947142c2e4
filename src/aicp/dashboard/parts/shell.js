// What stands around every page: navigation, connection, theme, sign-out.

import { duration } from "./figures.js";
import { isReady } from "./fleet.js";
import { Glyph, Icon } from "./glyphs.js";
import { may, tenantOf } from "./rights.js";
import { line } from "./text.js";
import { html, useEffect } from "./view.js";

const STALE_AFTER_MS = 5_000;
const OFFLINE_AFTER_MS = 15_000;
/** @type {[place: string, word: string, icon: string][]} */
const PLACES = [
  ["overview", "Overview", "overview"],
  ["fleet", "Fleet", "fleet"],
  ["runs", "Runs", "runs"],
  ["queues", "Queues", "queues"],
  ["failures", "Failures", "failures"],
];
/** @type {[place: string, word: string, icon: string][]} */
const REST = [
  ["try", "Try it", "tryit"],
  ["events", "Events", "events"],
  ["keys", "Keys and audit", "keys"],
  ["about", "About", "about"],
];
const BELONGS = { agents: "fleet", run: "runs" };
const THEME = "aicp.theme";

export function Shell({ state, now, route, leave, children }) {
  const silentMs = state.connection.answeredAt ? now - state.connection.answeredAt : 0;
  const isStale = silentMs > STALE_AFTER_MS;
  const here = BELONGS[route.page] ?? route.page;
  const out = state.health ? Object.values(state.health.agents).filter((agent) => !isReady(agent)).length : 0;
  useEffect(() => {
    document.title = `${out ? `(${out} out) ` : ""}${titleOf(here)} · AICP`;
  }, [out, here]);
  const item = ([place, word, icon]) =>
    html`<li key=${place} class=${place === "queues" ? "narrow-hide" : ""}><a href=${`#/${place}`} title=${word} aria-current=${place === here ? "page" : undefined}><${Icon} name=${icon} /><span class="word">${word}</span>${place === "fleet" && out > 0 && html`<span class="count is-bad" title=${`${out} agents out`}>${out}</span>`}</a></li>`;
  return html`<a class="skip" href="#main" onClick=${(event) => {
    event.preventDefault();
    document.getElementById("main")?.focus();
  }}>Skip to content</a>
    <div class="shell" data-stale=${isStale ? "" : undefined}>
      <nav class="nav" aria-label="Main">
        <a class="brand" href="#/overview" aria-label="AICP, overview"><${Icon} name="brand" /><span class="word">AICP</span></a>
        <div class="lists stack"><ul>${PLACES.map(item)}<li class="more"><a href="#/more" title="More" aria-current=${REST.some(([place]) => place === here) || here === "more" ? "page" : undefined}><${Icon} name="more" /><span class="word">More</span></a></li></ul><ul class="rest">${restOf(state).map(item)}</ul></div>
        <div class="foot">${state.reader && html`<p class="tenant"><span class="strong cut">${line(tenantOf(state.reader))}</span><span class="soft small cut">${state.reader.scopes.includes("admin") ? "Admin key" : "Key"}${state.reader.expires_at ? `, ends in ${left(state.reader.expires_at, now)}` : ""}</span></p>`}<ul><li><${ThemeSwitch} /></li><li><a href="#/overview" role="button" title="Sign out" onClick=${(
          event,
        ) => {
          event.preventDefault();
          leave();
        }}><${Icon} name="out" /><span class="word">Sign out</span></a></li></ul></div>
      </nav>
      <header class="bar"><a class="brand only-narrow" href="#/overview" aria-label="AICP"><${Icon} name="brand" /></a><div class="end"><time class="soft small clock">${new Date(now).toISOString().slice(11, 19)} UTC</time><${Connection} ...${{ state, silentMs, isStale }} /></div></header>
      <main class="main" id="main" tabindex="-1">${silentMs > OFFLINE_AFTER_MS && html`<${Offline} answeredAt=${state.connection.answeredAt} />`}${children}</main>
    </div>`;
}

/** On a narrow screen, the places that have no room at its foot. */
export function More({ state, leave }) {
  const places = [...PLACES.filter(([place]) => place === "queues"), ...restOf(state)];
  return html`<div class="head"><h1>More</h1></div><section class="panel narrow"><ul class="rows">${places.map(([place, word, icon]) => html`<li key=${place}><${Icon} name=${icon} /><a href=${`#/${place}`}>${word}</a></li>`)}</ul></section>
    <div class="row"><button class="btn" onClick=${turnTheme}>Switch theme</button><button class="btn" onClick=${leave}>Sign out</button></div>`;
}

/** How long a key is good, in its largest unit. */
const left = (expiresAt, now) => duration(Math.max(0, (Date.parse(expiresAt) - now) / 1000)).split(" ")[0];

/** Places that the reader may open. */
const restOf = (state) => REST.filter(([place]) => place !== "keys" || may(state, "admin"));

const titleOf = (place) => [...PLACES, ...REST].find(([name]) => name === place)?.[1] ?? "AICP";

function Connection({ state, silentMs, isStale }) {
  if (isStale)
    return html`<span class="conn lost" role="status"><${Glyph} name="LOST" />${silentMs > OFFLINE_AFTER_MS ? "Offline for" : "Reconnecting,"} ${duration(silentMs / 1000)}</span>`;
  if (!state.connection.answeredAt) return html`<span class="conn" role="status">Connecting…</span>`;
  return html`<span class="conn" title=${`Last answer ${duration(silentMs / 1000)} ago`}><${Glyph} name="LINKED" />Live</span>`;
}

function Offline({ answeredAt }) {
  return html`<section class="notice notice-stale is-bad" role="alert"><${Glyph} name="LOST" /><div><p class="strong">The server does not answer.</p><p class="mid">What you see is as of ${new Date(answeredAt).toISOString().slice(11, 19)} UTC. The page tries again by itself, at most 10 s apart.</p></div></section>`;
}

const wantedTheme = () =>
  localStorage.getItem(THEME) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
document.documentElement.dataset.theme = wantedTheme();

function turnTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem(THEME, next);
  document.documentElement.dataset.theme = next;
}

function ThemeSwitch() {
  const turn = (event) => {
    event.preventDefault();
    turnTheme();
  };
  return html`<a href="#/overview" role="button" title="Switch theme" onClick=${turn}><${Icon} name="theme" /><span class="word">Switch theme</span></a>`;
}
