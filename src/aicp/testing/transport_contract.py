"""What every `Transport` must keep, as tests: subclass `TransportContract` in a test module and say how to set it up.

class TestMyTransport(TransportContract):
@asynccontextmanager
async def subject(self) -> AsyncIterator[Subject]:
…
"""

import abc
import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from aicp.model.agent import AgentProfile
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call
from aicp.ports import Transport
from aicp.testing.gauge import Gauge

CAPABILITY = "test.echo"
TIMEOUT_S = 0.05
PATIENCE_S = 10.0
STORM_CALLS = 200
_UNTIL_CANCELLED_S = 60.0


class Subject(msgspec.Struct, frozen=True):
    """A transport to be tested, and agents that offer `test.echo` behind it.

    Attributes:
        transport: Fresh; the contract may close it.
        echoing: An agent that answers with the params, alive.
        failing: An agent that is at fault in every call, and not of its own word.
        hanging: An agent that never answers.
        missing: An agent that is not there.
        hanging_calls: How many calls the hanging agent has, as the agent itself sees it.
    """

    transport: Transport
    echoing: AgentProfile
    failing: AgentProfile
    hanging: AgentProfile
    missing: AgentProfile
    hanging_calls: Gauge


def _rule(check: Callable[[Any, Subject], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """A test of a fresh subject. Not `functools.wraps`: pytest would look for a fixture called `subject`."""

    def test(self: "TransportContract") -> None:
        async def main() -> None:
            async with self.subject() as subject:
                try:
                    await check(self, subject)
                finally:
                    await subject.transport.close()

        self.run(main())

    test.__name__, test.__qualname__, test.__doc__ = check.__name__, check.__qualname__, check.__doc__
    return test


class TransportContract(abc.ABC):
    """Rules of the port `Transport`, one per test."""

    @abc.abstractmethod
    def subject(self) -> AbstractAsyncContextManager[Subject]:
        """A fresh subject; whatever it took is given back at the end."""

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run a test; override it for another loop."""
        asyncio.run(main)

    @_rule
    async def test_answer_is_success_with_the_result(self, subject: Subject) -> None:
        """A good answer is SUCCESS and carries the result, whole."""
        reply = await subject.transport.invoke(subject.echoing, call(params={"a": [1, None, "ü"]}))
        _expect(reply.outcome is Outcome.SUCCESS, f"outcome is {reply}")
        _expect(reply.result == {"a": [1, None, "ü"]}, f"result is {reply.result!r}")
        _expect(not reply.reason, f"a success has the reason '{reply.reason}'")

    @_rule
    async def test_failure_is_a_reply_with_a_reason(self, subject: Subject) -> None:
        """Whatever goes wrong is a reply that says why."""
        reply = await subject.transport.invoke(subject.failing, call())
        _expect(reply.outcome is Outcome.AGENT_FAULT, f"outcome is {reply}")
        _expect(reply.evidence, "a fault must be evidence")
        _expect(not reply.timed_out, "it was not the time")
        _expect(not reply.repeatable, "a fault must not be called repeatable: the work may have been done")
        _expect(bool(reply.reason), "a failure needs a reason")

    @_rule
    async def test_agent_that_is_not_there_is_unavailable_as_a_whole(self, subject: Subject) -> None:
        """Nothing was executed, and no capability of that agent is there."""
        reply = await subject.transport.invoke(subject.missing, call())
        _expect(reply.outcome is Outcome.UNAVAILABLE, f"outcome is {reply}")
        _expect(reply.whole_agent, "it concerns the whole agent")
        _expect(reply.repeatable, "nothing was executed, so it is repeatable")
        _expect(reply.evidence, "it is evidence")

    @_rule
    async def test_timeout_is_kept_and_is_the_agents_fault(self, subject: Subject) -> None:
        """A call ends with its time, at the agent as well."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        reply = await subject.transport.invoke(subject.hanging, call(timeout_s=TIMEOUT_S))
        took_s = loop.time() - began_at
        _expect(reply.outcome is Outcome.AGENT_FAULT, f"outcome is {reply}")
        _expect(reply.timed_out, "that it was the time must be told")
        _expect(TIMEOUT_S * 0.9 <= took_s < PATIENCE_S, f"took {took_s:.3f} s of {TIMEOUT_S} s")
        await subject.hanging_calls.reaches(0)

    @_rule
    async def test_cancellation_reaches_the_caller_and_leaves_nothing(self, subject: Subject) -> None:
        """A cancelled call is gone: no task here, no call there."""
        before = asyncio.all_tasks()
        calling = asyncio.create_task(_invoke(subject, timeout_s=_UNTIL_CANCELLED_S))
        await subject.hanging_calls.reaches(1)
        calling.cancel()
        await asyncio.wait([calling], timeout=PATIENCE_S)
        _expect(calling.cancelled(), "the caller's cancellation must reach the caller")
        await subject.hanging_calls.reaches(0)
        _expect(_left_since(before) == set(), f"left behind: {_left_since(before)}")

    @_rule
    async def test_storm_of_cancellations_leaves_room_for_the_next_calls(self, subject: Subject) -> None:
        """Cancelled at whatever moment, a call gives back what it took."""
        moments = random.Random(0)
        storm = [asyncio.create_task(_cancelled_after(subject, moments)) for _ in range(STORM_CALLS)]
        await asyncio.wait(storm, timeout=PATIENCE_S)
        _expect(all(task.done() for task in storm), "a cancelled call did not end")
        await subject.hanging_calls.reaches(0)
        replies = await asyncio.gather(
            *(subject.transport.invoke(subject.echoing, call(f"c.after{n}")) for n in range(STORM_CALLS // 2))
        )
        failed = [reply for reply in replies if reply.outcome is not Outcome.SUCCESS]
        _expect(not failed, f"{len(failed)} calls after the storm failed, as {failed[:1]}")

    @_rule
    async def test_close_ends_calls_under_way_as_local_trouble(self, subject: Subject) -> None:
        """Who closes is not to blame the agent."""
        calling = asyncio.create_task(_invoke(subject, timeout_s=_UNTIL_CANCELLED_S))
        await subject.hanging_calls.reaches(1)
        await subject.transport.close()
        async with asyncio.timeout(PATIENCE_S):
            _expect_local_trouble(await calling)
        await subject.hanging_calls.reaches(0)

    @_rule
    async def test_call_after_close_is_local_trouble(self, subject: Subject) -> None:
        """Nothing is sent any more, and nobody is blamed."""
        await subject.transport.close()
        _expect_local_trouble(await subject.transport.invoke(subject.echoing, call()))
        _expect_local_trouble(await subject.transport.probe(subject.echoing))

    @_rule
    async def test_close_may_come_twice(self, subject: Subject) -> None:
        """The second close finds nothing to do."""
        await subject.transport.close()
        await subject.transport.close()

    @_rule
    async def test_probe_tells_who_is_alive(self, subject: Subject) -> None:
        """SUCCESS for the living, UNAVAILABLE for who is not there."""
        alive = await subject.transport.probe(subject.echoing)
        missing = await subject.transport.probe(subject.missing)
        _expect(alive.outcome is Outcome.SUCCESS, f"the living agent is {alive}")
        _expect(missing.outcome is Outcome.UNAVAILABLE, f"the missing agent is {missing}")


def call(task_id: str = "chain.task", *, params: dict[str, Any] | None = None, timeout_s: float = PATIENCE_S) -> Call:
    """A call of `test.echo`."""
    return Call(task_id, CAPABILITY, params or {}, timeout_s=timeout_s)


async def _invoke(subject: Subject, *, timeout_s: float) -> Reply:
    return await subject.transport.invoke(subject.hanging, call(timeout_s=timeout_s))


async def _cancelled_after(subject: Subject, moments: random.Random) -> None:
    try:
        async with asyncio.timeout(moments.random() * TIMEOUT_S):
            await _invoke(subject, timeout_s=_UNTIL_CANCELLED_S)
    except TimeoutError:
        return


def _left_since(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() - before if not task.done()}


def _expect_local_trouble(reply: Reply) -> None:
    _expect(reply.outcome is Outcome.UNAVAILABLE, f"outcome is {reply}")
    _expect(not reply.evidence, "local trouble must be no evidence")


def _expect(holds: bool, message: str) -> None:  # noqa: FBT001 - reads like an assertion
    if not holds:
        raise AssertionError(message)
