"""Everything that a mouse can do is done with Tab, Enter and Escape alone, and the server's state follows."""

from collections.abc import Awaitable, Callable

from playwright.async_api import Page, expect

from aicp.model.chain import TaskChain
from tests.browser.browser_kit import WAIT_MS, browser, needs_chromium, opened_page, run
from tests.integration.server_kit import Api, Gate, asking

pytestmark = needs_chromium

expect.set_options(timeout=WAIT_MS)
TABS_MAX = 120
FOCUSED = """
() => {
  const one = document.activeElement;
  return (one?.getAttribute("aria-label") ?? one?.labels?.[0]?.textContent ?? one?.textContent ?? "").trim();
}
"""


def test_operator_does_everything_to_an_agent_by_keyboard() -> None:
    async def main() -> None:
        async with asking() as api, browser() as chromium:
            page, watch = await opened_page(chromium, api.url)
            await signs_in(page, api.key)
            await opens(page, "Fleet")
            await presses(page, "echo-1")
            for button, deed, is_done in deeds(api):
                await presses(page, button)
                dialog = page.get_by_role("dialog")
                await expect(dialog.get_by_role("button", name="Keep as it is")).to_be_focused()
                await presses(page, deed)
                await expect(dialog).to_have_count(0)
                assert await is_done(), deed
            await expect(page.get_by_role("main")).to_contain_text("No agent echo-1")
            assert watch.errors == []

    run(main())


def test_escape_leaves_things_as_they_are() -> None:
    async def main() -> None:
        async with asking() as api, browser() as chromium:
            page, _ = await opened_page(chromium, api.url)
            await signs_in(page, api.key)
            await opens(page, "Fleet")
            await presses(page, "echo-1")
            await presses(page, "Remove…")
            await expect(page.get_by_role("dialog")).to_be_visible()
            await page.keyboard.press("Escape")
            await expect(page.get_by_role("dialog")).to_have_count(0)
            assert (await api.get("/ains/agents/echo-1")).status == 200

    run(main())


def test_run_is_found_cancelled_and_retried_by_keyboard() -> None:
    async def main() -> None:
        async with asking() as api, browser() as chromium:
            gate = Gate()
            await api.node.add_agent("gate-1", {"text.wait": gate})
            chain = TaskChain(name="long one")
            chain.add_task("text.wait", {}, id="wait")
            chain_id = await api.node.coordinator.submit(chain)
            page, _ = await opened_page(chromium, api.url)
            await signs_in(page, api.key)
            await opens(page, "Runs")
            await presses(page, "long one")
            await tabs_to(page, "wait")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("complementary", name="Selected task")).to_contain_text("text.wait")
            await presses(page, "Cancel run…")
            await presses(page, "Cancel run")
            await expect(page.locator(".head .tag").first).to_contain_text("Cancelled")
            assert (await api.get(f"/api/tasks/chain/{chain_id}")).body["status"] == "CANCELLED"
            gate.let_go.set()
            await presses(page, "Retry")
            await expect(page.locator(".head").first).to_contain_text("retry of")

    run(main())


def deeds(api: Api) -> list[tuple[str, str, Callable[[], Awaitable[bool]]]]:
    """Each button of an agent's page, the one that confirms it, and whether it is done."""

    async def circuit() -> str:
        health = (await api.get("/api/circuit-breaker/health")).body
        state: str = next(iter(health["agents"]["echo-1"]["capabilities"].values()))["state"]
        return state

    async def is_held() -> bool:
        return await circuit() == "FORCED_OPEN"

    async def is_closed() -> bool:
        return await circuit() == "CLOSED"

    async def is_disabled() -> bool:
        return await circuit() == "DISABLED"

    async def is_drained() -> bool:
        return bool((await api.get("/ains/agents/echo-1")).body["draining"])

    async def is_gone() -> bool:
        return (await api.get("/ains/agents/echo-1")).status == 404

    return [
        ("Hold open…", "Hold open", is_held),
        ("Reset circuits…", "Reset circuits", is_closed),
        ("Disable…", "Disable", is_disabled),
        ("Drain…", "Drain", is_drained),
        ("Remove…", "Remove", is_gone),
    ]


async def signs_in(page: Page, key: str) -> None:
    await page.get_by_label("API key").wait_for()
    await tabs_to(page, "API key")
    await page.keyboard.type(key)
    await page.keyboard.press("Enter")
    await page.get_by_role("navigation", name="Main").wait_for()


async def opens(page: Page, title: str) -> None:
    """Go to a page by the navigation."""
    await presses(page, title)
    await expect(page.get_by_role("heading", level=1)).to_have_text(title)


async def presses(page: Page, name: str) -> None:
    await tabs_to(page, name)
    await page.keyboard.press("Enter")


async def tabs_to(page: Page, name: str) -> None:
    """Press Tab until what is called so has the focus; a page may still be about to show it."""
    seen: list[str] = []
    for _ in range(TABS_MAX):
        focused = await page.evaluate(FOCUSED)
        if focused.split(",")[0] == name:
            return
        seen.append(focused[:30])
        await page.keyboard.press("Tab")
    raise AssertionError(f"nothing called {name!r} is reached by Tab, only {sorted(set(seen))}")
