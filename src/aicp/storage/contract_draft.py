"""The Protocols and values of durable storage as `aicp.ports` is to have them; then this module goes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from aicp.errors import AicpError
from aicp.model.agent import AgentProfile
from aicp.model.event import ChainSubmitted, Fact
from aicp.model.task import TaskStatus
from aicp.ports import ChainRecord, SubmitKey


class OwnershipLost(AicpError):
    """Another owner has claimed the chain; drop it here, nothing was recorded."""

    code = "ownership_lost"


class ChainQuery(msgspec.Struct, frozen=True):
    """Which chains to list.

    Attributes:
        tenant: Whose; None for everybody's.
        status: Only chains that stand here, as recorded; None for all.
        limit: At most this many.
        before: Only chains submitted before this chain id (the last one of the page before).
    """

    tenant: str | None = None
    status: TaskStatus | None = None
    limit: int = 50
    before: str | None = None


class ChainSummary(msgspec.Struct, frozen=True):
    """A chain in a list.

    Attributes:
        chain_id: Its id.
        name: What people call it.
        tenant: Whose it is.
        status: As recorded: PENDING until a task of it ended, RUNNING, or how it ended.
        total_tasks: How many it has.
        submitted_at: UTC.
        ended_at: UTC; None while it is unfinished.
        retry_of: The chain it repeats, or None.
    """

    chain_id: str
    name: str
    tenant: str
    status: TaskStatus
    total_tasks: int
    submitted_at: datetime
    ended_at: datetime | None = None
    retry_of: str | None = None


class Journal(Protocol):
    """Remembers chains. What `submit` and `append` returned for is as durable as `durable` says.

    Anything may raise `StorageError`: then nothing of that call counts as recorded, and a later one may succeed.
    """

    @property
    def durable(self) -> bool:
        """True when it survives the process."""

    async def open(self) -> None:
        """Make it ready; before anything else. It waits up to 10 s for another process to let go of the record.

        Raises:
            SettingsError: It cannot be used: in use by another process, unwritable, of a newer version, or no journal.
        """

    async def close(self) -> None:
        """Write what was handed over, and let go of the record; bounded in time."""

    async def submit(self, submitted: ChainSubmitted, key: SubmitKey | None = None) -> str:
        """Record a new chain and return its id; for a key seen before with the same body, the id it got then.

        Raises:
            IdempotencyConflict: The key was used with another body.
            Conflict: There is a chain of this id.
        """

    async def append(self, facts: Sequence[Fact], epoch: int = 1) -> None:
        """Record facts of one chain, all or none, after those of earlier calls.

        Once it was handed over, a cancelled caller only stops waiting: the facts are recorded all the same.

        Raises:
            ChainNotFound: There is no such chain.
            OwnershipLost: The chain's epoch is higher than `epoch`.
            Conflict: The chain has ended.
        """

    async def claim(self) -> Sequence[ChainRecord]:
        """Become the owner of every unfinished chain, epoch + 1, and return them, oldest first."""

    async def read(self, chain_id: str) -> ChainRecord | None:
        """Everything recorded of a chain, as of one moment, without waiting for writes; None when there is none."""

    async def list_chains(self, query: ChainQuery) -> Sequence[ChainSummary]:
        """Newest first, one page. Costs the page, however many chains there are."""

    async def prune(self, before: datetime, limit: int) -> int:
        """Forget at most `limit` finished chains that ended before then, oldest end first; returns how many.

        Submit keys older than 7 days go with them, and large results that nothing refers to any more.
        """


class Registrations(Protocol):
    """Remembers which agents are registered."""

    async def save(self, profile: AgentProfile) -> None:
        """Record an agent, in place of what was known of it.

        Raises:
            SettingsError: It has a secret, and there is no key to seal it with.
        """

    async def forget(self, agent_id: str) -> None:
        """Remove an agent; one that is not there is no error."""

    async def load(self) -> Sequence[AgentProfile]:
        """Every agent, by id.

        Raises:
            SettingsError: A secret cannot be unsealed.
        """
