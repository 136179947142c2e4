"""Circuits by name in opaque groups, made on the first failure: whoever never failed (or lagged) costs nothing.

In a node a group is an agent and a name one of its capabilities. Commands on a group also hold for circuits it gets
later. A circuit that was not made yet admits with its group's absent permit, which is where its counter will begin.
"""

import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from aicp.resilience.circuit_breaker import (
    DEFAULT_POLICY,
    REFUSED,
    BreakerMetrics,
    BreakerPolicy,
    CircuitBreaker,
    CircuitState,
    Transition,
)

FIRST_PERMIT = 1
CIRCUITS_MAX = 100_000
_LOOKS_MAX = 16
WORST_FIRST = (
    CircuitState.FORCED_OPEN,
    CircuitState.OPEN,
    CircuitState.HALF_OPEN,
    CircuitState.DISABLED,
    CircuitState.CLOSED,
)
"""The states, the worst first."""


class _Group:
    """The circuits of one group, and what was ordered for all of them."""

    __slots__ = ("absent_permit", "circuits", "cool_until", "mode")

    def __init__(self) -> None:
        self.circuits: dict[str, CircuitBreaker] = {}
        self.absent_permit = FIRST_PERMIT
        self.mode: CircuitState | None = None
        self.cool_until = -math.inf


class CircuitBoard:
    """Many circuits under one policy; every call is O(1) in their number, group-wide ones in the group's.

    For one thread: the event loop's.

    Args:
        policy: For every circuit.
        clock: Monotonic seconds.
        uniform: For jitter.
        gated: True when probes wait for `admit_probe`.
        listener: Told of each transition as `(group, transition)`.
        circuits_max: More are not kept: idle ones make room, else the failure is only counted in `overflowed`.

    Attributes:
        overflowed: Failures that found no room for a circuit.
        rejected: Permits that were refused, by whatever circuit, kept or forgotten.
    """

    def __init__(
        self,
        policy: BreakerPolicy = DEFAULT_POLICY,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        gated: bool = False,
        listener: Callable[[str, Transition], Any] | None = None,
        circuits_max: int = CIRCUITS_MAX,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._uniform = uniform
        self._gated = gated
        self._listener = listener
        self._circuits_max = circuits_max
        self._slow_call_s = math.inf
        if policy.slow_call_rate is not None and policy.slow_call_s is not None:
            self._slow_call_s = policy.slow_call_s
        self._groups: dict[str, _Group] = {}
        self._by_age: OrderedDict[tuple[str, str], CircuitBreaker] = OrderedDict()
        self.overflowed = 0
        self.rejected = 0

    @property
    def doubt_threshold(self) -> int:
        """Doubted failures in a row that open a circuit."""
        return self._policy.doubt_threshold

    def listen(self, listener: Callable[[str, Transition], Any]) -> None:
        """Tell `listener(group, transition)` of every transition from now on, in place of the one before."""
        self._listener = listener

    def try_acquire(self, group: str, name: str, probe_lease_s: float | None = None) -> int:
        """A permit for the circuit, or 0; `probe_lease_s` as in `CircuitBreaker.try_acquire`."""
        held = self._groups.get(group)
        if held is None:
            return FIRST_PERMIT
        circuit = held.circuits.get(name)
        if circuit is not None:
            permit = circuit.try_acquire(probe_lease_s)
        else:
            permit = REFUSED if self._absent_wait_s(held) else held.absent_permit
        self.rejected += not permit
        return permit

    def record_success(self, group: str, name: str, permit: int, elapsed_s: float | None = None) -> None:
        """Settle a permit: it went well; if slow calls count, the circuit is made if this is its first slow one."""
        circuit = self._find(group, name)
        if circuit is None and elapsed_s is not None and elapsed_s >= self._slow_call_s:
            circuit = self._find_or_make(group, name)
        if circuit is not None:
            circuit.record_success(permit, elapsed_s)

    def record_failure(self, group: str, name: str, permit: int, elapsed_s: float | None = None) -> None:
        """Settle a permit: it failed; the circuit is made if this is its first failure."""
        circuit = self._find_or_make(group, name)
        if circuit is not None:
            circuit.record_failure(permit, elapsed_s)

    def record_doubt(self, group: str, name: str, permit: int, *, again: bool = False) -> None:
        """Settle a permit: as `CircuitBreaker.record_doubt`; the circuit is made if this is its first doubt."""
        circuit = self._find_or_make(group, name)
        if circuit is not None:
            circuit.record_doubt(permit, again=again)

    def retract_doubt(self, group: str, name: str, permit: int) -> None:
        """As `CircuitBreaker.retract_doubt`."""
        circuit = self._find(group, name)
        if circuit is not None:
            circuit.retract_doubt(permit)

    def trip(self, group: str, name: str, since: int) -> None:
        """As `CircuitBreaker.trip`; the circuit is made if it has never failed."""
        circuit = self._find_or_make(group, name)
        if circuit is not None:
            circuit.trip(since)

    def release(self, group: str, name: str, permit: int) -> None:
        """Settle a permit without a verdict."""
        circuit = self._find(group, name)
        if circuit is not None:
            circuit.release(permit)

    def record_evidence(self, group: str, names: Iterable[str], since: int | None = None) -> None:
        """Count a failure against each of these circuits; `since` as in `CircuitBreaker.record_evidence`."""
        for name in names:
            circuit = self._find_or_make(group, name)
            if circuit is not None:
                circuit.record_evidence(since)

    def ready_in_s(self, group: str, name: str) -> float:
        """Seconds until the circuit may admit: 0 when now, infinite when only an operator can help."""
        held = self._groups.get(group)
        if held is None:
            return 0.0
        circuit = held.circuits.get(name)
        return circuit.retry_after_s if circuit is not None else self._absent_wait_s(held)

    def needs_probe(self, group: str, name: str) -> bool:
        """True when the circuit is OPEN and, being gated, admits nobody before `admit_probe`."""
        circuit = self._find(group, name)
        return self._gated and circuit is not None and circuit.state is CircuitState.OPEN

    def admit_probe(self, group: str, names: Iterable[str]) -> None:
        """Let a probe through each of these circuits that is OPEN."""
        for circuit in self._found(group, names):
            circuit.admit_probe()

    def probe_failed(self, group: str, names: Iterable[str]) -> None:
        """Let each of these circuits that is OPEN stay so for its next wait."""
        for circuit in self._found(group, names):
            circuit.probe_failed()

    def cap_waits(self, groups: Iterable[str], name: str, wait_s_max: float) -> None:
        """Let the current wait of these groups' circuits of that name be at most so long."""
        for group in groups:
            circuit = self._find(group, name)
            if circuit is not None:
                circuit.cap_wait(wait_s_max)

    def cool_down(self, group: str, retry_after_s: float) -> None:
        """Admit nobody to the group for so long; the longest promise wins."""
        held = self._groups.setdefault(group, _Group())
        held.cool_until = max(held.cool_until, self._clock() + retry_after_s)
        for circuit in held.circuits.values():
            circuit.cool_down(retry_after_s)

    def cool_down_one(self, group: str, name: str, retry_after_s: float) -> None:
        """Admit nobody to one circuit for so long; the longest promise wins."""
        circuit = self._find_or_make(group, name)
        if circuit is not None:
            circuit.cool_down(retry_after_s)

    def force_open(self, group: str) -> None:
        """Admit nobody to the group until `reset`."""
        held = self._next_generation(group)
        held.mode = CircuitState.FORCED_OPEN
        for circuit in held.circuits.values():
            circuit.force_open()

    def disable(self, group: str) -> None:
        """Admit everybody to the group and learn nothing until `reset`."""
        held = self._next_generation(group)
        held.mode = CircuitState.DISABLED
        for circuit in held.circuits.values():
            circuit.disable()

    def reset(self, group: str) -> None:
        """Close every circuit of the group and forget failures, waits, promises and orders."""
        held = self._next_generation(group)
        held.mode, held.cool_until = None, -math.inf
        for circuit in held.circuits.values():
            circuit.reset()

    def new_instance(self, group: str) -> None:
        """Behind the group is a new process; orders of an operator stay."""
        held = self._next_generation(group)
        held.cool_until = -math.inf
        for circuit in held.circuits.values():
            circuit.new_instance()

    def remove(self, group: str) -> None:
        """Forget the group."""
        held = self._groups.pop(group, None)
        for name in held.circuits if held else ():
            del self._by_age[group, name]

    def get_state(self, group: str, name: str | None = None) -> CircuitState:
        """The state of one circuit, or the worst in the group."""
        held = self._groups.get(group)
        if held is None:
            return CircuitState.CLOSED
        absent = held.mode or CircuitState.CLOSED
        if name is not None:
            circuit = held.circuits.get(name)
            return circuit.state if circuit is not None else absent
        states = {absent, *(circuit.state for circuit in held.circuits.values())}
        return next(state for state in WORST_FIRST if state in states)

    def get_metrics(self, group: str) -> dict[str, BreakerMetrics]:
        """Counters of the group's circuits by name; those never made are left out."""
        held = self._groups.get(group)
        return {name: circuit.metrics for name, circuit in held.circuits.items()} if held else {}

    def __len__(self) -> int:
        """How many circuits were made and are kept."""
        return len(self._by_age)

    def _next_generation(self, group: str) -> _Group:
        """What is in flight becomes late, for circuits that were not made yet as well."""
        held = self._groups.setdefault(group, _Group())
        held.absent_permit += 1
        return held

    def _absent_wait_s(self, held: _Group) -> float:
        if held.mode is CircuitState.DISABLED:
            return 0.0
        if held.mode is CircuitState.FORCED_OPEN:
            return math.inf
        return max(0.0, held.cool_until - self._clock())

    def _find(self, group: str, name: str) -> CircuitBreaker | None:
        held = self._groups.get(group)
        return held.circuits.get(name) if held is not None else None

    def _found(self, group: str, names: Iterable[str]) -> list[CircuitBreaker]:
        return [circuit for name in names if (circuit := self._find(group, name)) is not None]

    def _find_or_make(self, group: str, name: str) -> CircuitBreaker | None:
        circuit = self._find(group, name)
        if circuit is None and self._has_room():
            return self._make(group, name)
        return circuit

    def _has_room(self) -> bool:
        if len(self._by_age) < self._circuits_max or self._drop_an_idle_one():
            return True
        self.overflowed += 1
        return False

    def _make(self, group: str, name: str) -> CircuitBreaker:
        held = self._groups.setdefault(group, _Group())
        circuit = CircuitBreaker(
            name,
            self._policy,
            clock=self._clock,
            uniform=self._uniform,
            gated=self._gated,
            listener=lambda transition: self._tell(group, transition),
            first_permit=held.absent_permit,
        )
        held.circuits[name] = self._by_age[group, name] = circuit
        self._obey(circuit, held)
        return circuit

    def _obey(self, circuit: CircuitBreaker, held: _Group) -> None:
        """Orders given to the group before hold for the new circuit too."""
        if held.cool_until > self._clock():
            circuit.cool_down(held.cool_until - self._clock())
        if held.mode is CircuitState.FORCED_OPEN:
            circuit.force_open()
        elif held.mode is CircuitState.DISABLED:
            circuit.disable()

    def _drop_an_idle_one(self) -> bool:
        """Look at the oldest few; an idle one is forgotten, the others go to the end."""
        for _ in range(min(_LOOKS_MAX, len(self._by_age))):
            (group, name), circuit = self._by_age.popitem(last=False)
            if circuit.is_idle:
                held = self._groups[group]
                del held.circuits[name]
                held.absent_permit = max(held.absent_permit, circuit.last_permit + 1)
                return True
            self._by_age[group, name] = circuit
        return False

    def _tell(self, group: str, transition: Transition) -> None:
        if self._listener is not None:
            self._listener(group, transition)
