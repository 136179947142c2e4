"""Section 2 of the semantics, said as plainly as it can be: no locks, no shared permits, no fast paths.

What takes the breaker one comparison of numbers is here a ticket that remembers everything about itself.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from aicp.resilience.circuit_breaker import BreakerPolicy

CLOSED, OPEN, HALF_OPEN = "CLOSED", "OPEN", "HALF_OPEN"
FORCED_OPEN, DISABLED = "FORCED_OPEN", "DISABLED"

FIRST_WAIT_S, WAIT_FACTOR, WAIT_S_MAX = 1.0, 1.5, 60.0
JITTER_MIN, JITTER_MAX = 0.9, 1.1
STABLE_AFTER_S = 10.0
LOST_IN_ROW_MAX = 2


class Draws:
    """`uniform(low, high)` as a circuit is given it: says what it was asked, answers with what the test chose."""

    def __init__(self) -> None:
        self.share = 0.5
        self.asked = 0

    def uniform(self, low: float, high: float) -> float:
        assert (low, high) == (JITTER_MIN, JITTER_MAX)
        self.asked += 1
        return self.factor

    @property
    def factor(self) -> float:
        return JITTER_MIN + (JITTER_MAX - JITTER_MIN) * self.share


@dataclass(eq=False)
class Ticket:
    """One admission."""

    generation: int
    is_probe: bool = False
    lease_end: float = math.inf
    is_settled: bool = False


@dataclass(eq=False)
class PlainCircuit:
    """What a circuit must do; every method takes the time it happens at."""

    policy: BreakerPolicy
    draws: Draws
    gated: bool = False
    state: str = CLOSED
    generation: int = 0
    out: list[Ticket] = field(default_factory=list)
    calls: deque[tuple[bool, bool]] = field(default_factory=deque)
    failures_in_row: int = 0
    doubts_in_row: int = 0
    probe_successes: int = 0
    lost_in_row: int = 0
    wait_s: float = 0.0
    waiting_since: float = 0.0
    until: float = 0.0
    cool_until: float = -math.inf
    closed_at: float = -math.inf
    waits_drawn: int = 0
    successes: int = 0
    failures: int = 0
    rejected: int = 0
    late: int = 0
    lost: int = 0
    told: list[tuple[str, str]] = field(default_factory=list)

    # Admission: rules 1, 3, 4, 8.

    def acquire(self, now: float, lease_s: float) -> Ticket | None:
        self.lose_probes(now)
        ticket = self._admit(now, lease_s)
        if ticket is None:
            self.rejected += 1
        return ticket

    def _admit(self, now: float, lease_s: float) -> Ticket | None:
        if self.state == DISABLED:
            return Ticket(self.generation)
        if now < self.cool_until:
            return None
        if self.state == OPEN and now >= self.until and not self.gated:
            self._go(HALF_OPEN)
        if self.state == CLOSED:
            return Ticket(self.generation)
        if self.state == HALF_OPEN and len(self.out) < self.policy.half_open_max_probes:
            probe = Ticket(self.generation, is_probe=True, lease_end=now + lease_s)
            self.out.append(probe)
            return probe
        return None

    def lose_probes(self, now: float) -> None:
        for probe in [probe for probe in self.out if now >= probe.lease_end]:
            self._take_back(probe)
            self.lost += 1
            self.lost_in_row += 1
        if self.lost_in_row >= LOST_IN_ROW_MAX:
            self._open(now)

    def retry_after_s(self, now: float) -> float:
        if self.state == DISABLED:
            return 0.0
        if self.state == FORCED_OPEN:
            return math.inf
        at = self.cool_until
        if self.state == OPEN:
            at = max(at, self.until)
        if self.state == HALF_OPEN and len(self.out) >= self.policy.half_open_max_probes:
            at = max(at, min(now + FIRST_WAIT_S, *(probe.lease_end for probe in self.out)))
        return max(0.0, at - now)

    # Verdicts: rules 2, 5, 7.

    def settle(self, ticket: Ticket, now: float, *, failed: bool, slow: bool) -> None:
        self.lose_probes(now)
        if ticket.generation != self.generation:
            self.late += 1
        elif ticket.is_probe:
            if not ticket.is_settled:
                self._take_back(ticket)
                self._judge_probe(now, failed=failed)
        else:
            self._judge_call(now, failed=failed, slow=slow)

    def release(self, ticket: Ticket, now: float) -> None:
        if ticket in self.out:
            self.lose_probes(now)
        if ticket in self.out:
            self._take_back(ticket)

    def doubt(self, ticket: Ticket, now: float, *, again: bool) -> None:
        """Section 1: held in CLOSED, where so many in a row open; a failure in HALF_OPEN."""
        self.lose_probes(now)
        if ticket.generation != self.generation:
            self.late += 1
        elif ticket.is_probe:
            if not ticket.is_settled:
                self._take_back(ticket)
                self._judge_probe(now, failed=True)
        elif self.state == CLOSED and not again:
            self.doubts_in_row += 1
            if self.doubts_in_row >= self.policy.doubt_threshold:
                self._open(now)

    def retract(self, ticket: Ticket) -> None:
        if ticket.generation == self.generation and not ticket.is_probe:
            self.doubts_in_row = max(0, self.doubts_in_row - 1)

    def trip(self, ticket: Ticket, now: float) -> None:
        if self.state == CLOSED and ticket.generation == self.generation:
            self._open(now)

    def evidence(self, now: float, since: Ticket | None = None) -> None:
        self.lose_probes(now)
        if since is not None and since.generation != self.generation:
            self.late += 1
        elif self.state == CLOSED:
            self._judge_call(now, failed=True, slow=False)
        elif self.state == HALF_OPEN:
            self.failures += 1
            self._open(now)

    def _judge_probe(self, now: float, *, failed: bool) -> None:
        if failed:
            self.failures += 1
            self._open(now)
            return
        self.successes += 1
        self.lost_in_row = 0
        self.probe_successes += 1
        if self.probe_successes >= self.policy.success_threshold:
            self._go(CLOSED)
            self.closed_at = now

    def _judge_call(self, now: float, *, failed: bool, slow: bool) -> None:
        self.failures += failed
        self.successes += not failed
        if self.state == DISABLED:
            return
        self.failures_in_row = self.failures_in_row + 1 if failed else 0
        self.doubts_in_row = self.doubts_in_row if failed else 0
        self.calls.append((failed, slow))
        if len(self.calls) > self.policy.window:
            self.calls.popleft()
        if failed or slow:
            self._open_if_too_bad(now)

    def _open_if_too_bad(self, now: float) -> None:
        policy, count = self.policy, len(self.calls)
        too_bad = self.failures_in_row >= policy.failure_threshold
        if count >= min(policy.window_calls_min, policy.window):
            failed = sum(failed for failed, _ in self.calls)
            slow = sum(slow for _, slow in self.calls)
            too_bad |= policy.failure_rate is not None and failed >= policy.failure_rate * count
            too_bad |= policy.slow_call_rate is not None and slow >= policy.slow_call_rate * count
        if too_bad:
            self._open(now)

    # Waits: rules 6, 8, 11.

    def cool_down(self, now: float, seconds: float) -> None:
        self.cool_until = max(self.cool_until, now + seconds)

    def admit_probe(self) -> None:
        if self.state == OPEN:
            self._go(HALF_OPEN)

    def probe_failed(self, now: float) -> None:
        if self.state == OPEN:
            self._wait_on(now)

    def cap_wait(self, seconds: float) -> None:
        if self.state == OPEN:
            self.until = min(self.until, self.waiting_since + seconds)

    # Operators and new processes: rules 6, 10.

    def force_open(self) -> None:
        self._go(FORCED_OPEN)

    def disable(self) -> None:
        self._go(DISABLED)

    def reset(self) -> None:
        self._forget_waits()
        self._go(CLOSED)

    def new_instance(self) -> None:
        self._forget_waits()
        if self.state in {OPEN, HALF_OPEN}:
            self._go(HALF_OPEN)
        elif self.state == CLOSED:
            self._go(CLOSED)

    def _open(self, now: float) -> None:
        if self.state == CLOSED and now >= self.closed_at + STABLE_AFTER_S:
            self.wait_s = 0.0
        self._wait_on(now)
        self._go(OPEN)

    def _wait_on(self, now: float) -> None:
        self.wait_s = min(self.wait_s * WAIT_FACTOR, WAIT_S_MAX) if self.wait_s else FIRST_WAIT_S
        self.waiting_since = now
        self.until = now + self.wait_s * self.draws.factor
        self.waits_drawn += 1

    def _forget_waits(self) -> None:
        self.wait_s = 0.0
        self.cool_until = self.closed_at = -math.inf

    def _go(self, state: str) -> None:
        if state != self.state:
            self.told.append((self.state, state))
        self.state = state
        self.generation += 1
        self.out.clear()
        self.calls.clear()
        self.failures_in_row = self.doubts_in_row = self.probe_successes = self.lost_in_row = 0

    def _take_back(self, probe: Ticket) -> None:
        probe.is_settled = True
        self.out.remove(probe)
