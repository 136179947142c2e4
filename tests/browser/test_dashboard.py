"""The dashboard in a real browser, on a real server: what it shows, what it does, and what it never does."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from playwright.async_api import Page, expect

from aicp.model.chain import TaskChain
from aicp.model.task import Task
from aicp.runtime.node import Node
from aicp.runtime.settings import Settings
from aicp.server.running import running_server
from tests.browser.browser_kit import WAIT_MS, HttpAgent, Watch, browser, needs_chromium, opened_page, run, sign_in
from tests.integration.server_kit import Api, Gate, asking, echo

pytestmark = needs_chromium

WITHIN_S = 60.0
HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.exe\u0000 <script>alert(2)</script>"
expect.set_options(timeout=WAIT_MS)


@asynccontextmanager
async def signed_in(api: Api, *, key: str | None = None, theme: str = "light") -> AsyncIterator[tuple[Page, Watch]]:
    """A page of the dashboard with a key, the admin's by default; at the end it has done nothing it may not."""
    async with browser() as chromium:
        page, watch = await opened_page(chromium, api.url, theme=theme)
        await sign_in(page, key or api.key)
        yield page, watch
        await assert_decent(page, watch, key or api.key)


async def assert_decent(page: Page, watch: Watch, key: str) -> None:
    assert watch.errors == []
    assert watch.elsewhere == []
    assert [url for url in [*watch.urls, page.url] if key in url] == []


async def go(page: Page, place: str) -> None:
    await page.evaluate("place => { location.hash = place }", f"#/{place}")


def test_wrong_key_is_refused_in_a_sentence_and_a_right_one_opens_the_overview() -> None:
    async def main() -> None:
        async with asking() as api, browser() as chromium:
            page, watch = await opened_page(chromium, api.url)
            await page.get_by_label("API key").fill("aicp_nonsense")
            await page.get_by_role("button", name="Sign in").click()
            await expect(page.get_by_role("alert")).to_contain_text("This key opens nothing here.")
            # The refusal itself is the one error that a browser writes.
            assert all("401" in error for error in watch.errors), watch.errors
            watch.errors.clear()
            await sign_in(page, api.key)
            await expect(page.get_by_role("heading", level=1)).to_have_text("The agent is ready.")
            await expect(page.get_by_text("Live", exact=True)).to_be_visible()
            await assert_decent(page, watch, api.key)

    run(main())


def test_browser_at_the_bare_address_is_led_to_the_dashboard_and_signs_out_again() -> None:
    async def main() -> None:
        async with asking() as api, browser() as chromium:
            page, watch = await opened_page(chromium, api.url)
            await page.goto(api.url)
            assert page.url == f"{api.url}/dashboard/"
            await sign_in(page, api.key)
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_label("API key")).to_be_visible()
            assert await page.evaluate("sessionStorage.length") == 0
            await assert_decent(page, watch, api.key)

    run(main())


async def link_of(api: Api, place: str = "") -> str:
    """What opens the page without a key to enter, once."""
    code = (await api.post("/api/sessions/codes")).body["code"]
    return f"{api.url}/dashboard#code={code}{place and f'&place={place}'}"


async def until_gone(api: Api, session: dict[str, Any]) -> None:
    """Return once a session is over, which the page asks for and does not wait for."""
    async with asyncio.timeout(WITHIN_S):
        while session in (await api.get("/api/keys")).body["keys"]:  # noqa: ASYNC110 - the browser tells nobody
            await asyncio.sleep(0.05)


def test_link_opens_the_page_at_its_place_once_and_leaves_no_code_behind() -> None:
    async def main() -> None:
        async with asking() as api, browser() as chromium:
            page, watch = await opened_page(chromium, api.url)
            link = await link_of(api, "fleet")
            code = link.partition("#code=")[2].partition("&")[0]
            await page.goto(link)
            await expect(page.get_by_role("heading", level=1)).to_have_text("Fleet")
            assert page.url == f"{api.url}/dashboard/#/fleet"
            (session,) = (await api.get("/api/keys")).body["keys"]
            assert session["kind"] == "session"
            await page.reload()
            await expect(page.get_by_role("heading", level=1)).to_have_text("Fleet")
            assert api.key not in await page.evaluate("JSON.stringify(sessionStorage)")
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_label("API key")).to_be_visible()
            assert await page.evaluate("sessionStorage.length") == 0
            await until_gone(api, session)
            # Its own address is all that a server or a history ever saw of it.
            assert [url for url in watch.urls if code in url.partition("#")[0]] == []
            await assert_decent(page, watch, api.key)
            await page.goto(link)
            await expect(page.get_by_role("status")).to_contain_text("This link was used")
            await expect(page.get_by_label("API key")).to_be_visible()
            assert all("401" in error for error in watch.errors), watch.errors

    run(main())


def test_link_in_a_tab_that_is_signed_in_replaces_its_session() -> None:
    async def main() -> None:
        async with asking() as api, signed_in(api) as (page, _):
            (before,) = (await api.get("/api/keys")).body["keys"]
            await page.goto(await link_of(api, "runs"))
            await expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
            await until_gone(api, before)

    run(main())


def test_every_page_shows_itself_without_an_error_light_and_dark_wide_and_narrow() -> None:
    async def main() -> None:
        titles = {
            "overview": "The agent is ready.", "fleet": "Fleet", "agents/echo-1": "echo-1", "runs": "Runs",
            "queues": "Queues", "failures": "Failures", "events": "Events", "try": "Try it", "about": "About",
        }  # fmt: skip
        async with asking() as api:
            for theme, width in (("light", 1440), ("dark", 390)):
                async with signed_in(api, theme=theme) as (page, _):
                    await page.set_viewport_size({"width": width, "height": 900})
                    for place, title in titles.items():
                        await go(page, place)
                        await expect(page.get_by_role("heading", level=1)).to_have_text(title)
                        # No page scrolls sideways.
                        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (place, width)

    run(main())


def test_killed_agent_turns_its_circuit_red_and_a_probe_turns_it_back() -> None:
    """The overview names the capability, the fleet counts down to the next probe, and the return is seen by itself."""

    async def main() -> None:
        async with asking() as api:
            agent = HttpAgent()
            await agent.live()
            assert (await api.post("/ains/agents", agent.registration("eyes-1", "image.label"))).status == 201
            async with signed_in(api) as (page, _):
                await expect(page.get_by_role("heading", level=1)).to_have_text("All 2 agents are ready.")
                await agent.die()
                chain = TaskChain(name="album")
                chain.add_task("image.label", {"url": "cat.png"}, id="label")
                chain_id = await api.node.coordinator.submit(chain)
                await expect(page.get_by_role("heading", level=1)).to_contain_text(
                    "1 of 2 agents is out. image.label has no agent"
                )
                await go(page, "fleet")
                row = page.get_by_role("row").filter(has=page.get_by_role("link", name="eyes-1"))
                await expect(row).to_contain_text("Open")
                await go(page, f"runs/{chain_id}")
                await expect(page.locator(".dag .node")).to_contain_text("no agent available")
                await agent.live()
                await expect(page.locator(".head .tag")).to_contain_text("Completed")
                await expect(page.locator(".dag .node")).to_contain_text("eyes-1")
                for number in range(3):  # a half-open circuit closes after a few good attempts
                    await api.node.router.route_task(Task("image.label", {"n": number}))
                await go(page, "fleet")
                await expect(row).to_contain_text("Closed")
                await go(page, "overview")
                await expect(page.get_by_role("heading", level=1)).to_have_text("All 2 agents are ready.")
            await agent.die()

    run(main())


def test_page_that_opens_late_shows_what_happened_before() -> None:
    async def main() -> None:
        async with asking() as api:
            for number in range(7):
                await api.node.router.route_task(Task("text.echo", {"n": number}))
            while not (await api.get("/api/history")).body["series"][0]["values"]["attempts_per_s"]:  # noqa: ASYNC110 - a bucket of 5 s ends
                await asyncio.sleep(0.2)
            async with signed_in(api) as (page, _):
                figures = page.get_by_label("The last 15 minutes")
                await expect(figures).to_contain_text(re.compile(r"Success of attempts\s*100"))
                await go(page, "fleet")
                await expect(page.get_by_role("row").filter(has_text="echo-1")).to_contain_text("100")

    run(main())


def test_second_attempt_at_another_agent_is_seen_on_the_graph_and_in_the_inspector() -> None:
    async def main() -> None:
        async with asking() as api:

            async def broken(_: dict[str, Any]) -> None:
                raise ConnectionError("lost the model")

            await api.node.add_agent("broken-1", {"image.label": broken})
            await api.node.add_agent("eyes-2", {"image.label": echo})
            chain = TaskChain(name="album")
            for number in range(4):
                chain.add_task("image.label", {"n": number}, id=f"label-{number}")
            result = await api.node.coordinator.execute_chain(chain)
            moved = next(name for name, task in result.tasks.items() if len(task.attempts) > 1)
            async with signed_in(api) as (page, _):
                await go(page, f"runs/{result.chain_id}")
                node = page.locator(".dag .node").filter(has_text=moved)
                await expect(node).to_contain_text("broken-1 → eyes-2")
                await node.click()
                panel = page.get_by_role("complementary", name="Selected task")
                await expect(panel).to_contain_text("ConnectionError: lost the model")
                await expect(panel).to_contain_text("SUCCESS")
                assert f"task={moved}" in page.url

    run(main())


def test_hostile_texts_are_shown_as_text() -> None:
    async def main() -> None:
        async with asking() as api:

            async def fail(_: dict[str, Any]) -> None:
                raise RuntimeError(HOSTILE)

            async def answer(_: dict[str, Any]) -> dict[str, str]:
                return {"html": HOSTILE, "long": "x" * 300_000}

            await api.node.add_agent("fail-1", {"text.fail": fail})
            await api.node.add_agent("answer-1", {"text.answer": answer})
            chain = TaskChain(name='<b>bold</b> & "quoted"')
            chain.add_task("text.fail", {}, id="fail")
            chain.add_task("text.answer", {}, id="answer")
            result = await api.node.coordinator.execute_chain(chain)
            async with signed_in(api) as (page, _):
                await go(page, f"runs/{result.chain_id}?task=answer")
                await expect(page.get_by_role("heading", level=1)).to_have_text('<b>bold</b> & "quoted"')
                await expect(page.locator(".json")).to_contain_text("<script>alert(2)</script>")
                await expect(page.get_by_role("button", name="Show all")).to_be_visible()
                await go(page, "failures")
                await expect(page.get_by_role("main")).to_contain_text("<img src=x onerror=alert(1)>")
                shown = await page.get_by_role("main").inner_text()
                assert "\u202e" not in shown
                assert "\u0000" not in shown
                assert await page.locator("img, main script").count() == 0

    run(main())


def test_operator_holds_a_circuit_open_and_resets_it() -> None:
    async def main() -> None:
        async with asking() as api, signed_in(api) as (page, _):
            await go(page, "agents/echo-1")
            await page.get_by_role("button", name="Hold open…").click()
            dialog = page.get_by_role("dialog")
            await expect(dialog).to_contain_text("It gets no new task until someone resets or disables it.")
            await expect(dialog.get_by_role("button", name="Keep as it is")).to_be_focused()
            await dialog.get_by_role("button", name="Hold open").click()
            circuits = page.get_by_role("main")
            await expect(circuits).to_contain_text("Held open")
            await page.get_by_role("button", name="Reset circuits…").click()
            await page.get_by_role("dialog").get_by_role("button", name="Reset circuits").click()
            await expect(circuits).not_to_contain_text("Held open")
            result = await api.node.router.route_task(Task("text.echo", {"n": 1}))
            assert result.result == {"n": 1}

    run(main())


LAYOUTS = """async ([seeds, size]) => {
  const { layout } = await import("/dashboard/parts/layout.js");
  const node = { width: 164, height: 44 }, gap = { x: 28, y: 38 }, row = 82, wrong = [];
  const random = (seed) => () => ((seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648);
  for (let seed = 1; seed <= seeds; seed += 1) {
    const next = random(seed), ids = Array.from({ length: size }, (_, i) => `t${i}`), edges = [];
    for (let i = 1; i < size; i += 1) {
      const awaited = [0, 1, 2].map(() => Math.floor(next() * i)).slice(next() * 4);
      for (const from of new Set(awaited)) edges.push([`t${from}`, `t${i}`]);
    }
    const { at, bends, width, height } = layout(ids, edges, node, gap);
    const boxes = ids.map((id) => ({ id, ...at.get(id) }));
    const fits = ({ x, y }) => x >= 0 && y >= 0 && x + node.width <= width + 0.01 && y + node.height <= height;
    const near = (a, b) => a.y === b.y && Math.abs(a.x - b.x) < node.width + gap.x - 0.01;
    for (const one of boxes) if (!fits(one)) wrong.push([seed, one.id, "outside"]);
    for (const one of boxes)
      for (const two of boxes) if (one.id < two.id && near(one, two)) wrong.push([seed, one.id, two.id, "overlap"]);
    for (const [from, to] of edges) {
      const passed = (at.get(to).y - at.get(from).y) / row - 1, way = bends.get(`${from}>${to}`) ?? [];
      if (passed < 0 || way.length !== passed) wrong.push([seed, from, to, "no lane in every rank"]);
      way.forEach((lane, i) => {
        const y = at.get(from).y + (i + 1) * row;
        const covers = (box) => box.y === y && lane > box.x && lane < box.x + node.width;
        for (const box of boxes) if (covers(box)) wrong.push([seed, from, to, box.id, "behind"]);
      });
    }
  }
  return wrong.slice(0, 10);
}"""


def test_no_task_covers_another_and_no_edge_runs_behind_a_task() -> None:
    async def main() -> None:
        async with asking() as api, browser() as chromium:
            page, _ = await opened_page(chromium, api.url)
            for seeds, size in ((40, 8), (20, 40), (2, 300)):
                assert await page.evaluate(LAYOUTS, [seeds, size]) == []
            one = "import('/dashboard/parts/layout.js').then(({ layout }) => layout"
            sizes = "{ width: 164, height: 44 }, { x: 28, y: 38 }))"
            assert (await page.evaluate(f"{one}([], [], {sizes}"))["width"] == 164
            assert (await page.evaluate(f"{one}(['a'], [], {sizes}"))["height"] == 44

    run(main())


def test_newcomer_tries_a_capability_and_sees_its_result() -> None:
    async def main() -> None:
        async with asking() as api, signed_in(api) as (page, _):
            await go(page, "try")
            await page.get_by_label("Params").fill("not JSON")
            await page.get_by_role("button", name="Submit task").click()
            await expect(page.get_by_role("alert")).to_contain_text("The params are not JSON")
            await page.get_by_label("Params").fill('{"greeting": "hello"}')
            await page.get_by_role("button", name="Submit task").click()
            await expect(page.locator(".json")).to_contain_text('"greeting": "hello"')
            await page.get_by_role("link", name="Open the run").click()
            await expect(page.locator(".head .tag")).to_contain_text("Completed")

    run(main())


def test_run_is_cancelled_and_retried_from_its_page() -> None:
    async def main() -> None:
        async with asking() as api:
            gate = Gate()
            await api.node.add_agent("gate-1", {"text.wait": gate})
            chain = TaskChain(name="long one")
            chain.add_task("text.wait", {}, id="wait")
            chain_id = await api.node.coordinator.submit(chain)
            async with signed_in(api) as (page, _):
                await go(page, f"runs/{chain_id}")
                await expect(page.locator(".dag .node")).to_contain_text("gate-1")
                await page.get_by_role("button", name="Cancel run…").click()
                await expect(page.get_by_role("dialog")).to_contain_text("1 task will not be done")
                await page.get_by_role("dialog").get_by_role("button", name="Cancel run").click()
                await expect(page.locator(".head .tag")).to_contain_text("Cancelled")
                gate.let_go.set()
                await page.get_by_role("button", name="Retry").click()
                await expect(page.locator(".head .tag")).to_contain_text("Completed")
                await expect(page.locator(".head")).to_contain_text("retry of")

    run(main())


def test_one_tenant_sees_nothing_of_another() -> None:
    async def main() -> None:
        async with asking() as api:
            green, blue = await api.new_key("green"), await api.new_key("blue")
            for tenant, key in (("green", green), ("blue", blue)):
                agent = {
                    "agent_id": f"{tenant}-agent",
                    "endpoint": "http://127.0.0.1:9",
                    "max_concurrent_tasks": 1,
                    "capabilities": [{"name": f"{tenant}.work"}],
                }
                assert (await api.post("/ains/agents", agent, key=key)).status == 201
                made = await api.post(
                    "/api/tasks/chain",
                    {"name": f"{tenant}-run", "tasks": [{"id": "a", "capability": f"{tenant}.work"}]},
                    key=key,
                )
                assert made.status == 202
            async with signed_in(api, key=blue) as (page, _):
                for place in ("overview", "fleet", "runs", "queues", "failures", "events", "try"):
                    await go(page, place)
                    await expect(page.get_by_role("main")).not_to_contain_text("green")
                await go(page, "runs")
                await expect(page.get_by_role("main")).to_contain_text("blue-run")

    run(main())


def test_key_that_is_revoked_ends_the_session() -> None:
    async def main() -> None:
        async with asking() as api:
            made = await api.make_key("blue")
            async with browser() as chromium:
                page, watch = await opened_page(chromium, api.url)
                await sign_in(page, made.secret)
                assert (await api.post(f"/api/keys/{made.key.key_id}/revoke")).status == 200
                await expect(page.get_by_role("status")).to_contain_text("This session opens nothing any more.")
                assert watch.elsewhere == []

    run(main())


def test_page_says_that_it_is_stale_and_is_right_again_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        database = f"sqlite:///{tmp_path / 'a.db'}"
        async with browser() as chromium:
            async with serving(database, tmp_path, 0) as first:
                port = int(first.url.rpartition(":")[2])
                page, watch = await opened_page(chromium, first.url)
                await sign_in(page, first.key)
                await expect(page.get_by_role("heading", level=1)).to_have_text("The agent is ready.")
            await expect(page.locator(".conn.lost")).to_be_visible()
            await expect(page.locator(".shell")).to_have_attribute("data-stale", "")
            async with serving(database, tmp_path, port) as second:
                await second.node.add_agent("echo-2", {"text.echo": echo})
                await expect(page.get_by_role("heading", level=1)).to_have_text("All 2 agents are ready.")
                await expect(page.locator(".conn.lost")).to_have_count(0)
            assert watch.elsewhere == []
            assert [error for error in watch.errors if "ERR_" not in error and "Failed to load" not in error] == []

    run(main())


@asynccontextmanager
async def serving(database: str, directory: Path, port: int) -> AsyncIterator[Api]:
    async with Node(database=database, data_dir=directory) as node:
        await node.add_agent("echo-1", {"text.echo": echo})
        async with (
            running_server(Settings(port=port, data_dir=directory, drain_s=0.1), node) as server,
            aiohttp.ClientSession() as session,
        ):
            yield Api(server, node, session)


def test_many_changes_are_drawn_together() -> None:
    """Two hundred runs in a moment: the page stays with the newest, and answers a click meanwhile."""

    async def main() -> None:
        async with asking() as api, signed_in(api) as (page, _):
            await go(page, "runs")
            await asyncio.gather(*(api.post("/api/tasks", {"capability": "text.echo"}) for _ in range(200)))
            await expect(page.locator("main tbody tr")).to_have_count(50)
            await page.get_by_role("link", name="Older").click()
            await expect(page.locator("main tbody tr")).to_have_count(50)
            await page.get_by_role("link", name="Fleet").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("Fleet")

    run(main())
