"""No page keeps anybody out who sees, hears or moves otherwise, as far as axe-core can tell: light and dark."""

from collections.abc import Iterator
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page

from aicp.model.chain import TaskChain
from tests.browser.browser_kit import browser, needs_chromium, opened_page, run, sign_in
from tests.integration.server_kit import Api, asking, echo

pytestmark = needs_chromium

BARRIERS = {"serious", "critical"}


def test_axe_finds_no_serious_barrier_on_any_page_light_and_dark() -> None:
    async def main() -> None:
        async with asking() as api, browser() as chromium:
            chain_id = await run_with_trouble(api)
            for theme in ("light", "dark"):
                page, _ = await opened_page(chromium, api.url, theme=theme)
                await page.get_by_label("API key").wait_for()
                assert await barriers(page) == [], ("login", theme)
                await sign_in(page, api.key)
                for place in places(chain_id):
                    await page.evaluate("place => { location.hash = place }", f"#/{place}")
                    await page.get_by_role("heading", level=1).wait_for()
                    await page.locator("[aria-busy=true]").wait_for(state="detached")
                    assert await barriers(page) == [], (place, theme)
                await page.context.close()

    run(main())


async def run_with_trouble(api: Api) -> str:
    """A run with a second attempt and a failure, and an agent that is held open."""

    async def broken(_: dict[str, Any]) -> None:
        raise ConnectionError("lost the model")

    await api.node.add_agent("broken-1", {"image.label": broken})
    await api.node.add_agent("eyes-2", {"image.label": echo})
    chain = TaskChain(name="album")
    first = chain.add_task("image.label", {"n": 1}, id="label")
    chain.add_task("text.echo", {"label": first.output}, id="report")
    result = await api.node.coordinator.execute_chain(chain)
    assert (await api.post("/api/circuit-breaker/open/broken-1")).status == 200
    return result.chain_id


def places(chain_id: str) -> Iterator[str]:
    yield from ("overview", "fleet", "fleet?show=out", "agents/echo-1", "agents/broken-1", "runs")
    yield from (f"runs/{chain_id}", f"runs/{chain_id}?task=label")
    yield from ("queues", "failures", "events", "try", "keys", "about")


async def barriers(page: Page) -> list[str]:
    """What axe-core finds, with the place and why."""
    found = (await Axe().run(page)).response["violations"]
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found
        if each["impact"] in BARRIERS
        for node in each["nodes"]
    ]
