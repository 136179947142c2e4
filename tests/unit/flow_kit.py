"""Board, scheduler, prober, router and coordinator, wired as a node wires them, on virtual time."""

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, ParamSpec, Self

import pytest

from aicp.coordination.task_coordinator import TaskCoordinator
from aicp.model.agent import DEFAULT_TENANT, AgentProfile, Capability
from aicp.model.event import AttemptEnded, AttemptStarted, Event
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, Task
from aicp.ports import Journal, Observer
from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitState
from aicp.routing.failover_router import FailoverRouter
from aicp.routing.prober import Prober
from aicp.scheduling.fleet import Seat
from aicp.scheduling.latency import SAMPLES_MAX
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.scheduling.task_scheduler import TaskScheduler
from aicp.storage.memory import MemoryJournal
from aicp.testing import VirtualClock, run, running_loop
from aicp.testing.faulty_agents import ScriptedAgent, ScriptedTransport, Step

P = ParamSpec("P")

ECHO = "test.echo"
SOON_S = 1e-6


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on virtual time."""

    @functools.wraps(test)
    def on_virtual_time(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return on_virtual_time


def counted_in_turns(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Callable[[], tuple[int, int]]:
    """Count the calls of a function of a module or class; gives how many, and the most in one turn of the loop."""
    work, calls, in_this_turn, most = getattr(owner, name), 0, 0, 0

    def next_turn() -> None:
        nonlocal in_this_turn
        in_this_turn = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls, in_this_turn, most
        if not in_this_turn:
            asyncio.get_running_loop().call_soon(next_turn)
        calls, in_this_turn = calls + 1, in_this_turn + 1
        most = max(most, in_this_turn)
        return work(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)
    return lambda: (calls, most)


def now() -> float:
    return running_loop().time()


def agent(
    agent_id: str,
    *capabilities: str | Capability,
    slots: int = 1,
    labels: dict[str, str] | None = None,
    instance_id: str = "",
    tenant: str = DEFAULT_TENANT,
    shared: bool = False,
) -> AgentProfile:
    offered = tuple(Capability(each) if isinstance(each, str) else each for each in capabilities or (ECHO,))
    return AgentProfile(
        agent_id, offered, slots, labels=labels or {}, instance_id=instance_id, tenant=tenant, shared=shared
    )


def task(capability: str = ECHO, **options: Any) -> Task:
    return Task(capability, **options)


def measured(seat: Seat, latency_s: float) -> None:
    """Let a seat be well known for this speed."""
    seat.latency_s, seat.samples, seat.measured_at = latency_s, SAMPLES_MAX, now()


async def granted(asked: asyncio.Task[Lease | Unscheduled]) -> Lease:
    """The lease that came of asking, which must have been granted."""
    lease = await asked
    assert isinstance(lease, Lease), lease
    return lease


class CountingBoard(CircuitBoard):
    """A board that remembers who was asked for a permit."""

    def __init__(self, policy: BreakerPolicy, **options: Any) -> None:
        super().__init__(policy, **options)
        self.asked: list[str] = []

    def try_acquire(self, group: str, name: str, probe_lease_s: float | None = None) -> int:
        self.asked.append(group)
        return super().try_acquire(group, name, probe_lease_s)


class Stage:
    """A scheduler and its board.

    When a test ends without an error, nobody may be left in line, and no slot, lease or probe may be taken.
    """

    def __init__(
        self, *profiles: AgentProfile, policy: BreakerPolicy | None = None, gated: bool = True, seed: int = 0
    ) -> None:
        self.clock = VirtualClock()
        self.rng = random.Random(seed)
        self.scheduler: TaskScheduler
        self.board = CountingBoard(
            policy or BreakerPolicy(),
            clock=self.clock.monotonic,
            uniform=lambda low, high: (low + high) / 2,
            gated=gated,
            listener=lambda agent_id, _transition: self.scheduler.refresh(agent_id),
        )
        self.due: list[tuple[float, str]] = []
        self.scheduler = TaskScheduler(self.board, clock=self.clock, rng=self.rng, on_probe_due=self._probe_due)
        for profile in profiles:
            self.scheduler.add_agent(profile)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.scheduler.close()
        if error is None:
            assert self.left_over() == {}

    async def lease(self, wanted: Task | None = None, **options: Any) -> Lease:
        """A lease that must be had."""
        lease = await self.scheduler.schedule_task(wanted or task(), **options)
        assert isinstance(lease, Lease), lease
        return lease

    def asking(self, wanted: Task | None = None, **options: Any) -> asyncio.Task[Lease | Unscheduled]:
        """Ask for a lease beside the test."""
        return asyncio.create_task(self.scheduler.schedule_task(wanted or task(), **options))

    def succeed(self, *leases: Lease, elapsed_s: float = 1.0) -> None:
        for lease in leases:
            self.scheduler.complete_task(lease, Outcome.SUCCESS, elapsed_s)

    def complete(self, lease: Lease, outcome: Outcome, **options: Any) -> None:
        self.scheduler.complete_task(lease, outcome, options.pop("elapsed_s", 1.0), **options)

    async def fault(self, agent_id: str, times: int = 5, capability: str = ECHO) -> None:
        """Let attempts at an agent end as its fault; five open its circuit."""
        for _ in range(times):
            lease = await self.lease(task(capability, agents=(agent_id,)))
            self.complete(lease, Outcome.AGENT_FAULT)

    def state(self, agent_id: str, capability: str = ECHO) -> CircuitState:
        return self.board.get_state(agent_id, capability)

    def why_out(self, agent_id: str, capability: str = ECHO) -> str:
        return self.scheduler.member(agent_id).seats[capability].why_out

    def taken(self, agent_id: str) -> int:
        return self.scheduler.member(agent_id).taken

    def left_over(self) -> dict[str, Any]:
        """Whatever is taken or waits; empty when all is given back."""
        circuits = [circuit for group in self.board._groups.values() for circuit in group.circuits.values()]
        found = {
            "slots": {m.profile.agent_id: m.taken for m in self.scheduler.members() if m.taken},
            "waiting": self.scheduler.status().queue_depth,
            "lines": dict(self.scheduler._lines),
            "leases": list(self.scheduler.leases()),
            "probes": [circuit.name for circuit in circuits if circuit._probes],
        }
        return {what: value for what, value in found.items() if value}

    def _probe_due(self, profile: AgentProfile) -> None:
        self.due.append((now(), profile.agent_id))


class Recorder:
    """An observer that remembers every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    @property
    def started(self) -> list[AttemptStarted]:
        return [event for event in self.events if isinstance(event, AttemptStarted)]

    @property
    def ended(self) -> list[AttemptEnded]:
        return [event for event in self.events if isinstance(event, AttemptEnded)]


class Flow(Stage):
    """A stage with a router over scripted agents, a prober, and a coordinator when asked for one."""

    def __init__(
        self,
        *agents: ScriptedAgent,
        policy: BreakerPolicy | None = None,
        journal: Journal | None = None,
        seed: int = 0,
        transport: ScriptedTransport | None = None,
        accepted_max: int = 100_000,
        observer: Observer | None = None,
        **coordinator: Any,
    ) -> None:
        super().__init__(policy=policy, seed=seed)
        self.transport = transport or ScriptedTransport(*agents)
        self.seen = Recorder()
        observer = observer or self.seen
        self.router = FailoverRouter(
            self.scheduler, self.transport, self.board, clock=self.clock, rng=self.rng, observer=observer
        )
        self.prober = Prober(self.transport, self.board, self.scheduler)
        self.scheduler.on_probe_due = self.prober.probe_soon
        self.journal = journal or MemoryJournal(clock=self.clock)
        self.coordinator = TaskCoordinator(
            self.router,
            self.journal,
            clock=self.clock,
            rng=self.rng,
            observer=observer,
            accepted_max=accepted_max,
            **coordinator,
        )
        for each in agents:
            self.scheduler.add_agent(each.profile)

    async def __aenter__(self) -> Self:
        await self.coordinator.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.coordinator.__aexit__(kind, error, trace)
        await self.prober.close()
        await super().__aexit__(kind, error, trace)

    def tried(self) -> list[str]:
        """Who was called, in order."""
        return [call.agent_id for call in self.transport.calls]


def no_answer() -> Step:
    """Say nothing until the call's time is over, as a transport reports it."""

    async def step(_agent: ScriptedAgent, call: Call) -> Reply:
        await asyncio.sleep(call.timeout_s - SOON_S)
        return Reply(Outcome.AGENT_FAULT, reason=f"no answer within {call.timeout_s:.3g} s", timed_out=True)

    return step


def times(step: Step, count: int) -> Iterable[Step]:
    return [step] * count
