"""What a task gets from the scheduler: an agent's slot for a while, or the reason why not."""

import logging
from collections.abc import Callable, Iterator
from enum import Enum

from aicp import standstill
from aicp.model.agent import AgentProfile
from aicp.ports import Clock
from aicp.scheduling.fleet import Seat

LOOK_EVERY_S = 1.0
_log = logging.getLogger(__name__)


class Unscheduled(Enum):
    """Why `schedule_task` gave no lease."""

    NOBODY_CAPABLE = "no agent offers the capability"
    ALL_OUT = "every capable agent is out"
    ALL_REFUSE = "every agent that offers the capability refuses it"
    NOBODY_ELSE = "everybody who may be used was tried"
    DEADLINE = "the deadline came while waiting"
    LINE_FULL = "too many tasks are waiting"


class Lease:
    """A slot of an agent and the permit of its circuit, to be given back through `complete_task`.

    Attributes:
        agent: Who shall do it.
        key: The capability's key.
        permit: Of the circuit.
        timeout_s: How long the attempt may take.
        granted_at: When it was given, monotonic seconds.
        expires_at: When slot and permit are freed anyway, monotonic seconds.
        bucket: The speed the agent was picked for.
        moves_left: How often standstills may still move `expires_at`.
        is_spared: True when it was moved: when it is over, it is left for one more look, as its attempt may be ending
            in this very moment.
    """

    __slots__ = (
        "agent", "bucket", "expires_at", "granted_at", "is_settled", "is_spared", "key", "moves_left", "permit", "seat",
        "timeout_s",
    )  # fmt: skip

    def __init__(
        self, seat: Seat, bucket: int, permit: int, timeout_s: float, granted_at: float, expires_at: float
    ) -> None:
        self.seat = seat
        self.bucket = bucket
        self.agent: AgentProfile = seat.member.profile
        self.key = seat.pool.key
        self.permit = permit
        self.timeout_s = timeout_s
        self.granted_at = granted_at
        self.expires_at = expires_at
        self.moves_left = 1
        self.is_settled = self.is_spared = False

    def begin_again(self) -> None:
        """Let it be moved once more: its attempt goes on, on a fresh connection, with a timer of its own."""
        self.moves_left += 1

    def is_over(self, now: float) -> bool:
        """True when it has expired; once, it is moved by the standstills of this process that fell into it."""
        if self.moves_left:
            self.moves_left -= 1
            limit = standstill.TimeLimit(self.granted_at, self.expires_at)
            if not limit.is_over(max(now, self.expires_at)):
                self.expires_at = limit.ends_at
                self.is_spared = True
                return False
        was_spared, self.is_spared = self.is_spared, False
        return not was_spared


class Leases:
    """Every lease that was not given back, by the second in which it expires.

    Args:
        clock: Time.
        on_expiry: Told of each that expired, up to a second late; it settles it.

    Attributes:
        expired: How many did. It is an alarm: whoever takes a lease gives it back.
    """

    def __init__(self, clock: Clock, on_expiry: Callable[[Lease], None]) -> None:
        self._clock = clock
        self._on_expiry = on_expiry
        self._by_second: dict[int, dict[Lease, None]] = {}
        self._timer: standstill.Timer | None = None
        self.expired = 0

    def __iter__(self) -> Iterator[Lease]:
        """In the order they expire, by the second."""
        return (lease for second in sorted(self._by_second) for lease in self._by_second[second])

    def watch(self, lease: Lease) -> None:
        """It was given."""
        self._by_second.setdefault(int(lease.expires_at) + 1, {})[lease] = None
        if self._timer is None:
            self._look_again()

    def settle(self, lease: Lease) -> bool:
        """It was given back; False when it was before."""
        if lease.is_settled:
            return False
        lease.is_settled = True
        second = int(lease.expires_at) + 1
        leases = self._by_second[second]
        del leases[lease]
        if not leases:
            del self._by_second[second]
        return True

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, lease: Lease, second: int, now: float) -> None:
        if lease.is_over(now):
            self.expired += 1
            self._on_expiry(lease)
            return
        leases = self._by_second[second]
        del leases[lease]
        if not leases:
            del self._by_second[second]
        self._by_second.setdefault(int(lease.expires_at) + 1, {})[lease] = None

    def _look_again(self) -> None:
        self._timer = standstill.call_later(LOOK_EVERY_S, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        for second in [second for second in self._by_second if second <= now]:
            for lease in list(self._by_second.get(second, ())):
                try:
                    self._look_at(lease, second, now)
                except Exception:  # noqa: BLE001 - one lease is not the others' trouble
                    _log.exception("slot lease of agent %s: defect", lease.agent.agent_id)
        if self._by_second and self._timer is None:
            self._look_again()
