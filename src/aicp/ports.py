"""The seams through which time, agents, disks and onlookers enter. Few, and small."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from aicp.model.agent import AgentProfile
from aicp.model.event import ChainSubmitted, Event, Fact
from aicp.model.outcome import Reply
from aicp.model.task import Call


class Clock(Protocol):
    """Time. Decisions use `monotonic`, people read `utcnow`."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def utcnow(self) -> datetime:
        """The wall clock, aware, UTC."""


class SystemClock:
    """The machine's time."""

    def monotonic(self) -> float:
        """Seconds; the same clock as the running event loop's."""
        return time.monotonic()

    def utcnow(self) -> datetime:
        """The wall clock, aware, UTC."""
        return datetime.now(UTC)


class Transport(Protocol):
    """Carries one call to one agent."""

    async def invoke(self, agent: AgentProfile, call: Call) -> Reply:
        """Do it, within `call.timeout_s`; whatever goes wrong is a `Reply`, except the caller's own cancellation."""

    async def probe(self, agent: AgentProfile) -> Reply:
        """Ask whether it is alive, within a few seconds: SUCCESS, OVERLOADED, or anything else for no."""

    async def close(self) -> None:
        """Give back every connection; calls in flight end as local trouble."""


class Journal(Protocol):
    """Remembers chains. What `submit` and `append` returned for is as durable as `durable` says."""

    @property
    def durable(self) -> bool:
        """True when it survives the process."""

    async def open(self) -> None:
        """Make it ready; before anything else."""

    async def close(self) -> None:
        """Finish what was begun."""

    async def submit(self, submitted: ChainSubmitted, key: "SubmitKey | None" = None) -> str:
        """Record a new chain and return its id; for a key seen before with the same body, the id it got then.

        Raises:
            IdempotencyConflict: The key was used with another body.
        """

    async def append(self, facts: Sequence[Fact]) -> None:
        """Record facts, all or none."""

    async def read(self, chain_id: str) -> "ChainRecord | None":
        """Everything recorded of a chain; None when there is no such chain."""

    async def unfinished(self) -> "Sequence[ChainRecord]":
        """Every chain without an end, oldest first."""

    async def list_chains(self, query: "ChainQuery") -> "Sequence[ChainRecord]":
        """Newest first, one page."""


class SubmitKey(msgspec.Struct, frozen=True):
    """What makes a submit safe to repeat.

    Attributes:
        tenant: Whose key it is.
        key: As the client sent it, at most 256 characters.
        digest: Of the body.
    """

    tenant: str
    key: str
    digest: bytes


class ChainRecord(msgspec.Struct, frozen=True):
    """A chain and its facts, as the journal holds them.

    Attributes:
        submitted: The first fact.
        facts: The others, in the order they were recorded.
        epoch: Rises with every change of owner.
    """

    submitted: ChainSubmitted
    facts: tuple[Fact, ...]
    epoch: int = 1


class ChainQuery(msgspec.Struct, frozen=True):
    """Which chains to list.

    Attributes:
        tenant: Whose; None for everybody's.
        limit: At most this many.
        before: Only chains submitted before this chain id (the last one of the page before).
    """

    tenant: str | None = None
    limit: int = 50
    before: str | None = None


class Observer(Protocol):
    """Looks on. What is observed can never fail a task: it must not raise, nor wait."""

    def notify(self, event: Event) -> None:
        """Something happened."""
