"""Real agents in real processes, killed at every moment: before, during and after they answer."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aicp import (
    CircuitState,
    NoAgentAvailable,
    Node,
    Outcome,
    Task,
    TaskChain,
    TaskResult,
    TaskStatus,
)
from aicp.model.event import CircuitChanged, Event
from tests.e2e.agent_process import AgentProcess, agent_processes

BOUND_S = 60.0


class Watch:
    """Waits for events instead of for time."""

    def __init__(self, node: Node) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        node.observe(self)

    def notify(self, event: Event) -> None:
        self._events.put_nowait(event)

    async def until(self, wanted: Callable[[Event], bool]) -> Event:
        async with asyncio.timeout(BOUND_S):
            while not wanted(event := await self._events.get()):
                pass
        return event


def run(test: Callable[[Node], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Node(seed=1) as node:
            await test(node)

    asyncio.run(main())


async def add(node: Node, agent: AgentProcess) -> None:
    await node.add_agent(endpoint=agent.endpoint)


def agents_of(result: TaskResult) -> list[tuple[str, Outcome]]:
    return [(attempt.agent_id, attempt.outcome) for attempt in result.attempts]


def test_an_agent_killed_before_the_task_is_failed_over() -> None:
    async def test(node: Node) -> None:
        with agent_processes(dead="work", alive="work") as agents:
            await add(node, agents["dead"])
            await add(node, agents["alive"])
            agents["dead"].kill()
            results = [await node.router.route_task(Task("work", {"n": n})) for n in range(10)]

        assert [result.result for result in results] == [{"n": n} for n in range(10)]
        failed_over = [agents_of(result) for result in results if len(result.attempts) > 1]
        assert failed_over, "no task was sent to the dead agent first"
        assert set(map(tuple, failed_over)) == {(("dead", Outcome.UNAVAILABLE), ("alive", Outcome.SUCCESS))}

    run(test)


def test_an_agent_killed_while_it_has_the_task_is_failed_over() -> None:
    async def test(node: Node) -> None:
        with agent_processes(victim="stall", rescuer="work") as agents:
            await add(node, agents["victim"])
            routed = asyncio.create_task(node.router.route_task(Task("work", {"n": 1})))
            await asyncio.to_thread(agents["victim"].wait_until_asked)
            await add(node, agents["rescuer"])
            agents["victim"].kill()
            async with asyncio.timeout(BOUND_S):
                result = await routed

        assert result.result == {"n": 1}
        assert agents_of(result) == [("victim", Outcome.AGENT_FAULT), ("rescuer", Outcome.SUCCESS)]

    run(test)


def test_work_that_must_not_be_done_twice_is_not_sent_again_when_its_agent_dies() -> None:
    async def test(node: Node) -> None:
        chain = TaskChain("once")
        chain.add_task("work", {"n": 1}, id="once", idempotent=False)
        with agent_processes(victim="stall", rescuer="work") as agents:
            await add(node, agents["victim"])
            ended = asyncio.create_task(node.coordinator.execute_chain(chain))
            await asyncio.to_thread(agents["victim"].wait_until_asked)
            await add(node, agents["rescuer"])
            agents["victim"].kill()
            async with asyncio.timeout(BOUND_S):
                outcome = await ended

        assert outcome.status is TaskStatus.FAILED
        assert agents_of(outcome["once"]) == [("victim", Outcome.AGENT_FAULT)]

    run(test)


def test_an_agent_killed_after_its_answer_costs_nothing_and_the_next_task_goes_elsewhere() -> None:
    async def test(node: Node) -> None:
        with agent_processes(first="work", second="work") as agents:
            await add(node, agents["first"])
            answered = await node.router.route_task(Task("work", {"n": 1}))
            agents["first"].kill()
            await add(node, agents["second"])
            result = await node.router.route_task(Task("work", {"n": 2}))

        assert answered.result == {"n": 1}
        assert answered.agent_id == "first"
        assert result.result == {"n": 2}
        assert result.agent_id == "second"

    run(test)


def test_with_every_agent_dead_a_direct_call_fails_at_once_with_reasons_and_the_earliest_retry() -> None:
    async def test(node: Node) -> None:
        with agent_processes(one="work", two="work") as agents:
            for agent in agents.values():
                await add(node, agent)
                agent.kill()
            with pytest.raises(NoAgentAvailable) as caught:
                async with asyncio.timeout(BOUND_S):
                    await node.router.route_task(Task("work", {}))

        assert caught.value.retry_after_s > 0
        assert {reason.partition(":")[0] for reason in caught.value.reasons} == {"one", "two"}

    run(test)


def test_with_every_agent_dead_an_accepted_chain_waits_and_ends_by_its_deadline() -> None:
    async def test(node: Node) -> None:
        chain = TaskChain("patient", deadline_s=1.5)
        chain.add_task("work", id="only")
        with agent_processes(one="work", two="work") as agents:
            for agent in agents.values():
                await add(node, agent)
                agent.kill()
            async with asyncio.timeout(BOUND_S):
                outcome = await node.coordinator.execute_chain(chain)

        assert outcome.status is TaskStatus.FAILED
        assert outcome.error is not None
        told = [outcome.error.code, *(result.error.code for result in outcome.tasks.values() if result.error)]
        assert "deadline_exceeded" in told

    run(test)


def test_a_healed_agent_gets_work_again() -> None:
    async def test(node: Node) -> None:
        watch = Watch(node)
        with agent_processes(phoenix="work") as agents:
            await add(node, agents["phoenix"])
            agents["phoenix"].kill()
            while node.board.get_state("phoenix") is not CircuitState.OPEN:
                with pytest.raises(NoAgentAvailable):
                    await node.router.route_task(Task("work", {}))
            agents["phoenix"].start()
            await watch.until(lambda event: isinstance(event, CircuitChanged) and event.state == CircuitState.HALF_OPEN)
            results = [await node.router.route_task(Task("work", {"n": n}), wait=True) for n in range(3)]

        assert [result.result for result in results] == [{"n": n} for n in range(3)]
        assert node.board.get_state("phoenix") is CircuitState.CLOSED

    run(test)
