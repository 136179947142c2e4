"""Shows the demo on the dashboard, and keeps it there until the user has seen enough."""

import asyncio
from collections.abc import Callable

from aicp.cli.browsing import open_in_browser
from aicp.cli.exits import say
from aicp.demo.run import DemoResult


class DemoPage:
    """Opens the page, or prints the link where no browser can be opened.

    Args:
        show: Called with how the demo ended, while everything still runs.

    Attributes:
        has_ended: True once the run has ended: from then on Ctrl-C is how it is meant to end.
    """

    def __init__(self, show: Callable[[DemoResult], None]) -> None:
        self.has_ended = False
        self._show = show

    async def begin(self, link: str) -> None:
        """Show the run while it goes on."""
        if not await asyncio.to_thread(open_in_browser, link):
            say(f"Open this in a browser, within 60 s: {link}")

    async def stay(self, result: DemoResult, link: str) -> None:
        """Tell how it ended, and wait: only Ctrl-C, or a signal, ends this."""
        self._show(result)
        self.has_ended = True
        say(f"The dashboard goes on until Ctrl-C. Once more, within 60 s: {link}")
        await asyncio.Event().wait()
