"""Writes that a lock keeps from being recorded: each waits with its chain, in order, and all others go on."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import msgspec

W = TypeVar("W")

AGAIN_FIRST_S = 0.05
AGAIN_FACTOR = 1.5
AGAIN_S_MAX = 1.0


class _Case(msgspec.Struct):
    since: float
    wait_s: float
    again_at: float
    is_alone: bool


class HeldWrites(Generic[W]):
    """Chains whose writes met a lock, each with its backoff: 50 ms, growing to 1 s.

    Args:
        give_up_s: How long a chain's writes wait, from the first lock that they met, seconds.
    """

    def __init__(self, give_up_s: float) -> None:
        self._give_up_s = give_up_s
        self._cases: dict[str, _Case] = {}
        self._waiting: dict[str, deque[W]] = {}

    def __bool__(self) -> bool:
        """True while a write waits here."""
        return bool(self._waiting)

    @property
    def has_cases(self) -> bool:
        """True while there is a chain that met a lock and has not been recorded since."""
        return bool(self._cases)

    def takes(self, chain_id: str, write: W) -> bool:
        """Let a write wait behind those of its chain; False when none of them waits."""
        waiting = self._waiting.get(chain_id)
        if waiting is None:
            return False
        waiting.append(write)
        return True

    def is_alone(self, chain_id: str) -> bool:
        """True for a chain whose writes are to share no transaction, since they would wait for their lock there."""
        case = self._cases.get(chain_id)
        return case is not None and case.is_alone

    def hold(self, chain_id: str, writes: Iterable[W], now: float, *, is_alone: bool) -> bool:
        """Let the writes of a chain, which have just met a lock, wait; False when it has been waiting for too long."""
        case = self._cases.get(chain_id)
        if case is None:
            case = self._cases[chain_id] = _Case(now, AGAIN_FIRST_S, now, is_alone)
        elif now - case.since >= self._give_up_s:
            del self._cases[chain_id]
            return False
        else:
            case.wait_s, case.is_alone = min(case.wait_s * AGAIN_FACTOR, AGAIN_S_MAX), is_alone
        case.again_at = now + case.wait_s
        self._waiting[chain_id] = deque(writes)
        return True

    def settle(self, chain_id: str) -> None:
        """Forget that a chain met a lock: its writes have their answer."""
        self._cases.pop(chain_id, None)

    def due(self, now: float) -> list[W]:
        """The writes of each chain whose wait is over; of those that go alone, of one chain at most."""
        due, has_alone = list[W](), False
        for chain_id in [each for each in self._waiting if self._cases[each].again_at <= now]:
            is_alone = self._cases[chain_id].is_alone
            if not (is_alone and has_alone):
                has_alone |= is_alone
                due += self._waiting.pop(chain_id)
        return due

    def next_in_s(self, now: float, s_max: float) -> float:
        """Until the next wait is over, seconds; `s_max` at most."""
        return min((max(0.0, self._cases[each].again_at - now) for each in self._waiting), default=s_max)

    def take_all(self) -> Iterator[W]:
        """Every write that waits; none does any more."""
        while self._waiting:
            yield from self._waiting.popitem()[1]
        self._cases.clear()
