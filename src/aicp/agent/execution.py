"""Runs handlers: each execution stands on its own, whoever waits for it, and is looked after until it ends."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from aicp import standstill
from aicp.agent.answers import UnusableAnswer, encode_failure, encode_refusal
from aicp.agent.handler import NEVER, Context, Lifetime, Offer, run_async, run_sync
from aicp.agent.memory import Memory
from aicp.agent.slots import Slots
from aicp.model.document_desk import DocumentDesk
from aicp.model.wire import TaskFailed

logger = logging.getLogger("aicp.agent")


class Order(msgspec.Struct, frozen=True):
    """What is to be executed.

    Attributes:
        key: The idempotency key, which is the task's id.
        attempt: Rises from 1.
        fencing_token: As the caller sent it, or None.
        offer: The capability that was asked for.
        params: JSON object.
        fingerprint: Of capability and params.
        ends_at: When the caller stops waiting, monotonic seconds; infinity without a deadline.
    """

    key: str
    attempt: int
    fencing_token: str | None
    offer: Offer
    params: dict[str, Any]
    fingerprint: bytes
    ends_at: float


class Ending(msgspec.Struct, frozen=True):
    """How an execution ended, ready to be sent.

    Attributes:
        status: HTTP status.
        body: HTTP body.
        is_success: True when a repeat may be answered with it.
    """

    status: int
    body: bytes
    is_success: bool = False


_GIVEN_UP = Ending(500, encode_refusal("shut_down", "the agent has stopped while the handler was at work"))


class Execution:
    """One handler at work, and how many wait for it.

    Attributes:
        order: What it executes.
        slot: Where.
        work: Its task, or the future of its thread.
        ending: None until it is known.
    """

    def __init__(self, order: Order, slot: int, work: asyncio.Future[bytes], lifetime: Lifetime) -> None:
        self.order = order
        self.slot = slot
        self.work = work
        self.ending: Ending | None = None
        self._lifetime = lifetime
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def fingerprint(self) -> bytes:
        """Of capability and params."""
        return self.order.fingerprint

    @property
    def is_cancelled(self) -> bool:
        """True when nobody waited any more; the handler may still be on its way out."""
        return self._lifetime.cancelled

    async def wait(self, ends_at: float) -> Ending | None:
        """Wait for its ending, as one of many: None when `ends_at` or the capability's timeout came first.

        The last one to leave (out of time, or cancelled because its caller went away) cancels the handler.
        """
        until = self._lifetime.extend(ends_at)
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = None if until == NEVER else standstill.call_later(until - time.monotonic(), _wake, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(waiter)
        return self.ending

    def end(self, ending: Ending) -> None:
        """Tell it to whoever waits; the first one counts."""
        if self.ending is None:
            self.ending = ending
            for waiter in self._waiters:
                _wake(waiter)

    def cancel(self) -> None:
        """Tell the handler to stop: a coroutine gets CancelledError, a thread can only look at its context."""
        self._lifetime.cancelled = True
        if isinstance(self.work, asyncio.Task):
            self.work.cancel()

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        self._waiters.discard(waiter)
        if not self._waiters and self.ending is None:
            self.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Executions:
    """The executions in flight, at most one for a key.

    Args:
        slots: Where each takes its place.
        memory: Where successes go.
        threads: For handlers that are no coroutines; as many threads as slots, so that nothing waits inside.
        documents: Where heavy answers of coroutines are written.
    """

    def __init__(
        self, slots: Slots, memory: Memory, threads: ThreadPoolExecutor | None, documents: DocumentDesk
    ) -> None:
        self._documents = documents
        self._slots = slots
        self._memory = memory
        self._threads = threads
        self._running: dict[str, Execution] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._running

    def __len__(self) -> int:
        return len(self._running)

    def find(self, key: str) -> Execution | None:
        """The execution in flight for this key."""
        return self._running.get(key)

    def start(self, order: Order) -> Execution | None:
        """Start the handler in a slot of its own; None when there is none."""
        now = time.monotonic()
        slot = self._slots.take(now)
        if not slot:
            return None
        timeout_s = order.offer.capability.timeout_s
        lifetime = Lifetime(order.ends_at, NEVER if timeout_s is None else now + timeout_s)
        execution = Execution(order, slot, self._put_to_work(order, lifetime), lifetime)
        self._running[order.key] = execution
        execution.work.add_done_callback(self._ender(execution))
        return execution

    async def idle(self, bound_s: float) -> bool:
        """Wait until nothing is in flight, at most `bound_s` seconds; False when something still is."""
        if self._running:
            await asyncio.wait([execution.work for execution in self._running.values()], timeout=bound_s)
        return not self._running

    async def cut_off(self, bound_s: float) -> int:
        """Cancel what is in flight and wait at most `bound_s` seconds for it; the number that would not stop."""
        left = [execution for execution in self._running.values() if execution.ending is None]
        for execution in left:
            execution.cancel()
        if left:
            await asyncio.wait([execution.work for execution in left], timeout=bound_s)
        for execution in left:
            execution.end(_GIVEN_UP)
        return len(self._running)

    def _put_to_work(self, order: Order, lifetime: Lifetime) -> asyncio.Future[bytes]:
        loop = asyncio.get_running_loop()
        context = Context(order.key, order.attempt, order.fencing_token, lifetime)
        if order.offer.is_async:
            # Held in _running until it ends; cut_off() awaits it.
            return loop.create_task(run_async(order.offer, order.params, context, self._documents))
        return loop.run_in_executor(self._threads, run_sync, order.offer, order.params, context)

    def _ender(self, execution: Execution) -> Callable[[asyncio.Future[bytes]], None]:
        def end(work: asyncio.Future[bytes]) -> None:
            order = execution.order
            self._slots.give_back(execution.slot, time.monotonic())
            del self._running[order.key]
            ending = _ending_of(order, work)
            if ending.is_success:
                self._memory.remember(order.key, order.fingerprint, ending.body)
            execution.end(ending)

        return end


def _ending_of(order: Order, work: asyncio.Future[bytes]) -> Ending:
    name = order.offer.capability.name
    if work.cancelled():
        return Ending(500, encode_refusal("handler_cancelled", f"the handler of '{name}' was cancelled before its end"))
    error = work.exception()
    if error is None:
        return Ending(200, work.result(), is_success=True)
    if isinstance(error, TaskFailed):
        return Ending(200, encode_failure(order.key, error.error))
    if isinstance(error, UnusableAnswer):
        logger.error("%r: the handler of '%s' %s", order.key, name, error)
        return Ending(500, encode_refusal("unusable_answer", f"the handler of '{name}' {error}"))
    logger.error("%r: the handler of '%s' failed", order.key, name, exc_info=error)
    told = f"the handler of '{name}' raised {type(error).__name__}: {_text_of(error)}".removesuffix(": ")
    return Ending(500, encode_refusal("handler_error", told))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a stranger's __str__ may raise anything, and the slot's answer must go out
        return ""
