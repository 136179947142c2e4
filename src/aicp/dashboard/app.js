// The page: signs in, follows the server, and shows the place that the address names.
import { Api, dropKey, keepKey, keptKey } from "./live/api.js";
import { Feed } from "./live/feed.js";
import { Store } from "./live/store.js";
import { More, Shell } from "./parts/shell.js";
import { Trouble } from "./parts/states.js";
import { html, render, useEffect, useState } from "./parts/view.js";
import { routeOf } from "./parts/routes.js";
import { About } from "./pages/about.js";
import { Agent } from "./pages/agent.js";
import { Events } from "./pages/events.js";
import { Failures } from "./pages/failures.js";
import { Fleet } from "./pages/fleet.js";
import { Login } from "./pages/login.js";
import { Overview } from "./pages/overview.js";
import { Queues } from "./pages/queues.js";
import { Run } from "./pages/run.js";
import { Runs } from "./pages/runs.js";
import { Try } from "./pages/try.js";

const PAGES = { overview: Overview, fleet: Fleet, agents: Agent, runs: Runs, run: Run, queues: Queues, failures: Failures, events: Events, try: Try, about: About, more: More };
const SECOND_MS = 1_000;

function App() {
  const [key, setKey] = useState(keptKey());
  const [notice, setNotice] = useState("");
  const enter = (entered) => { keepKey(entered); setNotice(""); setKey(entered); };
  const leave = (why = "") => { dropKey(); setNotice(why); setKey(""); };
  return key ? html`<${Signed} key=${key} apiKey=${key} leave=${leave} />` : html`<${Login} enter=${enter} notice=${notice} />`;
}

function Signed({ apiKey, leave }) {
  const [world] = useState(() => makeWorld(apiKey, leave));
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
    return () => { end(); clearInterval(second); removeEventListener("hashchange", moved); world.feed.close(); };
  }, []);
  const now = Date.now();
  const Page = PAGES[route.page];
  const go = (hash) => { location.hash = hash; };
  const shown = { state: world.store.state, rates: world.feed.rates, feed: world.feed, now, route, go, leave: () => leave() };
  return html`<${Shell} ...${shown}>${Page ? html`<${Page} key=${route.key} ...${shown} />` : html`<${Trouble} what="There is no such page." why="The address may be mistyped." next="Choose one on the left." />`}<//>`;
}

function makeWorld(key, leave) {
  const store = new Store();
  return { store, feed: new Feed(new Api(key), store, () => leave("This key opens nothing any more. Sign in with another one.")) };
}

render(html`<${App} />`, document.getElementById("app"));
