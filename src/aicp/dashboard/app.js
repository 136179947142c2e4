// The page: signs in, follows the server, and shows the place that the address names.
import { Feed } from "./live/feed.js";
import { apiOf, dropSession, endSession, keepSession, keptSession, sessionOfCode, takeCode } from "./live/session.js";
import { Store } from "./live/store.js";
import { About } from "./pages/about.js";
import { Agent } from "./pages/agent.js";
import { Events } from "./pages/events.js";
import { Failures } from "./pages/failures.js";
import { Fleet } from "./pages/fleet.js";
import { Keys } from "./pages/keys.js";
import { Login } from "./pages/login.js";
import { Overview } from "./pages/overview.js";
import { Queues } from "./pages/queues.js";
import { Run } from "./pages/run.js";
import { Runs } from "./pages/runs.js";
import { Try } from "./pages/try.js";
import { routeOf } from "./parts/routes.js";
import { More, Shell } from "./parts/shell.js";
import { Trouble } from "./parts/states.js";
import { html, render, useEffect, useState } from "./parts/view.js";

const PAGES = {
  overview: Overview,
  fleet: Fleet,
  agents: Agent,
  runs: Runs,
  run: Run,
  queues: Queues,
  failures: Failures,
  events: Events,
  try: Try,
  keys: Keys,
  about: About,
  more: More,
};
const SECOND_MS = 1_000;

function App({ first, why }) {
  const [session, setSession] = useState(first);
  const [notice, setNotice] = useState(why);
  const enter = (entered) => {
    keepSession(entered);
    setNotice("");
    setSession(entered);
  };
  const leave = () => {
    endSession(session);
    setSession(null);
  };
  const lose = (why) => {
    dropSession();
    setNotice(why);
    setSession(null);
  };
  return session
    ? html`<${Signed} key=${session.key} session=${session} leave=${leave} lose=${lose} />`
    : html`<${Login} enter=${enter} notice=${notice} />`;
}

function Signed({ session, leave, lose }) {
  const [world] = useState(() => makeWorld(session, lose));
  const [, draw] = useState(0);
  const [route, setRoute] = useState(routeOf(location.hash));
  useEffect(() => {
    const again = () => draw((count) => count + 1);
    const end = world.store.read(again);
    const moved = () => setRoute(routeOf(location.hash));
    // Durations and countdowns go on without news.
    const second = setInterval(again, SECOND_MS);
    addEventListener("hashchange", moved);
    world.feed.open();
    return () => {
      end();
      clearInterval(second);
      removeEventListener("hashchange", moved);
      world.feed.close();
    };
  }, []);
  const now = Date.now();
  const Page = PAGES[route.page];
  const go = (hash) => {
    location.hash = hash;
  };
  const shown = { state: world.store.state, rates: world.feed.rates, feed: world.feed, now, route, go, leave };
  return html`<${Shell} ...${shown}>${Page ? html`<${Page} key=${route.key} ...${shown} />` : html`<${Trouble} what="There is no such page." why="The address may be mistyped." next="Choose one on the left." />`}<//>`;
}

function makeWorld(session, lose) {
  const store = new Store();
  return {
    store,
    feed: new Feed(apiOf(session), store, () => lose("This session opens nothing any more. Sign in again.")),
  };
}

/** Who reads: as the link says by which the page was opened, else as before in this tab. */
async function begin() {
  const code = takeCode();
  const kept = keptSession();
  if (!code) return { first: kept, why: "" };
  try {
    const first = await sessionOfCode(code);
    if (kept) endSession(kept);
    keepSession(first);
    return { first, why: "" };
  } catch (error) {
    return {
      first: kept,
      why:
        error.status === 401
          ? "This link was used, or is older than 60 s. Sign in with a key, or ask for a new link with “aicp dashboard”."
          : error.message,
    };
  }
}

// A link that is opened in this tab again brings another code.
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#code=")) location.reload();
});
render(html`<${App} ...${await begin()} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
