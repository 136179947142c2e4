"""The seams through which time, agents, disks and onlookers enter. Few, and small."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

from aicp.model.access import ApiKey, AuditRecord
from aicp.model.agent import AgentProfile
from aicp.model.event import ChainSubmitted, Event, Fact
from aicp.model.notice import Notice, Order
from aicp.model.outcome import Reply
from aicp.model.progress import ClockState
from aicp.model.request import Request
from aicp.model.task import Call, TaskStatus

KEYS_KEPT = timedelta(days=7)
"""How long a journal remembers submit keys, at least."""
KEYS_MAX = 10_000
"""API keys at a time."""
DEAD_KEYS_KEPT = timedelta(days=30)
"""How long a key that was revoked or has expired stays in lists, at least."""
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""A moment before everything that is recorded."""


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
        epoch: Of the owner; rises with every change of it.
    """

    submitted: ChainSubmitted
    facts: tuple[Fact, ...]
    epoch: int = 1


class ChainQuery(msgspec.Struct, frozen=True):
    """Which chains to list.

    Attributes:
        tenant: Whose; None for everybody's.
        status: Only chains that stand here, as recorded; None for all.
        limit: At most this many.
        before: Only chains submitted before this one of theirs (the last one of the page before); none when there is no
            such chain.
        unfinished: True for only those without a recorded end.
        with_tasks: Only chains that may have tasks that ended so; all that have any are among them.
        name: Only chains whose name begins so; None or empty for all.
        submitted_from: Only chains submitted at this time or later; None for all. With this one or the next, the list
            is sorted by the time of the submit, as the wall clock was then; without them, as they were recorded.
        submitted_to: Only chains submitted before this time.
    """

    tenant: str | None = None
    status: TaskStatus | None = None
    limit: int = 50
    before: str | None = None
    unfinished: bool = False
    with_tasks: TaskStatus | None = None
    name: str | None = None
    submitted_from: datetime | None = None
    submitted_to: datetime | None = None


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

    Anything may raise `StorageError`: then a later call may succeed. A write that raised it was not recorded, unless
    only the answer to it got lost: whoever does it again may find it on record already.
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

    async def find(self, key: SubmitKey) -> str | None:
        """The id of the chain that was submitted with a key and this body; None when the key was not used.

        Raises:
            IdempotencyConflict: The key was used with another body.
        """

    async def submit(self, submitted: ChainSubmitted, key: SubmitKey | None = None, facts: Sequence[Fact] = ()) -> str:
        """Record a new chain and return its id; for a key seen before with the same body, the id it got then.

        Args:
            submitted: The chain; whoever submits it owns it, with epoch 1.
            key: What makes it safe to repeat; remembered for 7 days.
            facts: Further facts of it, recorded with it or not at all.

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
            ValueError: They are of several chains; a defect of the caller.
        """

    async def claim(self, limit: int) -> Sequence[ChainRecord]:
        """Become the owner of unfinished chains that nobody alive owns, epoch + 1, and return them, oldest first.

        At most `limit` of them, and fewer when they are large; none when there are none left, which is cheap then.
        """

    async def read(self, chain_id: str) -> ChainRecord | None:
        """Everything recorded of a chain, as of one moment, without waiting for writes; None when there is none.

        Raises:
            NewerVersion: Only a newer version of AICP reads its facts.
        """

    async def summary(self, chain_id: str) -> ChainSummary | None:
        """What lists show of a chain, whatever level reading it needs; None when there is no such chain."""

    async def outlines(self, chain_ids: Sequence[str]) -> Sequence[ChainRecord]:
        """What `read` gives of several chains, in this order, each as of one moment, but with no results of tasks.

        Every `TaskResult.result` is None, whatever it is on record: large ones cost nothing. Chains that are not there
        are left out. Holds one fact at a time besides what it returns; the caller bounds how many chains that is.
        """

    async def list_chains(self, query: ChainQuery) -> Sequence[ChainSummary]:
        """Newest first, one page. Costs the page, however many chains there are."""

    async def ask(self, request: Request) -> bool:
        """Put a request to the owner of a chain on record; False when it has ended, or there is none.

        It stays until the fact that it becomes is on record, or the chain ends. The same again is one request.

        Raises:
            Conflict: There is one of this name with another body.
        """

    async def asked(self) -> Sequence[Request]:
        """The requests to the unfinished chains that this one owns, oldest first; those not answered come again."""

    async def prune(self, before: datetime, limit: int) -> int:
        """Forget at most `limit` finished chains that ended before then, oldest end first; returns how many.

        Large results that nothing refers to any more go with them.
        """

    async def prune_keys(self, before: datetime) -> int:
        """Forget some submit keys that were first used before then, oldest first; returns how many, 0 for none left.

        The caller keeps them for `KEYS_KEPT` at least. Where replicas share the record, what it remembers of agents
        that were removed before then goes as well.
        """


ClockChange = Callable[[ClockState | None, datetime | None], ClockState]
"""Takes the recorded state, None when there is none, and the record's own clock, None when that is this machine's."""


class ClockRecord(Protocol):
    """Remembers how far time has progressed. Opened and closed with the journal."""

    async def update(self, change: ClockChange) -> ClockState:
        """Replace the state by what `change` makes of it, and return that; nobody else changes it meanwhile.

        Raises:
            StorageError: It could not be recorded.
        """


Claim = Callable[[AgentProfile, AgentProfile | None], AgentProfile]
"""Takes a new agent and the one that it would replace, if any; gives the one to put there, or raises why not."""


class Registrations(Protocol):
    """Remembers which agents are registered."""

    async def save(self, profile: AgentProfile, claim: Claim | None = None) -> None:
        """Record an agent, in place of what was known of it.

        Args:
            profile: The agent.
            claim: Asked once more where others may have recorded one since: with whom they did, and no other agent of
                this id is recorded meanwhile. What it raises is raised here, and nothing was recorded.

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


KEYS_OF_PARENT_MAX = 32
"""Sessions that one key may have at once, and codes that wait to be exchanged for one."""


class StoredKey(msgspec.Struct, frozen=True):
    """A key as it is remembered.

    Attributes:
        key: What it is.
        digest: SHA-256 of its secret.
    """

    key: ApiKey
    digest: bytes


class KeySet(msgspec.Struct, frozen=True):
    """Every key, as of one moment.

    Attributes:
        version: Another one whenever a key was added, revoked or forgotten.
        keys: Oldest first.
    """

    version: int
    keys: tuple[StoredKey, ...]


class ApiKeys(Protocol):
    """Remembers API keys; at most `KEYS_MAX`, so whoever checks them can hold them all.

    Anything may raise `StorageError`: then a later call may succeed.
    """

    async def create(self, key: StoredKey, forget_before: datetime = NEVER) -> None:
        """Record a new key; of `KEYS_OF_PARENT_MAX` of the same kind and parent, the oldest is forgotten for it.

        Args:
            key: The key.
            forget_before: Keys that ended before then are forgotten.

        Raises:
            Conflict: There are `KEYS_MAX` already.
        """

    async def revoke(self, key_id: str, at: datetime) -> bool:
        """Record that a key is good no more; one revoked before stays as it is. False when there is no such key."""

    async def forget(self, key_ids: Sequence[str]) -> int:
        """Forget keys wholly, and say how many were known until then: of several callers, one is told of each."""

    async def read(self, known: int | None = None) -> KeySet | None:
        """Every key; None, which is cheap, when nothing changed since the set of version `known`."""


class AuditLog(Protocol):
    """Remembers who changed what; records are only ever added, and the oldest forgotten.

    Anything may raise `StorageError`: then a later call may succeed.
    """

    async def append(self, records: Sequence[AuditRecord], keep: int) -> None:
        """Record them in their order, all or none, in one transaction with others; of all about `keep` are kept."""

    async def page(self, tenant: str | None, limit: int, before: int | None = None) -> Sequence[AuditRecord]:
        """At most `limit` records, newest first.

        Args:
            tenant: Only of keys of this tenant; None for all.
            limit: At most so many.
            before: Only records of a lower number.
        """


class Replica(msgspec.Struct, frozen=True):
    """A process that works on a record which it shares with others.

    Attributes:
        number: Rises with each that joins; one that was declared dead never lives again under its old number.
        name: For people: host and process.
        level: What it reads (see `model/level.py`): what binds every replica waits until all have its level.
    """

    number: int
    name: str
    level: int = 0


class Replicas(Protocol):
    """The processes that share a journal: who is alive, and what one asks of another.

    Opening the journal joins them, and closing it leaves them: others may claim its chains from then on.
    """

    @property
    def alive(self) -> Sequence[Replica]:
        """Who lives, oldest first, this one included, as known a second ago; empty while this one is not alive."""

    @property
    def is_sure(self) -> bool:
        """True while nobody can have taken this one's chains for want of a sign of life. No attempt should start else.

        It may turn true again, and then nothing was lost.
        """

    @property
    def can_record(self) -> bool:
        """True while every part that writes to the record could do so at its last use, seconds ago at most."""

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever this one was declared dead, all its chains having other owners from then on.

        What it still records of them is `OwnershipLost`. It joins again by itself, and owns what it then submits and
        claims.
        """

    async def until_news(self, timeout_s: float) -> None:
        """Return when there may be chains to claim or requests to cancel, after `timeout_s` at the latest.

        For one who waits; what comes while nobody waits is told to the next. News may be for nothing, and may be lost:
        whoever is told looks, and looks now and then without being told.
        """


class Posted(msgspec.Struct, frozen=True):
    """What another replica told.

    Attributes:
        replica: Its number.
        age_s: How long ago, seconds by the record's clock.
        notice: What.
    """

    replica: int
    age_s: float
    notice: Notice


class Ordered(msgspec.Struct, frozen=True):
    """An order of an operator.

    Attributes:
        agent_id: For which agent.
        order: What to do.
        number: Tells it from another one with the same words.
    """

    agent_id: str
    order: Order
    number: int


class StandingOrders(Protocol):
    """Remembers what operators ordered for agents: of the orders about one subject of an agent, the last.

    One stays until another about the same subject takes its place, or the agent is removed; a drain also ends when the
    agent registers anew. Anything may raise `StorageError`: then a later call may succeed.
    """

    async def record(self, agent_id: str, order: Order) -> int:
        """Put an order on record, for every replica and for those that start later; returns the order's number."""

    async def forget(self, agent_id: str) -> None:
        """Forget what was ordered for an agent that is gone, whether or not it was ever on record itself."""

    async def load(self) -> Sequence[Ordered]:
        """What holds at a start, by agent; of agents that are not on record themselves, what is about their circuits.

        Resets are left out: at a start there is nothing to reset.
        """


class News(msgspec.Struct, frozen=True):
    """What is new on a bulletin: of agents and orders, how they are now.

    Attributes:
        registered: Agents that somebody registered, this replica included.
        removed: Ids of agents that somebody removed.
        orders: Orders for agents.
        posted: What others told, oldest first.
        has_gap: True when something that others told may be missing.
    """

    registered: tuple[AgentProfile, ...] = ()
    removed: tuple[str, ...] = ()
    orders: tuple[Ordered, ...] = ()
    posted: tuple[Posted, ...] = ()
    has_gap: bool = False


class DatabaseFile(Protocol):
    """The file that a record is kept in."""

    @property
    def wal_bytes(self) -> int:
        """Size of its write-ahead log, bytes."""

    @property
    def problem(self) -> str:
        """What was found damaged in it since it was opened, a sentence; empty while nothing was."""


class Bulletin(Protocol):
    """Where replicas tell each other what each alone knows. Opened and closed with the journal.

    Anything may raise `StorageError`: then a later call may succeed.
    """

    async def begin(self) -> None:
        """What is registered, removed or told from now on is news to the first `look`; and so is every order."""

    async def post(self, notice: Notice) -> None:
        """Tell the others something. It may be lost, when the record's server dies for one."""

    async def look(self) -> News:
        """What is new since the look that was accepted. Agents and orders may come twice; notices may be lost."""

    def accept(self) -> None:
        """What the last look returned was taken in: it is not news any more."""

    async def until_posted(self, timeout_s: float) -> None:
        """Return when somebody told something, came or went, after `timeout_s` at the latest; it is a hint."""


class Observer(Protocol):
    """Looks on. What is observed can never fail a task: it must not raise, nor wait."""

    def notify(self, event: Event) -> None:
        """Something happened."""
