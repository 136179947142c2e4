"""Whether an agent lives is asked of the agent, not found out at the cost of a task; and no probe blocks another."""

import asyncio
import logging
from itertools import pairwise

import pytest

from aicp.model.agent import AgentProfile
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call
from aicp.resilience.circuit_breaker import CircuitState
from aicp.routing.prober import PROBES_IN_FLIGHT_MAX, Prober
from aicp.testing.faulty_agents import ScriptedAgent
from tests.unit.flow_kit import ECHO, Stage, agent, now, virtual

OTHER = "test.other"
ALIVE = Reply(Outcome.SUCCESS)
DEAD = Reply(Outcome.UNAVAILABLE, reason="connection refused")


class Answers:
    """A transport that answers each probe with the next of its script, and then with the last for ever.

    A number is seconds to wait, an exception is raised.
    """

    def __init__(self, *script: Reply | float | Exception) -> None:
        self.script = list(script)
        self.probed: list[tuple[float, str]] = []
        self.under_way = 0
        self.highest = 0

    async def invoke(self, agent: AgentProfile, call: Call) -> Reply:
        raise AssertionError("a prober sends no tasks")

    async def probe(self, agent: AgentProfile) -> Reply:
        self.probed.append((round(now(), 6), agent.agent_id))
        self.under_way += 1
        self.highest = max(self.highest, self.under_way)
        try:
            return await self._next()
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        return None

    async def _next(self) -> Reply:
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            await asyncio.sleep(step)
            return ALIVE
        return step


class Probing(Stage):
    def __init__(self, transport: Answers, *profiles: AgentProfile) -> None:
        super().__init__(*profiles)
        self.transport = transport
        self.prober = Prober(transport, self.board, self.scheduler)
        self.scheduler.on_probe_due = self.prober.probe_soon
        self.scheduler.on_outage = lambda pool, is_out: self.prober.pool_changed(pool, is_out=is_out)

    def open(self, agent_id: str = "a", *capabilities: str) -> float:
        """Open circuits; returns when."""
        for capability in capabilities or (ECHO,):
            self.board.record_evidence(agent_id, [capability] * 5)
        return now()

    def probed_after(self, opened_at: float, agent_id: str = "a") -> list[float]:
        return [round(moment - opened_at, 6) for moment, probed in self.transport.probed if probed == agent_id]


@virtual
async def test_an_agent_is_probed_when_its_wait_is_over_and_not_before() -> None:
    async with Probing(Answers(ALIVE), agent("a")) as stage:
        opened_at = stage.open()
        await asyncio.sleep(30)
        assert stage.probed_after(opened_at) == [1.0]
        await stage.prober.close()


@virtual
async def test_a_living_agent_is_half_open_and_among_the_free_again() -> None:
    async with Probing(Answers(ALIVE), agent("a")) as stage:
        stage.open()
        assert stage.why_out("a") == "circuit open"
        await asyncio.sleep(1.1)
        assert stage.state("a") is CircuitState.HALF_OPEN
        assert stage.why_out("a") == ""
        stage.succeed(await stage.lease())
        assert stage.state("a") is CircuitState.HALF_OPEN
        for _ in range(2):
            stage.succeed(await stage.lease())
        assert stage.state("a") is CircuitState.CLOSED
        await stage.prober.close()


@virtual
async def test_a_dead_agent_is_asked_again_after_each_longer_wait() -> None:
    async with Probing(Answers(DEAD), agent("a"), agent("b")) as stage:
        opened_at = stage.open()
        await asyncio.sleep(8.2)
        assert stage.probed_after(opened_at) == [1.0, 2.5, 4.75, 8.125]
        assert stage.state("a") is CircuitState.OPEN
        await stage.prober.close()


@virtual
async def test_waits_grow_to_a_minute_while_others_serve_and_to_five_seconds_while_nobody_does() -> None:
    for others, longest_s in ((["b"], 60.0), ([], 5.0)):
        async with Probing(Answers(DEAD), agent("a"), *map(agent, others)) as stage:
            opened_at = stage.open()
            await asyncio.sleep(600)
            moments = stage.probed_after(opened_at)
            waits_s = [later - earlier for earlier, later in pairwise(moments)]
            assert max(waits_s) == pytest.approx(longest_s)
            assert waits_s[-1] == pytest.approx(longest_s)
            await stage.prober.close()


@virtual
async def test_a_long_wait_is_cut_when_the_last_other_agent_goes_out() -> None:
    async with Probing(Answers(DEAD), agent("a"), agent("b")) as stage:
        stage.open()
        await asyncio.sleep(200)
        stage.scheduler.drain_agent("b")
        drained_at = now()
        await asyncio.sleep(60)
        after_s = [moment - drained_at for moment, _ in stage.transport.probed if moment >= drained_at]
        assert after_s[0] <= 5.0
        assert len(after_s) >= 11
        await stage.prober.close()


@virtual
async def test_one_probe_brings_back_every_circuit_of_the_agent_that_waits() -> None:
    async with Probing(Answers(ALIVE), agent("a", ECHO, OTHER)) as stage:
        opened_at = stage.open("a", ECHO, OTHER)
        await asyncio.sleep(1.1)
        assert stage.state("a", ECHO) is stage.state("a", OTHER) is CircuitState.HALF_OPEN
        assert stage.probed_after(opened_at) == [1.0]
        await stage.prober.close()


@pytest.mark.parametrize("answer", [ALIVE, DEAD])
@virtual
async def test_a_probe_says_nothing_to_a_circuit_whose_own_wait_is_not_over(answer: Reply) -> None:
    async with Probing(Answers(answer, ALIVE), agent("a", ECHO, OTHER), agent("b", ECHO, OTHER)) as stage:
        stage.open("a", ECHO)
        await asyncio.sleep(0.7)
        stage.open("a", OTHER)
        await asyncio.sleep(0.4)
        assert stage.state("a", OTHER) is CircuitState.OPEN
        assert stage.board.get_metrics("a")[OTHER].backoff_s == 1.0
        await asyncio.sleep(0.7)
        assert stage.state("a", OTHER) is CircuitState.HALF_OPEN
        await stage.prober.close()


@pytest.mark.parametrize("told_s", [20.0, 0.5])
@virtual
async def test_an_overloaded_agent_rests_for_as_long_as_it_asked_and_its_wait_does_not_grow(told_s: float) -> None:
    resting = Reply(Outcome.OVERLOADED, retry_after_s=told_s)
    async with Probing(Answers(resting, ALIVE), agent("a"), agent("b")) as stage:
        opened_at = stage.open()
        await asyncio.sleep(1 + told_s + 0.1)
        assert stage.probed_after(opened_at) == [1.0, 1.0 + told_s]
        assert stage.board.get_metrics("a")[ECHO].backoff_s == 1.0
        assert stage.state("a") is CircuitState.HALF_OPEN
        await stage.prober.close()


@virtual
async def test_no_answer_to_a_probe_makes_it_rest_longer_than_five_minutes_or_busy_ask_it() -> None:
    for told_s, expected_s in ((1e9, 300.0), (0.0, 0.05)):
        async with Probing(Answers(Reply(Outcome.OVERLOADED, retry_after_s=told_s), ALIVE), agent("a")) as stage:
            opened_at = stage.open()
            await asyncio.sleep(400)
            assert stage.probed_after(opened_at) == [1.0, pytest.approx(1.0 + expected_s)]
            await stage.prober.close()


@virtual
async def test_an_agent_has_one_probe_at_a_time() -> None:
    async with Probing(Answers(3.0), agent("a")) as stage:
        stage.open()
        await asyncio.sleep(1.1)
        for _ in range(5):
            stage.prober.probe_soon(stage.scheduler.member("a").profile)
        await asyncio.sleep(1)
        assert stage.transport.highest == 1
        await stage.prober.close()


@virtual
async def test_so_many_probes_run_together_and_the_others_have_their_turn() -> None:
    profiles = [agent(f"a{number}") for number in range(3 * PROBES_IN_FLIGHT_MAX)]
    async with Probing(Answers(1.0), *profiles) as stage:
        for profile in profiles:
            stage.open(profile.agent_id)
        await asyncio.sleep(10)
        assert stage.transport.highest == PROBES_IN_FLIGHT_MAX == 64
        assert {probed for _, probed in stage.transport.probed} == {profile.agent_id for profile in profiles}
        await stage.prober.close()


@virtual
async def test_a_probe_that_hangs_counts_as_no_answer_and_frees_its_place() -> None:
    async with Probing(Answers(1e9, ALIVE), agent("a"), agent("b")) as stage:
        stage.open()
        await asyncio.sleep(60)
        assert stage.transport.under_way == 0
        assert len(stage.transport.probed) == 2
        assert stage.state("a") is CircuitState.HALF_OPEN
        await stage.prober.close()


@virtual
async def test_agents_that_hang_do_not_keep_others_from_being_probed() -> None:
    hanging = [agent(f"h{number}") for number in range(PROBES_IN_FLIGHT_MAX)]
    async with Probing(Answers(*[1e9] * PROBES_IN_FLIGHT_MAX, ALIVE), *hanging, agent("z")) as stage:
        for profile in hanging:
            stage.open(profile.agent_id)
        await asyncio.sleep(0.5)
        stage.open("z")
        await asyncio.sleep(30)
        assert stage.state("z") is CircuitState.HALF_OPEN
        await stage.prober.close()


@virtual
async def test_a_probe_that_crashes_counts_as_no_answer_and_frees_its_place(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, logger="aicp.routing.prober"):
        async with Probing(Answers(RuntimeError("a bug"), ALIVE), agent("a"), agent("b")) as stage:
            opened_at = stage.open()
            await asyncio.sleep(30)
            assert stage.probed_after(opened_at) == [1.0, 2.5]
            assert stage.state("a") is CircuitState.HALF_OPEN
            await stage.prober.close()


@virtual
async def test_closing_ends_every_probe() -> None:
    async with Probing(Answers(1e9), *(agent(f"a{number}") for number in range(100))) as stage:
        for number in range(100):
            stage.open(f"a{number}")
        await asyncio.sleep(1.5)
        assert stage.transport.under_way == PROBES_IN_FLIGHT_MAX
        await stage.prober.close()
        assert stage.transport.under_way == 0


@virtual
async def test_after_closing_nobody_is_probed_any_more() -> None:
    async with Probing(Answers(ALIVE), agent("a")) as stage:
        stage.open()
        await stage.prober.close()
        await asyncio.sleep(30)
        assert stage.transport.probed == []


@virtual
async def test_an_agent_removed_while_it_is_probed_harms_nobody() -> None:
    async with Probing(Answers(2.0), agent("a")) as stage:
        stage.open()
        await asyncio.sleep(1.5)
        stage.scheduler.remove_agent("a")
        stage.board.remove("a")
        await asyncio.sleep(10)
        assert stage.transport.under_way == 0
        await stage.prober.close()


@virtual
async def test_a_scripted_agent_answers_probes_while_it_lives() -> None:
    scripted = ScriptedAgent("a")
    assert (await scripted.probe()).outcome is Outcome.SUCCESS
    scripted.kill()
    assert (await scripted.probe()).outcome is Outcome.UNAVAILABLE
