"""What every library's adapter offers, so that each is measured and questioned by the same code."""

import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Protocol, TypeVar

THRESHOLD = 5
FOR_EVER_S = 3_600.0

B = TypeVar("B")
Call = Callable[[int], Coroutine[Any, Any, int]]


class Case(StrEnum):
    """What is measured."""

    DECORATOR = "success by decorator"
    PERMIT = "success by permit"
    RAISING = "rejection raising"
    REFUSAL = "rejection by permit"
    TASKS = "1,000 tasks"
    BYTES = "bytes per breaker"


REFUSES_BY_RAISING: Mapping[Case, str] = {Case.REFUSAL: "it refuses by raising only"}


class LetThroughError(Exception):
    """A breaker that had to refuse admitted."""


class LacksError(Exception):
    """A library was asked for what it does not have."""


class Peer(Protocol[B]):
    """A library, used as its own documentation asks for under asyncio.

    In-memory storage, no listeners, opening at the fifth failure in a row; everything else as the library has it.

    Attributes:
        name: For the tables.
        package: Its distribution.
        modules: Its import package.
        refusal: What it raises instead of calling.
        lacks: Why it cannot do a case.
        note: What a reader of its costs has to know.
        caveat: What a reader of what it gets right has to know.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    modules: ClassVar[str]
    refusal: ClassVar[type[BaseException]]
    lacks: ClassVar[Mapping[Case, str]] = {}
    note: ClassVar[str] = ""
    caveat: ClassVar[str] = ""

    async def new(self, name: str, wait_s: float, /) -> B:
        """The library's own breaker, closed; once open it admits again after `wait_s`."""

    async def many(self, names: Sequence[str]) -> Any:
        """As many breakers as names, held by what is returned."""
        return [await self.new(name, FOR_EVER_S) for name in names]

    def guard(self, breaker: B, call: Call, /) -> Call:
        """The call behind the breaker: the library's decorator, or what comes closest."""

    async def pass_by_permit(self, _breaker: B, _call: Call, _times: int, /) -> None:
        """Make the call so often, asking and settling by hand or by a context manager."""
        raise LacksError(self.lacks[Case.PERMIT])

    def refuse_by_permit(self, _breaker: B, _times: int, /) -> None:
        """Be refused so often without an exception."""
        raise LacksError(self.lacks[Case.REFUSAL])


class BrokenError(Exception):
    """What the guarded call raises where it has to fail."""


async def broken(_: int) -> int:
    """A call that fails."""
    raise BrokenError


async def fail(peer: Peer[B], breaker: B, times: int) -> None:
    """Let guarded calls fail so often, whatever the library makes of it."""
    guarded = peer.guard(breaker, broken)
    for _ in range(times):
        with contextlib.suppress(Exception):
            await guarded(1)


async def opened(peer: Peer[B], name: str, wait_s: float) -> B:
    """A breaker that opened because its calls failed.

    Raises:
        LetThroughError: It did not open: whatever was to be measured would have been of something else.
    """
    breaker = await peer.new(name, wait_s)
    await fail(peer, breaker, THRESHOLD)
    if await lets_through(peer, breaker):
        raise LetThroughError(f"{peer.name} did not open after {THRESHOLD} failures")
    return breaker


async def lets_through(peer: Peer[B], breaker: B) -> bool:
    """Offer one call that would succeed; True when it was made."""
    made = False

    async def succeed(number: int) -> int:
        nonlocal made
        made = True
        return number

    with contextlib.suppress(peer.refusal):
        await peer.guard(breaker, succeed)(1)
    return made
