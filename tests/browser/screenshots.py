"""Pictures of the dashboard for the documentation, from a real server whose agents really die: `make screenshots`."""

import asyncio
import contextlib
import random
import sys
from pathlib import Path

from playwright.async_api import Page

from aicp.model.chain import TaskChain
from aicp.runtime.node import Node
from tests.browser.browser_kit import HttpAgent, browser, opened_page, sign_in
from tests.integration.server_kit import Api, asking

FLEET = {
    "eyes-1": ("image.label", 0.4), "eyes-2": ("image.label", 0.5), "reader-1": ("text.extract", 0.6),
    "reader-2": ("text.extract", 0.5), "reader-3": ("text.extract", 0.7), "brief-1": ("text.summarize", 0.9),
    "brief-2": ("text.summarize", 0.8), "fetch-1": ("image.fetch", 0.1), "books-1": ("books.match", 0.3),
}  # fmt: skip
NAMES = ("invoice-intake", "photo-tags", "contract-review")
WARM_S, DEAD_S = 45.0, 12.0


def work() -> TaskChain:
    """A chain of ten tasks over five kinds of agents."""
    chain = TaskChain(name=random.choice(NAMES))
    fetch = chain.add_task("image.fetch", {"url": "https://example.org/scan-17.png"}, id="fetch")
    label = chain.add_task("image.label", {"image": fetch.output}, id="label")
    pages = [chain.add_task("text.extract", {"image": fetch.output, "page": n}, id=f"extract-{n}") for n in range(3)]
    match = chain.add_task("books.match", {"texts": [page.output for page in pages]}, id="match")
    vendor = chain.add_task("books.match", {"image": fetch.output}, id="vendor")
    brief = chain.add_task("text.summarize", {"label": label.output, "vendor": vendor.output}, id="summarize")
    total = chain.add_task("books.match", {"match": match.output}, id="total")
    chain.add_task("text.summarize", {"brief": brief.output, "total": total.output}, id="report")
    return chain


async def keep_busy(node: Node) -> None:
    while True:
        await node.coordinator.submit(work())
        await asyncio.sleep(0.8)


async def take(page: Page, place: str, path: Path) -> None:
    await page.evaluate("place => { location.hash = place }", f"#/{place}")
    await page.mouse.move(0, 0)
    await asyncio.sleep(2)
    await page.screenshot(path=path)


async def main(directory: Path) -> None:
    """The fleet at work for a while, then two agents dead, then the pages."""
    agents = {name: HttpAgent(takes_s) for name, (_, takes_s) in FLEET.items()}
    async with asking() as api, browser() as chromium, contextlib.AsyncExitStack() as at_work:
        api.node.remove_agent("echo-1")
        for name, agent in agents.items():
            await agent.live()
            at_work.push_async_callback(agent.die)
            answered = await api.post("/ains/agents", agent.registration(name, FLEET[name][0], 4, zone="a"))
            assert answered.status == 201, answered.body
        busy = asyncio.create_task(keep_busy(api.node))
        at_work.callback(busy.cancel)
        page, _ = await opened_page(chromium, api.url)
        await page.set_viewport_size({"width": 1280, "height": 860})
        await sign_in(page, api.key)
        await asyncio.sleep(WARM_S)
        await agents["reader-1"].die()
        await agents["eyes-1"].die()
        await agents["eyes-2"].die()
        await asyncio.sleep(DEAD_S)
        await take_all(api, page, directory)


async def take_all(api: Api, page: Page, directory: Path) -> None:
    """Overview, fleet, and the newest run that is held up by the dead."""
    await take(page, "overview", directory / "dashboard-overview.png")
    await take(page, "fleet", directory / "dashboard-fleet.png")
    runs = (await api.get("/api/tasks/chain?limit=30")).body["chains"]
    held_up = next(run for run in runs[8:] if run["status"] == "RUNNING")
    await take(page, f"runs/{held_up['chain_id']}?task=label", directory / "dashboard-run.png")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(target))
