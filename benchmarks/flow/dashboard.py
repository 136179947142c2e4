"""The dashboard in Chromium, on a real `aicp serve` with agents in processes of their own.

Measured: how soon a change is on the screen, what a page costs its browser while a run of 500 tasks goes on, how soon
a run of 5,000 tasks is open and how smoothly it moves, what is loaded, and what open pages cost the server.

Needs Chromium, and a machine that does nothing else: the browser itself needs both cores.

    python -m benchmarks.flow.dashboard [--quick]
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from playwright.async_api import Browser, CDPSession, Page

from aicp import Task, TaskChain
from aicp.client import Client
from aicp.model.reference import ChainTask
from benchmarks.measure import AIMS, Row, at_least, at_most, quantile, report
from benchmarks.processes import AgentProcess, Server, fleet, register, serving
from tests.browser.browser_kit import browser, opened_page, sign_in

CHANGES = 60
NODES, CHANGES_PER_S = 500, 20
ROWS = 10
MINUTES_WORTH = 10
MANY_NODES = 5_000
LAYER = 50
PAN_S = 3.0
PAGES, TASKS_PER_S, LOAD_S = 10, 100, 20.0
CATCH_UP_S = 3.0

# Notes when a frame with a change is on the screen, in milliseconds since the epoch.
WATCH_FRAMES = """
selector => {
  window.framesAt = [];
  const shownNow = () => framesAt.push(performance.timeOrigin + performance.now());
  const note = () => requestAnimationFrame(() => setTimeout(shownNow));
  let shown = document.querySelector(selector).textContent;
  new MutationObserver(() => {
    const now = document.querySelector(selector)?.textContent ?? shown;
    if (now !== shown) { shown = now; note(); }
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}
"""
COUNT_FRAMES = """
seconds => new Promise(resolve => {
  let frames = 0;
  const end = performance.now() + 1000 * seconds;
  const next = now => { frames += 1; now < end ? requestAnimationFrame(next) : resolve(frames / seconds); };
  requestAnimationFrame(next);
})
"""
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
LOADED_BYTES = """
[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
  .filter(entry => entry.name.includes('/dashboard/'))
  .reduce((sum, entry) => sum + entry.decodedBodySize, 0)
"""


class Bench:
    """A server with two agents, a browser, and a client."""

    def __init__(self, server: Server, client: Client, chromium: Browser) -> None:
        self.server = server
        self.client = client
        self.chromium = chromium

    async def page(self, place: str) -> Page:
        """A page that is signed in."""
        page, _ = await opened_page(self.chromium, self.server.url)
        await sign_in(page, self.server.key)
        await go(page, place)
        return page


async def go(page: Page, place: str) -> None:
    await page.evaluate("place => { location.hash = place }", f"#/{place}")


async def changes(bench: Bench, count: int) -> list[float]:
    """Milliseconds from the call that changes a circuit to the frame that shows it."""
    page = await bench.page("agents/echo-0")
    badge = "main .rows tbody .st"
    await page.locator(badge).first.wait_for()
    await page.evaluate(WATCH_FRAMES, badge)
    taken: list[float] = []
    for number in range(count):
        # Not in step with whatever the page does at intervals.
        await asyncio.sleep(0.6 + 0.037 * (number % 17))
        began = time.time()
        await (bench.client.reset("echo-0") if number % 2 else bench.client.open_agent("echo-0"))
        await page.wait_for_function("count => framesAt.length > count", arg=number, polling=50)
        taken.append(await page.evaluate("framesAt.at(-1)") - 1_000 * began)
    await page.context.close()
    return taken


async def opening(bench: Bench) -> tuple[float, float]:
    """Milliseconds to the first paint of a page, and the bytes of all that it loads."""
    page, _ = await opened_page(bench.chromium, bench.server.url)
    await page.get_by_label("API key").wait_for()
    measured = await page.evaluate(FIRST_PAINT), await page.evaluate(LOADED_BYTES)
    await page.context.close()
    return measured


async def running(bench: Bench, changes_wanted: int) -> tuple[float, float]:
    """The share of its main thread that a page uses, and its heap, while a run of 500 tasks changes 20 times a second.

    A task begins and ends: two changes. Runs follow each other until there were enough.
    """
    seconds_a_run = 2 * NODES / CHANGES_PER_S
    page = await bench.page("overview")
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable")
    busy_s = shown_s = 0.0
    for _ in range(max(1, round(changes_wanted / (2 * NODES)))):
        chain_id = await bench.client.submit_chain(paced_chain(NODES, seconds_a_run))
        await go(page, f"runs/{chain_id}")
        await page.locator(".dag .node").first.wait_for()
        before, began = await metrics(session), time.perf_counter()
        await bench.client.wait_chain(chain_id, timeout_s=10 * seconds_a_run)
        after = await metrics(session)
        busy_s += after["TaskDuration"] - before["TaskDuration"]
        shown_s += time.perf_counter() - began
    await session.send("HeapProfiler.collectGarbage")
    heap = (await metrics(session))["JSHeapUsedSize"]
    await page.context.close()
    return busy_s / shown_s, heap / 1e6


async def metrics(session: CDPSession) -> Mapping[str, float]:
    return {each["name"]: each["value"] for each in (await session.send("Performance.getMetrics"))["metrics"]}


def paced_chain(nodes: int, seconds: float) -> TaskChain:
    """Ten rows of tasks, each of which waits for the one before it, begun one after the other, that take so long."""
    chain, nap_s = TaskChain(name=f"{nodes} nodes"), seconds * ROWS / nodes
    for row in range(ROWS):
        last = chain.add_task("nap", {"nap_s": nap_s * row / ROWS}, id=f"t{row}-0")
        for n in range(1, nodes // ROWS):
            last = chain.add_task("nap", {"nap_s": nap_s}, id=f"t{row}-{n}", depends_on=last)
    return chain


def layered_chain(nodes: int) -> TaskChain:
    """Layers of 50 tasks, each of which waits for two of the layer before."""
    chain = TaskChain(name=f"{nodes} nodes")
    last: list[ChainTask] = []
    for layer in range(nodes // LAYER):
        before = [(last[n], last[(n + 7) % LAYER]) if last else () for n in range(LAYER)]
        last = [chain.add_task("echo", {"n": n}, id=f"t{layer}-{n}", depends_on=before[n]) for n in range(LAYER)]
    return chain


async def large(bench: Bench, rounds: int) -> tuple[float, float]:
    """Seconds until a run of 5,000 tasks is drawn, and frames a second while it is moved about."""
    chain_id = await bench.client.submit_chain(layered_chain(MANY_NODES))
    await bench.client.wait_chain(chain_id, timeout_s=300.0)
    taken, frames = [], []
    for _ in range(rounds):
        page = await bench.page("overview")
        await page.locator("main h1").wait_for()
        began = time.perf_counter()
        await go(page, f"runs/{chain_id}")
        await page.locator(".dag .node").first.wait_for()
        taken.append(time.perf_counter() - began)
        frames.append(await panned(page))
        await page.context.close()
    return statistics.median(taken), statistics.median(frames)


async def panned(page: Page) -> float:
    box = await page.locator(".canvas").bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    await page.mouse.move(middle[0], middle[1] - 20)
    await page.mouse.down()
    counted = asyncio.ensure_future(page.evaluate(COUNT_FRAMES, PAN_S))
    ends_at, step = time.perf_counter() + PAN_S, 0
    while time.perf_counter() < ends_at:
        step += 1
        await page.mouse.move(middle[0] - 4 * (step % 100), middle[1] - 20 - 3 * (step % 80))
        await asyncio.sleep(1 / 60)
    await page.mouse.up()
    frames: float = await counted
    return frames


async def cpu_of_pages(bench: Bench, seconds: float) -> float:
    """The share of a core that the server needs more for ten open pages, at 100 tasks a second."""
    shares = {0: 0.0, PAGES: 0.0}
    async with loaded(bench.client):
        shares[0] = await share_of_a_core(bench.server, seconds)
        pages = [await bench.page("overview") for _ in range(PAGES)]
        await asyncio.sleep(CATCH_UP_S)
        shares[PAGES] = await share_of_a_core(bench.server, seconds)
        for page in pages:
            await page.context.close()
    return shares[PAGES] - shares[0]


@contextlib.asynccontextmanager
async def loaded(client: Client) -> AsyncIterator[None]:
    """Tasks come evenly meanwhile."""

    async def come() -> None:
        next_at = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(client.submit_task(Task("echo", {"text": "a small task"})))
                next_at += 1 / TASKS_PER_S
                await asyncio.sleep(max(0.0, next_at - time.perf_counter()))

    coming = asyncio.ensure_future(come())
    try:
        await asyncio.sleep(CATCH_UP_S)
        yield
    finally:
        coming.cancel()
        await asyncio.wait([coming])


async def share_of_a_core(server: Server, seconds: float) -> float:
    before, began = server.cpu_s(), time.perf_counter()
    await asyncio.sleep(seconds)
    return (server.cpu_s() - before) / (time.perf_counter() - began)


async def measured(server: Server, agents: Sequence[AgentProcess], *, quick: bool) -> list[Row]:
    await register(server, agents)
    async with Client(server.url, server.key) as client, browser() as chromium:
        bench = Bench(server, client, chromium)
        paints = [await opening(bench) for _ in range(3 if quick else 7)]
        taken = await changes(bench, 10 if quick else CHANGES)
        changes_wanted = NODES if quick else MINUTES_WORTH * 60 * CHANGES_PER_S
        busy, heap_mb = await running(bench, changes_wanted)
        open_s, frames = await large(bench, 1 if quick else 3)
        more_cpu = await cpu_of_pages(bench, LOAD_S / 4 if quick else LOAD_S)
    return [
        at_most("first paint on loopback, ms, median", 1_000, statistics.median(paint for paint, _ in paints)),
        at_most("page and modules, KB uncompressed", 250, paints[0][1] / 1_000),
        at_most("change to frame, ms, p50", 100, quantile(taken, 0.5)),
        at_most("change to frame, ms, p99", 300, quantile(taken, 0.99)),
        at_most("500 nodes at 20 changes/s: main thread busy, %", 50, 100 * busy),
        at_most(f"heap after {changes_wanted} changes, MB", 60, heap_mb),
        at_most("5,000 nodes open, s", 2, open_s),
        at_least("5,000 nodes moved, frames/s", 30, frames),
        at_most("server, 10 pages at 100 tasks/s, % of a core more", 10, 100 * more_cpu),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds of each, to see that it runs")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as directory, fleet() as agents, serving(Path(directory) / "aicp") as server:
        server.start()
        rows = asyncio.run(measured(server, agents, quick=quick))
    report("flow/dashboard", AIMS, rows, ["playwright", "aiohttp", "litestar"])


if __name__ == "__main__":
    main()
