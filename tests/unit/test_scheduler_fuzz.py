"""Any sequence of events leaves a scheduler that agrees with itself: nothing leaks, nobody waits beside who is free."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from aicp.model.agent import AgentProfile
from aicp.model.outcome import Outcome
from aicp.model.task import Priority
from aicp.registry.leases import Liveness
from aicp.scheduling.fleet import NOWHERE, Member, Pool, Seat
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.scheduling.serving import WELL_KNOWN
from aicp.scheduling.waiter import Waiter
from aicp.scheduling.waiting_line import WaitingLine
from tests.unit.flow_kit import Stage, agent, now, task, virtual

CAPABILITIES = ("x.one", "x.two", "x.three")
LABELS: tuple[dict[str, str], ...] = ({}, {"gpu": "yes"}, {"gpu": "yes", "zone": "a"})
TENANTS = ("default", "acme", "bolt")
OUTCOMES = [*[Outcome.SUCCESS] * 5, *[Outcome.AGENT_FAULT] * 5, *Outcome]
MOSTLY_GOOD = [*[Outcome.SUCCESS] * 60, *Outcome]
COMMANDS = ("drain", "remove", "restore", "liveness", "force", "disable", "reset", "probe", "probe")
STEPS = 400


class Chaos:
    """Does one random thing after another to a stage.

    Args:
        stage: To what.
        draw: Chance.
        outcomes: How attempts end; mostly well, and speeds become known and tasks are held for faster agents.
    """

    def __init__(self, stage: Stage, draw: random.Random, outcomes: Sequence[Outcome] = OUTCOMES) -> None:
        self.stage = stage
        self.draw = draw
        self.is_calm = outcomes is MOSTLY_GOOD
        self.outcomes = outcomes
        self.replicas = 1
        self.holds_seen = 0
        self.asked: list[asyncio.Task[Lease | Unscheduled]] = []
        self.tenants: dict[asyncio.Task[Lease | Unscheduled], str] = {}
        self.leases: list[Lease] = []
        self.forgotten: list[Lease] = []
        self.instance = 0

    def profile(self) -> AgentProfile:
        draw = self.draw
        offered = draw.sample(CAPABILITIES, k=draw.randint(1, 3))
        self.instance += draw.random() < 0.3
        name, labels = f"a{draw.randint(0, 5)}", draw.choice(LABELS)
        tenant, shared = draw.choice(TENANTS), draw.random() < 0.5
        slots, instance_id = draw.randint(1, 4), str(self.instance)
        return agent(name, *offered, slots=slots, labels=labels, instance_id=instance_id, tenant=tenant, shared=shared)

    def some_agent(self) -> str | None:
        known = [member.profile.agent_id for member in self.stage.scheduler.members()]
        return self.draw.choice(known) if known else None

    async def step(self) -> None:
        draw = self.draw
        kinds = (self.ask, self.end, self.leave, self.register, self.command, self.pass_time, self.share)
        trouble = 0.1 if self.is_calm else 1.0
        weights = [8, 8, 2 * trouble, trouble, 2 * trouble, 3, 0.2 * trouble]
        for kind in draw.choices(kinds, weights=weights, k=draw.randint(1, 3)):
            await kind()
        for _ in range(4):
            await asyncio.sleep(0)
        self.collect()

    async def ask(self) -> None:
        draw = self.draw
        options: dict[str, Any] = {"priority": draw.choice(list(Priority)), "timeout_s": draw.choice([1.0, 30.0])}
        choosy = 0.05 if self.is_calm else 0.2
        if draw.random() < choosy:
            options["labels"] = draw.choice(LABELS)
        if draw.random() < choosy:
            options[draw.choice(["agents", "exclude_agents"])] = tuple(f"a{draw.randint(0, 5)}" for _ in range(2))
        tried = frozenset(f"a{draw.randint(0, 5)}" for _ in range(2)) if draw.random() < choosy else frozenset()
        deadline = now() + draw.uniform(0.5, 60.0) if draw.random() < 0.7 else math.inf
        wanted, tenant = task(draw.choice(CAPABILITIES), **options), draw.choice(TENANTS)
        wait = draw.random() < 0.6
        asked = self.stage.asking(wanted, deadline=deadline, tried=tried, wait=wait, tenant=tenant)
        self.asked.append(asked)
        self.tenants[asked] = tenant

    async def end(self) -> None:
        if self.leases:
            lease = self.leases.pop(self.draw.randrange(len(self.leases)))
            outcome = self.draw.choice(self.outcomes)
            retry_after_s = self.draw.choice([None, 0.0, 3.0])
            whole = self.draw.random() < 0.5
            elapsed_s = self.elapsed_s(lease)
            self.stage.scheduler.complete_task(
                lease, outcome, elapsed_s, retry_after_s=retry_after_s, whole_agent=whole
            )

    def elapsed_s(self, lease: Lease) -> float:
        """Each agent is four times as slow as the one before."""
        return 0.02 * 4.0 ** int(lease.agent.agent_id[1:]) * self.draw.uniform(0.8, 1.2)

    async def get_to_know(self, successes: int) -> None:
        for member in list(self.stage.scheduler.members()):
            for capability in member.seats:
                for _ in range(successes):
                    lease = await self.stage.lease(task(capability, agents=(member.profile.agent_id,)))
                    self.stage.succeed(lease, elapsed_s=self.elapsed_s(lease))

    async def leave(self) -> None:
        if self.asked:
            self.draw.choice(self.asked).cancel()
        if self.leases and self.draw.random() < 0.2:
            self.forgotten.append(self.leases.pop())

    async def register(self) -> None:
        profile, board = self.profile(), self.stage.board
        known = {member.profile.agent_id: member.profile for member in self.stage.scheduler.members()}
        old = known.get(profile.agent_id)
        self.stage.scheduler.add_agent(profile)
        if old is not None and old.instance_id != profile.instance_id:
            board.new_instance(profile.agent_id)
            self.stage.scheduler.refresh(profile.agent_id)

    async def command(self) -> None:
        agent_id, scheduler, board = self.some_agent(), self.stage.scheduler, self.stage.board
        if agent_id is None:
            return
        match self.draw.choice(COMMANDS):
            case "drain":
                scheduler.drain_agent(agent_id)
            case "remove":
                scheduler.remove_agent(agent_id)
                board.remove(agent_id)
            case "restore" | "reset":
                board.reset(agent_id)
                scheduler.restore_agent(agent_id)
            case "liveness":
                scheduler.set_liveness(agent_id, self.draw.choice(list(Liveness)))
            case "force":
                board.force_open(agent_id)
                scheduler.refresh(agent_id)
            case "disable":
                board.disable(agent_id)
                scheduler.refresh(agent_id)
            case _:
                board.admit_probe(agent_id, scheduler.keys_of(agent_id))
                scheduler.refresh(agent_id)

    async def pass_time(self) -> None:
        await asyncio.sleep(self.draw.choice([0.001, 0.01, 0.1, 0.3] if self.is_calm else [0.01, 0.3, 1.0, 5.0, 40.0]))

    async def share(self) -> None:
        self.replicas = self.draw.choice([1, 1, 1, 2, 3])
        self.stage.scheduler.share_slots(self.replicas)

    def collect(self) -> None:
        self.holds_seen += len(self.stage.scheduler._serving.holds)
        for asked in [each for each in self.asked if each.done()]:
            self.asked.remove(asked)
            tenant = self.tenants.pop(asked)
            if not asked.cancelled() and isinstance(lease := asked.result(), Lease):
                assert lease.agent.shared or lease.agent.tenant == tenant, "an agent of another tenant"
                self.leases.append(lease)

    async def calm_down(self) -> None:
        for asked in self.asked:
            asked.cancel()
        await asyncio.gather(*self.asked, return_exceptions=True)
        self.collect()
        for lease in self.leases:
            self.stage.complete(lease, Outcome.CANCELLED)
        await asyncio.sleep(120)


def check(stage: Stage, chaos: Chaos) -> None:
    held = set(stage.scheduler.leases())
    assert held <= {*chaos.leases, *chaos.forgotten}, "a lease that nobody got"
    for member in stage.scheduler.members():
        check_member(stage, member)
        assert member.slots == max(1, member.profile.max_concurrent_tasks // chaos.replicas)
    for fleet in stage.scheduler.fleets():
        for pool in fleet.all_pools():
            check_pool(stage, pool)
    for key, line in stage.scheduler._lines.items():
        for waiter in line:
            check_waiter(stage, key, waiter)


def check_pool(stage: Stage, pool: Pool) -> None:
    assert pool.out == sum(bool(seat.why_out) for seat in pool.seats), pool.key
    assert pool.free == sum(seat.bucket != NOWHERE for seat in pool.seats), pool.key
    assert pool.slots == sum(seat.member.slots for seat in pool.seats if not seat.why_out), pool.key
    assert [seat.rank for seat in pool.seats] == list(range(len(pool.seats))), pool.key
    busy = Counter(lease.bucket for lease in stage.scheduler.leases() if lease.seat.pool is pool)
    assert busy == pool._busy, pool.key
    for label, posting in pool._postings.items():
        carriers = {seat for seat in pool.seats if label in seat.member.profile.labels.items()}
        assert set(posting.seats) == carriers, label
        assert posting.out == sum(bool(seat.why_out) for seat in carriers), label
        free = [seat for seat in carriers if seat.bucket != NOWHERE]
        assert set(posting.free_seats()) == set(free), label
        assert posting.free == len(free), label
    assert set(pool._postings) == {label for seat in pool.seats for label in seat.member.profile.labels.items()}


def check_member(stage: Stage, member: Member) -> None:
    held = [lease for lease in stage.scheduler.leases() if lease.seat.member is member]
    assert member.taken == len(held), member.profile.agent_id
    for seat in member:
        assert seat.pool.seats[seat.rank] is seat
        is_free = seat.bucket != NOWHERE
        assert is_free == (not seat.why_out and member.has_room), (member.profile.agent_id, seat.key)
        if seat.why_out and seat.standing.ready_at < math.inf:
            was_told = any(agent_id == member.profile.agent_id for _, agent_id in stage.due)
            assert member.profile.agent_id in stage.scheduler._timers or was_told


def check_waiter(stage: Stage, key: str, waiter: Waiter) -> None:
    candidates = list(stage.scheduler._roster.candidates(waiter.task, waiter.tenant))
    theirs = [seat for seat in candidates if seat.agent_id not in waiter.tried]
    for seat in theirs:
        # Only a plain task may wait beside a free agent, and only while a timer looks after it.
        is_held = waiter.is_plain and seat.pool in stage.scheduler._serving.holds
        assert seat.bucket == NOWHERE or is_held, f"{waiter.task} beside {seat.agent_id}"
    assert waiter.deadline > now() - 1e-6
    assert waiter.patient_until <= waiter.deadline
    if waiter.gives_up and stage.scheduler.knows(key, waiter.tenant):
        assert any(not is_out(seat) for seat in theirs), f"{waiter.task} is not told"


def check_order(line: WaitingLine, served: Waiter) -> None:
    """Plain tasks are served in order inside their priority and tenant."""
    if served.is_plain:
        rivals = (each for each in line.of(served.tenant, served.task.priority) if each.is_plain and each.is_waiting)
        assert all(served.place <= each.place for each in rivals)


def is_out(seat: Seat) -> bool:
    """Being probed is nearly as good as busy: nobody is told of that."""
    return bool(seat.why_out) and seat.why_out != "being probed"


@pytest.fixture(autouse=True)
def order_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = WaitingLine.serve

    def checked(line: WaitingLine, waiter: Waiter, lease: Lease) -> None:
        check_order(line, waiter)
        serve(line, waiter, lease)

    monkeypatch.setattr(WaitingLine, "serve", checked)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("seed", [*range(10), 262, 282])
@virtual
async def test_any_sequence_of_events_leaves_a_scheduler_that_agrees_with_itself(seed: int, *, gated: bool) -> None:
    draw = random.Random(seed)
    async with Stage(agent("a0", *CAPABILITIES, slots=3), gated=gated, seed=seed) as stage:
        chaos = Chaos(stage, draw)
        for _ in range(STEPS):
            await chaos.step()
            check(stage, chaos)
        await chaos.calm_down()


@pytest.mark.parametrize("seed", range(10))
@virtual
async def test_while_agents_of_known_speeds_make_tasks_wait_for_them_it_does_so_too(seed: int) -> None:
    draw = random.Random(seed)
    fleet = [agent(f"a{number}", *CAPABILITIES, slots=2, shared=True) for number in range(6)]
    async with Stage(*fleet, seed=seed) as stage:
        chaos = Chaos(stage, draw, MOSTLY_GOOD)
        await chaos.get_to_know(WELL_KNOWN)
        for _ in range(STEPS):
            await chaos.step()
            check(stage, chaos)
        await chaos.calm_down()
        assert chaos.holds_seen > 20, "nobody was held"
