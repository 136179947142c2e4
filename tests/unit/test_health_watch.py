"""Agents that send no heartbeats are asked how they are; what they say makes them heard, rest, or suspect."""

import asyncio
import logging

import pytest

from aicp.errors import AgentNotFound
from aicp.model.agent import AgentProfile
from aicp.model.event import AgentChanged
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call
from aicp.ports import Claim
from aicp.registry.directory import Directory
from aicp.registry.leases import Leases, Liveness
from aicp.registry.schemas import Schemas
from aicp.resilience.circuit_breaker import CircuitState
from aicp.runtime.ains import Ains
from aicp.runtime.health_watch import ASK_EVERY_S, ASKED_AT_ONCE_MAX, HealthWatch
from tests.unit.flow_kit import ECHO, Recorder, Stage, now, task, virtual
from tests.unit.test_ains import Describer, registration

ALIVE = Reply(Outcome.SUCCESS)
DEAD = Reply(Outcome.UNAVAILABLE, reason="connection refused")
HANGS = 1e9


class Remembered:
    """Registrations that an earlier process left, and what is saved now."""

    def __init__(self, *profiles: AgentProfile) -> None:
        self.profiles = {profile.agent_id: profile for profile in profiles}

    async def save(self, profile: AgentProfile, _claim: Claim | None = None) -> None:
        self.profiles[profile.agent_id] = profile

    async def forget(self, agent_id: str) -> None:
        self.profiles.pop(agent_id, None)

    async def load(self) -> list[AgentProfile]:
        return list(self.profiles.values())


class Watched(Stage):
    """A registry whose agents answer as told: by default that they are well; a number is seconds to be waited for."""

    def __init__(self, *remembered: AgentProfile) -> None:
        super().__init__()
        self.seen = Recorder()
        self.says: dict[str, Reply | float | Exception] = {}
        self.asked: list[tuple[float, str]] = []
        self.under_way = self.highest = 0
        self.ains = Ains(
            Directory(Schemas()), Leases(clock=self.clock.monotonic), self.scheduler, self.board, Describer(),
            self.clock, self.seen, Remembered(*remembered),
        )  # fmt: skip
        self.watch = HealthWatch(self.ains, self, self.board, self.scheduler)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.ains.restore()
        self._tasks = [asyncio.create_task(self.ains.keep_watch()), asyncio.create_task(self.watch.keep_on())]

    async def __aexit__(self, *ended: object) -> None:
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().__aexit__(*ended)  # type: ignore[arg-type] # the three of a context manager, as they came

    @property
    def changes(self) -> list[str]:
        return [event.change for event in self.seen.events if isinstance(event, AgentChanged)]

    async def invoke(self, agent: AgentProfile, call: Call) -> Reply:
        raise AssertionError("a health check sends no tasks")

    async def probe(self, agent: AgentProfile) -> Reply:
        self.asked.append((now(), agent.agent_id))
        self.under_way += 1
        self.highest = max(self.highest, self.under_way)
        try:
            return await self._answer(self.says.get(agent.agent_id, ALIVE))
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        return None

    async def _answer(self, said: Reply | float | Exception) -> Reply:
        if isinstance(said, Exception):
            raise said
        if isinstance(said, float):
            await asyncio.sleep(said)
            return ALIVE
        return said


async def remembered(*agent_ids: str) -> list[AgentProfile]:
    """Agents without heartbeats, as an earlier process registered them."""
    async with Watched() as earlier:
        for agent_id in agent_ids:
            await earlier.ains.register(registration(agent_id, lease=False))
        return earlier.ains.agents()


@virtual
async def test_an_agent_without_heartbeats_is_asked_every_fifteen_seconds() -> None:
    async with Watched() as stage:
        await stage.start()
        await stage.ains.register(registration(lease=False))
        began_at = now()
        await asyncio.sleep(61)
        assert [round(moment - began_at) for moment, _ in stage.asked] == [0, 15, 30, 45, 60]
        assert ASK_EVERY_S == 15


@virtual
async def test_agents_with_a_lease_and_callables_are_not_asked() -> None:
    async with Watched() as stage:
        await stage.ains.register(registration("leased"))
        stage.ains.put(AgentProfile("local", registration().capabilities or (), lease=False))
        await stage.start()
        await asyncio.sleep(100)
        assert stage.asked == []


@virtual
async def test_a_restored_agent_is_unheard_until_it_answers_and_then_never_again() -> None:
    async with Watched(*await remembered("a")) as stage:
        await stage.start()
        assert stage.ains.liveness("a") is Liveness.UNHEARD
        await asyncio.sleep(1)
        assert stage.ains.liveness("a") is Liveness.HEARD
        stage.says["a"] = Reply(Outcome.CALLER_FAULT)
        await asyncio.sleep(25 * 3_600)  # a day unheard is the end of one that promised heartbeats
        assert stage.ains.liveness("a") is Liveness.HEARD
        assert stage.changes == ["unheard", "heard"]


@virtual
async def test_a_restored_agent_that_stays_dead_opens_its_circuit_and_is_never_forgotten() -> None:
    async with Watched(*await remembered("a")) as stage:
        stage.says["a"] = DEAD
        await stage.start()
        await asyncio.sleep(59)
        assert stage.state("a") is CircuitState.CLOSED
        await asyncio.sleep(2)
        assert stage.state("a") is CircuitState.OPEN
        await asyncio.sleep(25 * 3_600)
        assert stage.ains.liveness("a") is Liveness.UNHEARD
        assert stage.changes == ["unheard"]


@virtual
async def test_a_heartbeat_does_not_renew_what_was_never_promised() -> None:
    async with Watched(*await remembered("a")) as stage:
        await stage.start()
        with pytest.raises(AgentNotFound):
            stage.ains.heartbeat("a", "one")


@pytest.mark.parametrize("said", [DEAD, Reply(Outcome.AGENT_FAULT), HANGS])
@virtual
async def test_five_times_without_an_answer_open_the_circuit(said: Reply | float) -> None:
    async with Watched() as stage:
        await stage.ains.register(registration(lease=False))
        stage.says["a"] = said
        await stage.start()
        await asyncio.sleep(4 * 21)
        assert stage.state("a") is CircuitState.CLOSED if said == HANGS else CircuitState.OPEN
        await asyncio.sleep(6)
        assert stage.state("a") is CircuitState.OPEN


@pytest.mark.parametrize("said", [Reply(Outcome.UNAVAILABLE, evidence=False), Reply(Outcome.MISCONFIGURED)])
@virtual
async def test_what_says_nothing_about_the_agent_is_no_evidence(said: Reply) -> None:
    async with Watched() as stage:
        await stage.ains.register(registration(lease=False))
        stage.says["a"] = said
        await stage.start()
        await asyncio.sleep(1_000)
        assert stage.state("a") is CircuitState.CLOSED
        assert stage.why_out("a") == ""


@virtual
async def test_an_agent_that_is_full_is_left_alone_for_as_long_as_it_asks() -> None:
    async with Watched(*await remembered("a")) as stage:
        stage.says["a"] = Reply(Outcome.OVERLOADED, retry_after_s=10.0)
        await stage.start()
        await asyncio.sleep(1)
        assert stage.ains.liveness("a") is Liveness.HEARD
        assert stage.why_out("a") == "cooling down"
        await asyncio.sleep(10)
        assert stage.why_out("a") == ""


@virtual
async def test_an_agent_with_a_task_in_hand_is_not_asked() -> None:
    async with Watched() as stage:
        await stage.ains.register(registration(lease=False))
        lease = await stage.lease(task(ECHO))
        await stage.start()
        await asyncio.sleep(40)
        assert stage.asked == []
        stage.succeed(lease)
        await asyncio.sleep(15)
        assert len(stage.asked) == 1


@virtual
async def test_no_more_than_so_many_are_asked_together_and_all_are() -> None:
    ids = [f"a{number}" for number in range(3 * ASKED_AT_ONCE_MAX)]
    async with Watched(*await remembered(*ids)) as stage:
        stage.says = dict.fromkeys(ids, 1.0)
        await stage.start()
        await asyncio.sleep(5)
        assert stage.highest == ASKED_AT_ONCE_MAX
        assert [agent_id for _, agent_id in stage.asked] == ids


@virtual
async def test_who_hangs_or_crashes_does_not_keep_others_from_being_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, logger="aicp.routing.prober"):
        async with Watched(*await remembered("hangs", "crashes", "well")) as stage:
            stage.says = {"hangs": HANGS, "crashes": RuntimeError("a bug")}
            await stage.start()
            await asyncio.sleep(50)
            told = [agent_id for _, agent_id in stage.asked]
            assert min(told.count(agent_id) for agent_id in ("hangs", "crashes", "well")) >= 3
            assert stage.ains.liveness("well") is Liveness.HEARD


@virtual
async def test_an_answer_says_nothing_about_who_took_its_place_or_left() -> None:
    for leaves in (True, False):
        async with Watched(*await remembered("a")) as stage:
            stage.says["a"] = 3.0
            await stage.start()
            await asyncio.sleep(1)
            if leaves:
                stage.ains.remove("a")
            else:
                await stage.ains.register(registration(instance_id="two"))
            await asyncio.sleep(4)
            assert "heard" not in stage.changes


@virtual
async def test_a_round_that_breaks_is_not_the_last(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Watched(*await remembered("a")) as stage:
        with caplog.at_level(logging.CRITICAL, logger="aicp.runtime.health_watch"), monkeypatch.context() as broken:
            broken.setattr(stage.ains, "heard", lambda _: 1 / 0)
            await stage.start()
            await asyncio.sleep(1)
        assert stage.ains.liveness("a") is Liveness.UNHEARD
        await asyncio.sleep(15)
        assert stage.ains.liveness("a") is Liveness.HEARD
