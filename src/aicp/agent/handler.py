"""What runs for a call: the user's function, what it is told, and how it says no."""

import inspect
import time
from collections.abc import Callable
from typing import Any

import msgspec

from aicp.agent.answers import encode_answer
from aicp.errors import InvalidAgent
from aicp.model.agent import Capability
from aicp.model.document_desk import DocumentDesk

NEVER = float("inf")


class HandlerExited(RuntimeError):
    """The handler tried to end the process or an iteration that is not its own."""


class Lifetime:
    """How long an execution may go on; its owner writes, its handler reads (from a thread, too).

    Args:
        deadline: When the first caller stops waiting, monotonic seconds; infinity when it did not say.
        times_out_at: When the capability's own timeout ends it, whoever still waits.

    Attributes:
        ends_at: The earlier of the last caller's deadline and the timeout.
        cancelled: True once nobody waits for the answer any more.
    """

    __slots__ = ("_times_out_at", "cancelled", "ends_at")

    def __init__(self, deadline: float = NEVER, times_out_at: float = NEVER) -> None:
        self._times_out_at = times_out_at
        self.ends_at = min(deadline, times_out_at)
        self.cancelled = False

    def extend(self, deadline: float) -> float:
        """Go on until this caller's deadline, too; returns when this caller's wait must end."""
        until = min(deadline, self._times_out_at)
        self.ends_at = max(self.ends_at, until)
        return until


class Context:
    """What a handler may know of its call; handed over as second argument to a handler that takes one.

    Attributes:
        task_id: Global id of the task, the same for every attempt: the key that makes effects happen once.
        attempt: Rises with every dispatch of the task, from 1.
        fencing_token: `<epoch>.<attempt>`, None when the caller sent none. Hand it to whatever you write to: an older
            token must not overwrite the work of a newer one.
    """

    __slots__ = ("_lifetime", "attempt", "fencing_token", "task_id")

    def __init__(self, task_id: str, attempt: int, fencing_token: str | None, lifetime: Lifetime) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.fencing_token = fencing_token
        self._lifetime = lifetime

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the last caller stops waiting, never below 0; None without a deadline."""
        ends_at = self._lifetime.ends_at
        return None if ends_at == NEVER else max(0.0, ends_at - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """True once nobody waits any more: a function in a thread cannot be stopped, it can only look here."""
        return self._lifetime.cancelled


class Offer(msgspec.Struct, frozen=True):
    """A capability and the function behind it.

    Attributes:
        capability: As it is declared to AICP.
        function: The handler.
        is_async: False when it runs in a thread.
        wants_context: True when it takes a `Context` as second argument.
    """

    capability: Capability
    function: Callable[..., Any]
    is_async: bool
    wants_context: bool

    @property
    def ref(self) -> str:
        """`name@major`."""
        return f"{self.capability.name}@{self.capability.version.partition('.')[0]}"


def make_offer(capability: Capability, function: Callable[..., Any]) -> Offer:
    """Look at a handler once, when it is declared.

    Raises:
        InvalidAgent: It cannot be called with one or two positional arguments.
    """
    return Offer(capability, function, _is_async(function), _wants_context(capability.name, function))


async def run_async(offer: Offer, params: dict[str, Any], context: Context, documents: DocumentDesk) -> bytes:
    """Run a coroutine handler and return the body of its answer; what it raises goes through.

    A heavy answer is written in a thread.
    """
    try:
        result = await (offer.function(params, context) if offer.wants_context else offer.function(params))
    except SystemExit as error:
        raise HandlerExited(f"raised {error!r}; a handler cannot end the agent") from error
    return await documents.write(result, lambda: encode_answer(context.task_id, result))


def run_sync(offer: Offer, params: dict[str, Any], context: Context) -> bytes:
    """Run a plain handler, in a thread of the pool, and return the body of its answer; what it raises goes through."""
    try:
        result = offer.function(params, context) if offer.wants_context else offer.function(params)
    except (SystemExit, StopIteration) as error:
        # A future cannot carry StopIteration, and would never end.
        raise HandlerExited(f"raised {error!r}; a handler cannot end the agent") from error
    return encode_answer(context.task_id, result)


def _is_async(function: Callable[..., Any]) -> bool:
    # The second look is for objects whose class has an async __call__.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _wants_context(name: str, function: Callable[..., Any]) -> bool:
    if not callable(function):
        raise InvalidAgent(f"the handler of '{name}' must be a function, not {function!r}")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return False  # some builtins tell nothing about themselves
    if _takes(signature, 1):
        return False
    if _takes(signature, 2):
        return True
    raise InvalidAgent(f"the handler of '{name}' must take (params) or (params, context), not {signature}")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
