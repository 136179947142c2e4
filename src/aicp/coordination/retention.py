"""Deletes chains that ended long ago and old submit keys, behind everything else."""

import asyncio
import logging
from datetime import timedelta

from aicp.coordination.progress import Progress
from aicp.errors import StorageError
from aicp.ports import KEYS_KEPT, Journal

DEFAULT_RETENTION_S = 7 * 86_400.0
LOOK_EVERY_S = 60.0
FORGOTTEN_AT_ONCE = 100
BREATHE_S = 0.05

_log = logging.getLogger(__name__)


class Retention:
    """Prunes a journal every minute, some chains at a time with a pause between.

    What is old is decided by the smaller of the wall clock and the monotonic clock, so that a wall clock that is wrong
    for a while deletes nothing.

    Args:
        journal: Forgets them.
        progress: Compares the clocks; a look precedes each deletion.
        retention_s: How long a chain is remembered after its end, seconds.
    """

    def __init__(self, journal: Journal, progress: Progress, retention_s: float = DEFAULT_RETENTION_S) -> None:
        self._journal = journal
        self._progress = progress
        self._kept = timedelta(seconds=retention_s)

    async def begin(self) -> None:
        """Take note of how long no process ran; when that cannot be recorded now, the first round does it."""
        try:
            await self._progress.look()
        except StorageError as error:
            _log.warning("the clocks cannot be compared yet, retrying: %s", error)

    async def keep_on(self) -> None:
        """Forget, for ever; what fails is logged, and done again a minute later."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._forget_all()
            except StorageError as error:
                _log.warning("old chains cannot be forgotten, trying on: %s", error)
            except Exception:  # noqa: BLE001 - supervised: whatever it is, it is logged and the loop goes on
                _log.exception("old chains cannot be forgotten")

    async def _forget_all(self) -> None:
        await self._progress.look()
        before = self._progress.cutoff(self._kept)
        while await self._journal.prune(before, FORGOTTEN_AT_ONCE) >= FORGOTTEN_AT_ONCE:  # noqa: ASYNC110 - a pause
            await asyncio.sleep(BREATHE_S)
        while await self._journal.prune_keys(self._progress.cutoff(KEYS_KEPT)):  # noqa: ASYNC110 - as above
            await asyncio.sleep(BREATHE_S)
