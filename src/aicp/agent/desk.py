"""Decides what becomes of a call: refused, answered from memory, joined to its execution, or executed."""

import time

from aiohttp import web

from aicp.agent.answers import refuse, reply
from aicp.agent.execution import Execution, Executions, Order
from aicp.agent.fencing import Fence
from aicp.agent.incoming import BodyReader, CallHeaders, read_headers, read_invocation
from aicp.agent.memory import Memory, Remembered, fingerprint_of
from aicp.agent.offering import Offering
from aicp.agent.slots import Slots
from aicp.model.document_desk import DocumentDesk
from aicp.model.wire import STALE_TOKEN, Invocation

DRAINING_RETRY_MS = 5_000


class Desk:
    """Where calls arrive, one after the other and each in the same steps.

    Attributes:
        draining: When True, no execution is started any more; repeats are still answered.
    """

    def __init__(
        self, offering: Offering, slots: Slots, memory: Memory, executions: Executions, documents: DocumentDesk
    ) -> None:
        self.draining = False
        self._offering = offering
        self._slots = slots
        self._memory = memory
        self._documents = documents
        self._executions = executions
        self._fence = Fence()
        self._bodies = BodyReader(offering.max_concurrent_tasks)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """The answer to `POST /invoke`."""
        headers = read_headers(request.headers)
        if not isinstance(headers, CallHeaders):
            return headers
        refusal = self._refuse_unread(headers)
        if refusal is not None:
            return refusal
        body = await self._bodies.read(request)
        if not isinstance(body, bytes):
            return body
        invocation = await self._documents.read(body, lambda: read_invocation(body, headers.key), waits=True)
        if not isinstance(invocation, Invocation):
            return invocation
        order = await self._order(invocation, headers)
        return await self._handle(order, headers) if isinstance(order, Order) else order

    def _refuse_unread(self, headers: CallHeaders) -> web.Response | None:
        """Spare a full or leaving agent the body of a call that it has never heard of."""
        key = headers.key
        if key is None or key in self._executions or key in self._memory:
            return None
        if self._is_stale(key, headers):
            return _stale()
        if self.draining:
            return _draining()
        return self._full() if self._slots.full else None

    async def _order(self, invocation: Invocation, headers: CallHeaders) -> Order | web.Response:
        offer = self._offering.find(invocation.capability)
        if offer is None:
            told = f"this agent has no '{invocation.capability}'; it has {self._offering.capability_names}"
            return refuse(404, "unknown_capability", told)
        params = invocation.params
        fingerprint = await self._documents.write(params, lambda: fingerprint_of(offer.ref, params))
        now = time.monotonic()
        return Order(
            key=invocation.task_id,
            attempt=invocation.attempt,
            fencing_token=headers.fencing_token,
            offer=offer,
            params=params,
            fingerprint=fingerprint,
            # What this process stood still for while the body came is not the caller's time.
            ends_at=now + headers.limit.left_s(now),
        )

    async def _handle(self, order: Order, headers: CallHeaders) -> web.Response:
        if self._is_stale(order.key, headers):
            return _stale()
        known = self._executions.find(order.key) or self._memory.find(order.key)
        if known is not None and known.fingerprint != order.fingerprint:
            return refuse(409, "key_reused", f"'{order.key}' was used for another call; a new call needs a new key")
        if headers.token is not None:
            self._fence.advance(order.key, headers.token)
        if isinstance(known, Remembered):
            return reply(200, known.body)
        execution = known or self._start(order)
        return await self._await(execution, order.ends_at) if isinstance(execution, Execution) else execution

    def _is_stale(self, key: str, headers: CallHeaders) -> bool:
        return headers.token is not None and self._fence.is_stale(key, headers.token)

    def _start(self, order: Order) -> Execution | web.Response:
        if self.draining:
            return _draining()
        if order.ends_at <= time.monotonic():
            return _out_of_time()
        return self._executions.start(order) or self._full()

    async def _await(self, execution: Execution, ends_at: float) -> web.Response:
        if execution.is_cancelled:
            # Twice at once under one key is worse than a little later.
            again_ms = self._slots.retry_after_ms(time.monotonic())
            return refuse(429, "still_ending", "an attempt of this task is being cancelled", retry_after_ms=again_ms)
        ending = await execution.wait(ends_at)
        return _out_of_time() if ending is None else reply(ending.status, ending.body)

    def _full(self) -> web.Response:
        again_ms = self._slots.retry_after_ms(time.monotonic())
        slots = self._offering.max_concurrent_tasks
        return refuse(429, "full", f"all {slots} slots are taken", retry_after_ms=again_ms)


def _stale() -> web.Response:
    return refuse(409, STALE_TOKEN, "a newer attempt of this task has been here; this one has lost its ownership")


def _draining() -> web.Response:
    return refuse(503, "draining", "this agent is going away", retry_after_ms=DRAINING_RETRY_MS)


def _out_of_time() -> web.Response:
    return refuse(408, "deadline_exceeded", "time ran out before the handler ended")
