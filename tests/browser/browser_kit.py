"""A real browser without a window, and what a page may never do."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, Request, async_playwright

BOUND_S = 300.0
WAIT_MS = 90_000
"""A page on a busy machine may take this long until it shows what is waited for."""

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH: install Debian's package `chromium` to run the tests in a browser"
)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it on a fresh loop, for five minutes at most."""

    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await main

    asyncio.run(bounded())


class Watch:
    """What a page did that none of ours may do.

    Attributes:
        errors: What it wrote to the console as an error, and exceptions that nobody caught.
        elsewhere: Requests to other servers.
        urls: Every address that it asked for.
    """

    def __init__(self, page: Page, home: str) -> None:
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.urls: list[str] = []
        self._home = home
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        page.on("request", self._asked)

    def _asked(self, request: Request) -> None:
        self.urls.append(request.url)
        if not request.url.startswith((self._home, "data:")):
            self.elsewhere.append(request.url)


class HttpAgent:
    """An agent over HTTP at one port, which can be dead and live."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self._takes_s = takes_s
        self._runner: web.AppRunner | None = None
        self.port = 0

    def registration(self, agent_id: str, capability: str, slots: int = 1, **labels: str) -> dict[str, Any]:
        """What a client posts to have it used."""
        return {
            "agent_id": agent_id, "endpoint": f"http://127.0.0.1:{self.port}", "max_concurrent_tasks": slots,
            "capabilities": [{"name": capability}], "labels": labels, "lease": False,
        }  # fmt: skip

    async def live(self) -> None:
        application = web.Application()
        application.router.add_post("/invoke", self._invoke)
        application.router.add_get("/health", self._health)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def die(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _invoke(self, request: web.Request) -> web.Response:
        body = await request.json()
        await asyncio.sleep(self._takes_s)
        return web.json_response({"task_id": body["task_id"], "result": body["params"]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Chromium, for the tests of one function."""
    async with async_playwright() as playwright:
        # The sandbox of Chromium does not start for root; a container may have a small /dev/shm.
        options = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else ["--disable-dev-shm-usage"]
        opened = await playwright.chromium.launch(executable_path=Path(CHROMIUM or ""), args=options)
        try:
            yield opened
        finally:
            await opened.close()


async def opened_page(browser: Browser, url: str, *, theme: Any = "light") -> tuple[Page, Watch]:
    """A page of its own, not yet signed in, and who watches it."""
    context = await browser.new_context(color_scheme=theme, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(WAIT_MS)
    page = await context.new_page()
    watch = Watch(page, url)
    await page.goto(f"{url}/dashboard/")
    return page, watch


async def sign_in(page: Page, key: str) -> None:
    """Enter a key as a person does, and wait for the page behind it."""
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("navigation", name="Main").wait_for()
