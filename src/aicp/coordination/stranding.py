"""Chains that a defect stopped here before their end: each is looked at again with backoff, until it ends."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from aicp.coordination.carrying import DEFECT_BACKOFF
from aicp.errors import StorageError
from aicp.model.event import ChainSubmitted
from aicp.ports import Clock
from aicp.routing.defects import Defects


class StrandedChain(msgspec.Struct, frozen=True, eq=False):
    """A chain that stopped here without an end, and whose owner this process still is.

    Attributes:
        submitted: The chain.
        epoch: Of this owner.
        deadline: When its time is over, monotonic seconds.
        attempts: How many attempts of each task were made, by local id: their numbers must go on rising.
        is_hopeless: True when it stopped after its deadline: all that is left is to record that it failed.
    """

    submitted: ChainSubmitted
    epoch: int
    deadline: float
    attempts: Mapping[str, int] = {}
    is_hopeless: bool = False


class Stranding:
    """Looks at stranded chains again: a second later, then less and less often, once a minute in the end.

    It holds accepted chains only, so it is bounded by what may be accepted.

    Args:
        resume: Makes a chain go on from its record, or ends it.
        clock: Time.
        defects: Reports what `resume` raises.
        uniform: Chance, for the waits.
    """

    def __init__(
        self,
        resume: Callable[[StrandedChain], Awaitable[None]],
        clock: Clock,
        defects: Defects,
        uniform: Callable[[float, float], float],
    ) -> None:
        self._resume = resume
        self._clock = clock
        self._defects = defects
        self._uniform = uniform
        self._chains: dict[str, StrandedChain] = {}
        self._due: dict[str, float] = {}
        self._waits_s: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._chains)

    def add(self, chain: StrandedChain) -> None:
        """Look at a chain again, later each time it strands."""
        chain_id = chain.submitted.chain_id
        self._chains[chain_id] = chain
        self._put_off(chain_id)

    def forget(self, chain_id: str) -> None:
        """A chain ended, or is somebody else's."""
        self._waits_s.pop(chain_id, None)

    async def look_again(self) -> None:
        """Resume every chain whose wait is over.

        Raises:
            StorageError: The record could not be read or written; the rest is done the next time.
        """
        now = self._clock.monotonic()
        for chain_id in [chain_id for chain_id, due in self._due.items() if due <= now]:
            await self._look_at(chain_id)

    async def _look_at(self, chain_id: str) -> None:
        chain = self._chains[chain_id]
        try:
            await self._resume(chain)
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 - supervised: whatever it is, it is logged and the work goes on
            self._defects.report(f"chain {chain_id}", error)
            self._put_off(chain_id)
            return
        if self._chains.get(chain_id) is chain:
            del self._chains[chain_id], self._due[chain_id]

    def _put_off(self, chain_id: str) -> None:
        wait_s = self._waits_s[chain_id] = DEFECT_BACKOFF.after(self._waits_s.get(chain_id, 0.0))
        self._due[chain_id] = self._clock.monotonic() + DEFECT_BACKOFF.jittered(wait_s, self._uniform)
