"""Serves an agent until something ends it: a signal, a closed standard input, a newer instance."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

import msgspec

from aicp.agent.offering import Offering
from aicp.agent.options import AgentOptions
from aicp.agent.served import ServedAgent
from aicp.agent.stdin import watch_stdin
from aicp.forks import signals_reset_in_child

ORPHAN_DRAIN_S = 2.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Reason(StrEnum):
    """Why an agent stopped."""

    SIGNAL = "signal"
    STDIN_CLOSED = "stdin_closed"
    REPLACED = "replaced"


class Departure(msgspec.Struct, frozen=True):
    """How an agent stopped.

    Attributes:
        reason: Why.
        cut_off: How many calls were not given the time to end.
        still_running: How many handlers would not stop even then (a thread cannot be made to).
        hurried_by: The second signal, 0 when there was none.
    """

    reason: Reason
    cut_off: int = 0
    still_running: int = 0
    hurried_by: int = 0


async def serve_until_stopped(
    offering: Offering, options: AgentOptions, on_serving: Callable[[ServedAgent], None]
) -> Departure:
    """Serve, and drain when told to stop; a second signal ends it at once.

    Args:
        offering: The agent.
        options: How it is served.
        on_serving: Called once, when calls can come.

    Raises:
        SettingsError: The options cannot be used, or the address cannot be bound.
    """
    stop = _Stop()
    served = ServedAgent(offering, options, on_replaced=lambda: stop.ask(Reason.REPLACED))
    await served.start()
    try:
        with stop.listening(until_stdin_closes=options.until_stdin_closes):
            on_serving(served)
            reason = await stop.asked
            cut_off = await _drain(served, stop, ORPHAN_DRAIN_S if reason is Reason.STDIN_CLOSED else options.drain_s)
    finally:
        await served.close()
    return Departure(reason, cut_off, served.in_flight, stop.hurried_by)


async def _drain(served: ServedAgent, stop: "_Stop", bound_s: float) -> int:
    drain = asyncio.get_running_loop().create_task(served.drain(bound_s))
    try:
        await asyncio.wait((drain, stop.hurried), return_when=asyncio.FIRST_COMPLETED)
        return drain.result() if drain.done() else served.in_flight
    finally:
        drain.cancel()
        await asyncio.wait((drain,))


class _Stop:
    """The first reason to stop, and what makes it hurry: a second signal, or a parent that dies meanwhile."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.asked: asyncio.Future[Reason] = self._loop.create_future()
        self.hurried: asyncio.Future[None] = self._loop.create_future()
        self.hurried_by = 0

    def ask(self, reason: Reason) -> None:
        if not self.asked.done():
            self.asked.set_result(reason)
        elif reason is Reason.STDIN_CLOSED:
            self._loop.call_later(ORPHAN_DRAIN_S, self._hurry)

    @contextmanager
    def listening(self, *, until_stdin_closes: bool) -> Iterator[None]:
        if until_stdin_closes:
            watch_stdin(lambda: self.ask(Reason.STDIN_CLOSED))
        # Only the main thread of a process may listen to signals.
        numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        for number in numbers:
            self._loop.add_signal_handler(number, self._on_signal, number)
        try:
            with signals_reset_in_child(numbers):
                yield
        finally:
            for number in numbers:
                self._loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if self.asked.done():
            self.hurried_by = number
            self._hurry()
        self.ask(Reason.SIGNAL)

    def _hurry(self) -> None:
        if not self.hurried.done():
            self.hurried.set_result(None)
