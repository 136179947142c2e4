"""Agents that are callables: the contract of transports, and what is theirs alone."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from aicp.model.agent import AgentProfile, Capability
from aicp.model.outcome import Outcome, Reply, TaskError
from aicp.model.task import Call
from aicp.model.wire import ANSWER_BYTES_MAX, TaskFailed
from aicp.testing.gauge import Gauge
from aicp.testing.transport_contract import CAPABILITY, Subject, TransportContract, call
from aicp.testing.virtual_time import run as run_virtually
from aicp.transports.local import Handler, LocalTransport

PATIENCE_S = 10.0


def profile(agent_id: str) -> AgentProfile:
    return AgentProfile(agent_id, (Capability(CAPABILITY),), max_concurrent_tasks=200)


def transport_with(handler: Handler, *, threads_max: int = 2) -> LocalTransport:
    transport = LocalTransport(threads_max=threads_max)
    transport.add("agent", {CAPABILITY: handler})
    return transport


async def reply_of(handler: Handler, *, timeout_s: float = PATIENCE_S, params: dict[str, Any] | None = None) -> Reply:
    transport = transport_with(handler)
    try:
        return await transport.invoke(profile("agent"), call(params=params, timeout_s=timeout_s))
    finally:
        await transport.close()


class TestLocalTransportKeepsTheContract(TransportContract):
    @asynccontextmanager
    async def subject(self) -> AsyncIterator[Subject]:
        hanging_calls = Gauge()

        async def echo(params: dict[str, Any]) -> Any:
            return params

        async def fail(params: dict[str, Any]) -> Any:
            raise ValueError("no such pixel")

        async def hang(params: dict[str, Any]) -> Any:
            with hanging_calls.one_more():
                await asyncio.get_running_loop().create_future()

        transport = LocalTransport()
        for agent_id, handler in (("echoing", echo), ("failing", fail), ("hanging", hang)):
            transport.add(agent_id, {CAPABILITY: handler})
        yield Subject(
            transport,
            echoing=profile("echoing"),
            failing=profile("failing"),
            hanging=profile("hanging"),
            missing=profile("missing"),
            hanging_calls=hanging_calls,
        )


def test_handler_that_is_not_asynchronous_runs_in_a_thread() -> None:
    def where(params: dict[str, Any]) -> Any:
        return threading.current_thread().name

    reply = asyncio.run(reply_of(where))
    assert reply.outcome is Outcome.SUCCESS
    assert reply.result.startswith("aicp-agent")


def test_handler_in_a_thread_sees_the_callers_context() -> None:
    tenant: ContextVar[str] = ContextVar("tenant")

    async def main() -> Reply:
        tenant.set("acme")
        return await reply_of(lambda params: tenant.get())

    assert asyncio.run(main()).result == "acme"


class _Callable:
    async def __call__(self, params: dict[str, Any]) -> Any:
        return threading.current_thread() is threading.main_thread()


async def _with_two(where: str, params: dict[str, Any]) -> Any:
    return threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize("handler", [_Callable(), functools.partial(_with_two, "here")])
def test_asynchronous_handler_in_any_dress_runs_in_the_loop(handler: Handler) -> None:
    assert asyncio.run(reply_of(handler)).result is True


def test_awaitable_that_a_plain_handler_returns_is_awaited() -> None:
    reply = asyncio.run(reply_of(lambda params: _with_two("here", params)))
    assert reply == Reply(Outcome.SUCCESS, result=True)


def _fail(params: dict[str, Any]) -> Any:
    raise KeyError("two\nlines " + "x" * 10_000)


async def _fail_asynchronously(params: dict[str, Any]) -> Any:
    return _fail(params)


@pytest.mark.parametrize("handler", [_fail, _fail_asynchronously])
def test_exception_of_a_handler_is_the_agents_fault_named_in_one_line(handler: Handler) -> None:
    reply = asyncio.run(reply_of(handler))
    assert reply.outcome is Outcome.AGENT_FAULT
    assert reply.reason.startswith("KeyError: 'two")
    assert "\n" not in reply.reason
    assert len(reply.reason) <= 200
    assert reply.evidence
    assert not reply.repeatable


def test_result_is_what_it_would_be_over_the_wire() -> None:
    async def handler(_: dict[str, Any]) -> Any:
        return {"point": (1, 2), 3: TaskError("a", "b")}

    reply = asyncio.run(reply_of(handler))
    assert reply.outcome is Outcome.SUCCESS
    assert reply.result == {"point": [1, 2], "3": {"code": "a", "message": "b"}}


@pytest.mark.parametrize("in_thread", [False, True])
def test_handler_that_changes_its_params_changes_nobody_elses(*, in_thread: bool) -> None:
    def spoil(params: dict[str, Any]) -> Any:
        params["shared"].append("spoilt")
        return params

    async def spoil_in_the_loop(params: dict[str, Any]) -> Any:
        return spoil(params)

    params = {"shared": [1]}
    reply = asyncio.run(reply_of(spoil if in_thread else spoil_in_the_loop, params=params))
    assert reply.result == {"shared": [1, "spoilt"]}
    assert params == {"shared": [1]}


def test_result_that_is_not_json_is_the_agents_fault() -> None:
    async def handler(_: dict[str, Any]) -> Any:
        return {"handle": object()}

    reply = asyncio.run(reply_of(handler))
    assert reply.outcome is Outcome.AGENT_FAULT
    assert reply.reason.startswith("result is not JSON: ")


def test_handler_may_say_no_without_being_at_fault() -> None:
    async def say_no(params: dict[str, Any]) -> Any:
        raise TaskFailed("no_face", "There is no face in it.")

    reply = asyncio.run(reply_of(say_no))
    assert reply == Reply(
        Outcome.TASK_FAILED, error=TaskError("no_face", "There is no face in it."), reason="There is no face in it."
    )


def test_handler_that_says_no_for_itself_alone_is_at_fault_and_repeatable() -> None:
    def say_no(params: dict[str, Any]) -> Any:
        raise TaskFailed("gpu_lost", retryable=True)

    reply = asyncio.run(reply_of(say_no))
    assert (reply.outcome, reply.repeatable, reply.reason) == (Outcome.AGENT_FAULT, True, "gpu_lost")


def test_time_of_its_own_that_a_handler_runs_out_of_is_told_as_such() -> None:
    async def hurry(params: dict[str, Any]) -> Any:
        async with asyncio.timeout(0):
            await asyncio.get_running_loop().create_future()

    reply = asyncio.run(reply_of(hurry))
    assert reply.outcome is Outcome.AGENT_FAULT
    assert reply.reason.startswith("TimeoutError")


def test_timeout_is_told_with_its_seconds() -> None:
    async def hang(params: dict[str, Any]) -> Any:
        await asyncio.get_running_loop().create_future()

    assert run_virtually(reply_of(hang, timeout_s=90.0)).reason == "no answer within 90 s"


def test_handler_that_fails_while_it_is_cut_off_has_run_out_of_time() -> None:
    async def hang(params: dict[str, Any]) -> Any:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise ValueError("while cleaning up")

    assert run_virtually(reply_of(hang, timeout_s=1.0)).reason == "no answer within 1 s"


def test_handler_cancelled_from_inside_does_not_cancel_the_caller() -> None:
    async def cancel_itself(params: dict[str, Any]) -> Any:
        raise asyncio.CancelledError

    assert asyncio.run(reply_of(cancel_itself)).outcome is Outcome.AGENT_FAULT


class Fatal(BaseException):
    """What a library raises that does not want to be caught."""


@pytest.mark.parametrize("error", [SystemExit(3), Fatal("x"), BaseExceptionGroup("x", [Fatal("y")])])
def test_handler_that_raises_to_end_the_process_ends_its_call_alone(error: BaseException) -> None:
    async def leave(params: dict[str, Any]) -> Any:
        raise error

    def leave_from_a_thread(params: dict[str, Any]) -> Any:
        raise error

    for handler in (leave, leave_from_a_thread):
        reply = asyncio.run(reply_of(handler))
        assert (reply.outcome, reply.symptom) == (Outcome.AGENT_FAULT, type(error).__name__)


def test_keyboard_interrupt_is_nobodys_fault() -> None:
    async def interrupt(params: dict[str, Any]) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(reply_of(interrupt))


def test_stop_iteration_in_a_thread_does_not_hang_the_call() -> None:
    reply = asyncio.run(reply_of(lambda params: next(iter(()))))
    assert reply.outcome is Outcome.AGENT_FAULT
    assert "StopIteration" in reply.reason


def test_capability_without_a_handler_is_misconfigured_alone() -> None:
    async def main() -> Reply:
        transport = transport_with(lambda params: params)
        reply = await transport.invoke(profile("agent"), Call("chain.task", "other", {}))
        await transport.close()
        return reply

    reply = asyncio.run(main())
    assert (reply.outcome, reply.whole_agent) == (Outcome.MISCONFIGURED, False)


def test_removed_agent_is_not_there_and_its_calls_under_way_go_on() -> None:
    async def main() -> None:
        under_way, may_end = Gauge(), asyncio.Event()

        async def wait(params: dict[str, Any]) -> Any:
            with under_way.one_more():
                await may_end.wait()
            return "done"

        transport = transport_with(wait)
        calling = asyncio.create_task(transport.invoke(profile("agent"), call()))
        await under_way.reaches(1)
        transport.remove("agent")
        transport.remove("agent")
        assert (await transport.invoke(profile("agent"), call())).outcome is Outcome.UNAVAILABLE
        may_end.set()
        assert (await calling).result == "done"
        await transport.close()

    asyncio.run(main())


def test_call_that_gets_no_thread_in_its_time_is_local_trouble_and_never_runs() -> None:
    ran: list[str] = []
    may_end, begun = threading.Event(), threading.Event()

    def work(params: dict[str, Any]) -> Any:
        ran.append(params["name"])
        begun.set()
        may_end.wait(PATIENCE_S)

    async def main() -> None:
        transport = transport_with(work, threads_max=1)
        first = asyncio.create_task(transport.invoke(profile("agent"), call(params={"name": "first"})))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        late = await transport.invoke(profile("agent"), call(params={"name": "late"}, timeout_s=0.02))
        assert (late.outcome, late.evidence, late.repeatable) == (Outcome.UNAVAILABLE, False, True)
        assert "thread" in late.reason
        may_end.set()
        assert (await first).outcome is Outcome.SUCCESS
        last = await transport.invoke(profile("agent"), call(params={"name": "last"}))
        assert last.outcome is Outcome.SUCCESS
        await transport.close()

    asyncio.run(main())
    assert ran == ["first", "last"]


def test_thread_that_hangs_is_the_agents_fault_when_its_time_is_over() -> None:
    may_end = threading.Event()

    def hang(params: dict[str, Any]) -> Any:
        may_end.wait(PATIENCE_S)

    try:
        reply = asyncio.run(reply_of(hang, timeout_s=0.05))
    finally:
        may_end.set()
    assert (reply.outcome, reply.evidence, reply.reason) == (Outcome.AGENT_FAULT, True, "no answer within 0.05 s")


def test_hours_of_a_local_agent_pass_on_virtual_time() -> None:
    async def work(params: dict[str, Any]) -> Any:
        await asyncio.sleep(7200)
        return "done"

    assert run_virtually(reply_of(work, timeout_s=10_000.0)).result == "done"


@pytest.mark.parametrize(
    ("result", "symptom"),
    [(object(), "not JSON"), ("x" * ANSWER_BYTES_MAX, "too large"), (list(range(300_000)), "too large")],
    ids=["no JSON", "too many bytes", "too many values"],
)
def test_a_result_that_cannot_be_taken_may_be_the_tasks_fault(result: Any, symptom: str) -> None:
    """A living agent failed in time: such a failure is doubted, and compared with other agents' by its symptom."""

    async def main() -> None:
        transport = LocalTransport()
        transport.add("a", {"x": lambda _params: result})
        profile = AgentProfile("a", (Capability("x"),))
        reply = await transport.invoke(profile, Call("c.t", "x", {}))
        assert (reply.outcome, reply.symptom) == (Outcome.AGENT_FAULT, symptom)
        await transport.close()

    asyncio.run(main())


@pytest.mark.parametrize("params", [{"n": "\ud800"}, {"\ud800": 1}, {"n": 10**5_000}], ids=["value", "key", "number"])
@pytest.mark.parametrize("in_thread", [False, True])
def test_params_that_are_not_json_are_the_callers_fault(params: dict[str, Any], *, in_thread: bool) -> None:
    called: list[Any] = []

    async def handler(params: dict[str, Any]) -> None:
        called.append(params)

    async def main() -> None:
        transport = LocalTransport()
        transport.add("eyes", {"echo": called.append if in_thread else handler})
        reply = await transport.invoke(AgentProfile("eyes", (Capability("echo"),), 1), Call("c.t", "echo", params))
        assert reply.outcome is Outcome.CALLER_FAULT
        assert "params are not JSON" in reply.reason
        assert not called
        await transport.close()

    asyncio.run(main())
