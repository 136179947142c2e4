"""Agents that are callables in this process."""

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from aicp.model.agent import AgentProfile
from aicp.model.document_desk import DocumentDesk
from aicp.model.nesting import NESTING_MAX, is_too_deep
from aicp.model.outcome import Outcome, Reply
from aicp.model.pieces import LARGE_VALUES, VALUES_MAX, decode_in_pieces, holds_more_values, is_large
from aicp.model.task import Call
from aicp.model.wire import ANSWER_BYTES_MAX, TaskFailed
from aicp.model.writing import is_heavy
from aicp.transports.replies import (
    SHUT_DOWN,
    TOO_LARGE,
    fault,
    late,
    local_trouble,
    misconfigured,
    one_line,
    refusal,
    unavailable,
)
from aicp.transports.under_way import UnderWay, is_being_cancelled

THREADS_MAX = 64

_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode
_TOO_DEEP = f"result is nested deeper than {NESTING_MAX}"

Handler = Callable[[dict[str, Any]], Any]
"""Takes the params and returns the result, JSON-like; or an awaitable of it."""


class LocalTransport:
    """Calls handlers in this process; whatever they raise is a `Reply`.

    Asynchronous handlers run in the caller's task and are cancelled when their time is over. The others run in threads.
    Python cannot stop a thread: a handler that hangs keeps its thread, and what it returns late is dropped.

    Args:
        documents: Where large params and results are copied; one of its own by default.
        threads_max: For handlers that are not asynchronous; a call that gets no thread in its time is local trouble.
    """

    def __init__(self, documents: DocumentDesk | None = None, *, threads_max: int = THREADS_MAX) -> None:
        self._documents = documents or DocumentDesk()
        self._agents: dict[str, dict[str, _Skill]] = {}
        self._threads = ThreadPoolExecutor(threads_max, thread_name_prefix="aicp-agent")
        self._under_way = UnderWay()

    def add(self, agent_id: str, handlers: Mapping[str, Handler]) -> None:
        """Put an agent in place or replace it; calls under way go on with the old one.

        Args:
            agent_id: Who it is.
            handlers: By capability, named as the agent declares it.
        """
        self._agents[agent_id] = {
            capability: _Skill(handler, _is_asynchronous(handler)) for capability, handler in handlers.items()
        }

    def remove(self, agent_id: str) -> None:
        """Take an agent away; calls under way go on."""
        self._agents.pop(agent_id, None)

    async def invoke(self, agent: AgentProfile, call: Call) -> Reply:
        """Run the handler for at most `call.timeout_s`."""
        if self._under_way.is_closed:
            return SHUT_DOWN
        skills = self._agents.get(agent.agent_id)
        if skills is None:
            return unavailable("no such agent in this process")
        skill = skills.get(call.capability)
        if skill is None:
            return misconfigured(f"has no handler for '{call.capability}'", whole_agent=False)
        try:
            return await (self._run(skill.handler, call) if skill.is_asynchronous else self._run_in_thread(skill, call))
        except _NoJson as error:
            return Reply(Outcome.CALLER_FAULT, reason=one_line(str(error)))

    async def probe(self, agent: AgentProfile) -> Reply:
        """SUCCESS while the agent is in place."""
        if self._under_way.is_closed:
            return SHUT_DOWN
        is_here = agent.agent_id in self._agents
        return Reply(Outcome.SUCCESS) if is_here else unavailable("no such agent in this process")

    async def close(self) -> None:
        """End calls under way as local trouble; threads at work are left to themselves."""
        await self._under_way.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run_in_thread(self, skill: "_Skill", call: Call) -> Reply:
        work = _ThreadWork(skill.handler, _light_copy(call.params) or await self._own_copy(call.params))
        context = contextvars.copy_context()

        async def handler(_: dict[str, Any]) -> Any:
            result = await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)
            return await result if inspect.isawaitable(result) else result

        try:
            reply = await self._run(handler, call)
        finally:
            never_began = work.abandon()
        if never_began and reply.timed_out:
            return local_trouble(f"no thread was free within {call.timeout_s:.3g} s")
        # Time that went by before a thread was free is our own trouble.
        is_unfair = reply.timed_out and work.waited_s > call.timeout_s / 2
        return msgspec.structs.replace(reply, evidence=False) if is_unfair else reply

    async def _run(self, handler: Handler, call: Call) -> Reply:
        scope = self._under_way.begin(call.timeout_s)
        try:
            async with scope:
                result = await handler(_light_copy(call.params) or await self._own_copy(call.params))
                return _light_answer(result) or await self._answer(result)
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            return fault("CancelledError: the handler was cancelled from inside", symptom="CancelledError")
        except TaskFailed as failed:
            return refusal(failed.error)
        except (KeyboardInterrupt, GeneratorExit, _NoJson):
            raise
        except BaseException as error:  # noqa: BLE001 - a handler is somebody else's code: sys.exit() ends the task alone
            return self._judge(error, call, is_late=scope.expired())
        finally:
            self._under_way.end(scope)

    async def _own_copy(self, params: dict[str, Any]) -> dict[str, Any]:
        """What a handler may change as it likes: parts of params are the recorded results of other tasks."""
        if not params:
            return {}
        try:
            encoded = await self._documents.encode(params)
        except (TypeError, ValueError, RecursionError) as error:
            raise _NoJson(f"params are not JSON: {error}") from error
        copied: dict[str, Any] = await self._documents.read(encoded, lambda: _decoded(encoded), waits=True)
        return copied

    async def _answer(self, result: Any) -> Reply:
        """A result as it would have come over the wire: at most 16 MiB and 200,000 values, nested at most 64 deep."""
        try:
            encoded = await self._documents.encode(result)
            if len(encoded) > ANSWER_BYTES_MAX:
                return fault(
                    f"result has {len(encoded)} bytes; at most {ANSWER_BYTES_MAX} are taken", symptom=TOO_LARGE
                )
            return await self._documents.read(encoded, lambda: _reply(encoded), waits=True)
        except RecursionError:
            return fault(_TOO_DEEP, symptom=TOO_LARGE)
        except (TypeError, ValueError) as error:
            return fault(f"result is not JSON: {error}", symptom="not JSON")

    def _judge(self, error: BaseException, call: Call, *, is_late: bool) -> Reply:
        if not is_late:
            return fault(f"{type(error).__name__}: {error}", symptom=type(error).__name__)
        return SHUT_DOWN if self._under_way.is_closed else late("no answer", call.timeout_s)


def _light_copy(params: dict[str, Any]) -> dict[str, Any] | None:
    """A copy of params, made at once; None where `_own_copy` makes it: they are heavy, not JSON or empty."""
    try:
        copied: dict[str, Any] | None = None if is_heavy(params) else _decode(_encode(params))
    except (TypeError, ValueError, RecursionError):
        return None
    return copied


def _light_answer(result: Any) -> Reply | None:
    """The reply of a small result, made at once; None where `_answer` makes it: it is large or cannot be taken."""
    try:
        encoded = b"" if is_heavy(result) else _encode(result)
        is_small = 0 < len(encoded) < LARGE_VALUES and not is_too_deep(value := _decode(encoded), encoded)
    except (TypeError, ValueError, RecursionError):
        return None
    return Reply(Outcome.SUCCESS, value) if is_small else None


def _decoded(encoded: bytes) -> Any:
    return decode_in_pieces(encoded) if is_large(encoded) else _decode(encoded)


def _reply(encoded: bytes) -> Reply:
    if holds_more_values(encoded):
        return fault(f"result holds more than {VALUES_MAX:,} values, the most that are taken", symptom=TOO_LARGE)
    value = _decoded(encoded)
    return fault(_TOO_DEEP, symptom=TOO_LARGE) if is_too_deep(value, encoded) else Reply(Outcome.SUCCESS, value)


class _NoJson(Exception):
    """Params that only Python can hold: half a character, or a number of more than 4,300 digits."""


class _Skill(msgspec.Struct, frozen=True):
    handler: Handler
    is_asynchronous: bool


class _ThreadWork:
    """One call of a handler in a thread, which may be called off as long as it has not begun.

    Attributes:
        waited_s: How long it waited for a thread.
    """

    def __init__(self, handler: Handler, params: dict[str, Any]) -> None:
        self._handler = handler
        self._params = params
        self._lock = threading.Lock()
        self._begun = False
        self._abandoned = False
        self._made_at = time.monotonic()
        self.waited_s = 0.0

    def __call__(self) -> Any:
        with self._lock:
            if self._abandoned:
                return None
            self._begun = True
            self.waited_s = time.monotonic() - self._made_at
        try:
            return self._handler(self._params)
        except StopIteration as error:
            # No future can carry one: the caller would wait for ever.
            raise RuntimeError("the handler raised StopIteration") from error

    def abandon(self) -> bool:
        """Call it off; True when it had not begun, and now never will."""
        with self._lock:
            self._abandoned = True
            return not self._begun


def _is_asynchronous(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
