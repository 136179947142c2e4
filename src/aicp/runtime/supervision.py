"""Work in the background that goes on for as long as its owner lets it, whatever goes wrong on the way."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aicp.errors import AicpError

TRY_AGAIN_S = 1.0

Step = Callable[[], Awaitable[None]]
_log = logging.getLogger(__name__)


def _nothing() -> None:
    """Nobody is told."""


async def keep_doing(step: Step, trouble: str, *, turned: Callable[[], None] = _nothing) -> None:
    """Take a step again and again, for ever. What goes wrong is logged once, until it goes well again.

    Args:
        step: Waits by itself while there is nothing to do; one that fails is taken again a second later.
        trouble: What a failure means, in words that a log line begins with.
        turned: Called when it begins to fail, and when it goes well again; must not raise.
    """
    is_well = True
    while True:
        was_well, is_well = is_well, await _goes_well(step, trouble, is_told=not is_well)
        if is_well != was_well:
            turned()
        if not is_well:
            await asyncio.sleep(TRY_AGAIN_S)
        elif not was_well:
            _log.info("this is over: %s", trouble)


async def _goes_well(step: Step, trouble: str, *, is_told: bool) -> bool:
    try:
        await step()
    except Exception as error:  # noqa: BLE001 - supervised: whatever it is, it is logged and the work goes on
        if not is_told:
            _log.warning("%s, trying on: %s", trouble, error, exc_info=not isinstance(error, AicpError))
        return False
    return True
