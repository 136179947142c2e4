"""Goes on with chains that nobody alive runs: those an earlier process left, and those whose submit ended in doubt."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aicp.coordination.stranding import Stranding
from aicp.errors import AicpError, NewerVersion, RecordDamaged, StorageError
from aicp.model.event import ChainEnded
from aicp.model.request import CANCEL
from aicp.ports import ChainRecord, Journal, Replicas
from aicp.routing.defects import Defects

CLAIMED_AT_ONCE = 200
LOOK_EVERY_S = 1.0
DOUBTS_MAX = 10_000
SUBMITTED_EPOCH = 1

_log = logging.getLogger(__name__)


class Recovery:
    """Claims chains in batches, one behind the other while there are any, and then looks again every second.

    Other work goes on between any two chains. What fails is logged, and done again a second later. Where the record is
    shared, it looks as soon as there is news, and cancels what somebody asked another replica to cancel.

    Args:
        journal: Has the chains.
        take: Begins to run one.
        replicas: Who shares the record; None for nobody.
        cancel: Cancels one that runs here.
        stranding: Looks again at those that a defect stopped here.
        defects: Reports what a round raises.
    """

    def __init__(
        self,
        journal: Journal,
        take: Callable[[ChainRecord], Awaitable[None]],
        replicas: Replicas | None,
        cancel: Callable[[str], None],
        stranding: Stranding,
        defects: Defects,
    ) -> None:
        self._journal = journal
        self._take = take
        self._replicas = replicas
        self._cancel = cancel
        self._stranding = stranding
        self._defects = defects
        self._doubts: dict[str, None] = {}
        self._round = asyncio.Event()
        self._is_through = False
        self._is_over = False

    def doubt(self, chain_id: str) -> None:
        """A submit failed, and the record could not be asked what came of it: find out later."""
        if len(self._doubts) >= DOUBTS_MAX:
            _log.error("too many submits are in doubt: whether chain %s is on record shows at the next start", chain_id)
            return
        self._doubts[chain_id] = None

    async def keep_on(self) -> None:
        """Claim until it is cancelled."""
        while True:
            found = await self._go_round()
            self._is_through = found == 0
            self._end_round()
            await self._obey()
            if not found:
                await self._until_news()

    def stop(self) -> None:
        """Tell whoever waits that there are no more rounds."""
        self._is_over = True
        self._end_round()

    async def until_looked_again(self) -> bool:
        """Wait for the end of a round; False when it found nothing more, so that waiting on would be for others.

        Raises:
            AicpError: There are no more rounds.
        """
        await self._round.wait()
        if self._is_over:
            raise AicpError("The chain has not ended: this coordinator stopped.")
        return not (self._is_through and not self._doubts and not self._stranding)

    async def _go_round(self) -> int | None:
        """Claim once; how many chains that were, or None when it failed."""
        try:
            await self._resolve_doubts()
            await self._stranding.look_again()
            records = await self._journal.claim(CLAIMED_AT_ONCE)
        except StorageError as error:
            _log.warning("unfinished chains cannot be claimed, trying on: %s", error)
            return None
        except Exception as error:  # noqa: BLE001 - supervised: whatever it is, it is logged and the loop goes on
            self._defects.report("recovery of chains", error)
            return None
        for record in records:
            await self._take_one(record)
            await asyncio.sleep(0)
        return len(records)

    async def _obey(self) -> None:
        """Carry out what is requested of chains that run here."""
        try:
            asked = await self._journal.asked()
        except StorageError as error:
            _log.warning("requests cannot be read, retrying: %s", error)
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._defects.report("requests", error)
            return
        for request in asked:
            if request.kind == CANCEL:
                self._cancel(request.chain_id)

    async def _until_news(self) -> None:
        if self._replicas is not None:
            try:
                await self._replicas.until_news(LOOK_EVERY_S)
            except Exception as error:  # noqa: BLE001 - as above
                self._defects.report("news of other replicas", error)
            else:
                return
        await asyncio.sleep(LOOK_EVERY_S)

    async def _resolve_doubts(self) -> None:
        for chain_id in list(self._doubts):
            record = await self._read(chain_id)
            del self._doubts[chain_id]
            # With a higher epoch it was claimed meanwhile, and runs there.
            if record is not None and not has_ended(record) and record.epoch == SUBMITTED_EPOCH:
                await self._take_one(record)

    async def _read(self, chain_id: str) -> ChainRecord | None:
        """What came of a submit in doubt; one that cannot be read is not run, and keeps no other from going on."""
        try:
            return await self._journal.read(chain_id)
        except (RecordDamaged, NewerVersion) as error:
            _log.error("chain %s cannot be read, and stays on record without being run: %s", chain_id, error)
            return None

    async def _take_one(self, record: ChainRecord) -> None:
        try:
            await self._take(record)
        except Exception:  # noqa: BLE001 - supervised: whatever it is, it is logged and the loop goes on
            _log.exception("chain %s cannot go on, and stays as it is", record.submitted.chain_id)

    def _end_round(self) -> None:
        ended, self._round = self._round, asyncio.Event()
        if self._is_over:
            self._round.set()
        ended.set()


def has_ended(record: ChainRecord) -> bool:
    """True when the end of a chain is on record; it is the last of its facts."""
    return bool(record.facts) and isinstance(record.facts[-1], ChainEnded)
