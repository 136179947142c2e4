"""A journal in memory: the whole contract but durability."""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import dropwhile, islice

import msgspec

from aicp.errors import ChainNotFound, Conflict, IdempotencyConflict, OwnershipLost, QueueFull
from aicp.model.event import ChainEnded, ChainSubmitted, Fact, TaskEnded
from aicp.model.request import Request, answered_by
from aicp.model.task import TaskStatus
from aicp.ports import KEYS_KEPT, ChainQuery, ChainRecord, ChainSummary, Clock, SubmitKey, SystemClock
from aicp.storage.list_shapes import shape_of, times_from_to
from aicp.storage.request_rows import refuse_other
from aicp.storage.task_ends import added, bits_of, bits_with

FINISHED_KEPT_MAX = 10_000
KEYS_KEPT_MAX = 1_000_000
KEYS_FULL_RETRY_S = 60.0
FIRST_EPOCH = 1


class _Chain:
    __slots__ = ("ended_at", "ends", "epoch", "facts", "status", "submitted")

    def __init__(self, submitted: ChainSubmitted) -> None:
        self.submitted = submitted
        self.facts: list[Fact] = []
        self.epoch = FIRST_EPOCH
        self.status = TaskStatus.PENDING
        self.ended_at: datetime | None = None
        self.ends = 0

    def take(self, fact: Fact) -> None:
        self.facts.append(fact)
        self.ends = added(self.ends, bits_of([fact]), len(self.submitted.spec.tasks))
        if isinstance(fact, ChainEnded):
            self.status, self.ended_at = fact.status, fact.at
        elif isinstance(fact, TaskEnded) and self.ended_at is None:
            self.status = TaskStatus.RUNNING

    def record(self) -> ChainRecord:
        return ChainRecord(self.submitted, tuple(self.facts), self.epoch)

    def outline(self) -> ChainRecord:
        return ChainRecord(self.submitted, tuple(map(_without_result, self.facts)), self.epoch)

    def summary(self) -> ChainSummary:
        submitted = self.submitted
        return ChainSummary(
            submitted.chain_id, submitted.spec.name, submitted.tenant, self.status, len(submitted.spec.tasks),
            submitted.at, self.ended_at, submitted.retry_of,
        )  # fmt: skip


def _without_result(fact: Fact) -> Fact:
    if not isinstance(fact, TaskEnded) or fact.result.result is None:
        return fact
    return msgspec.structs.replace(fact, result=msgspec.structs.replace(fact.result, result=None))


class _KeyUse(msgspec.Struct, frozen=True):
    digest: bytes
    chain_id: str
    at: datetime
    at_s: float


class MemoryJournal:
    """Remembers unfinished chains and the last 10,000 finished ones, until the process ends.

    Whoever opens it finds the chains that earlier users left unfinished, as after a restart.

    Args:
        clock: Tells the age of submit keys.
    """

    durable = False

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._chains: dict[str, _Chain] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._keys: OrderedDict[tuple[str, str], _KeyUse] = OrderedDict()
        self._unclaimed: deque[str] = deque()
        self._requests: dict[tuple[str, str], Request] = {}

    async def open(self) -> None:
        """Find out what is unfinished; nobody owns it any more."""
        self._unclaimed = deque(chain_id for chain_id, chain in self._chains.items() if chain.ended_at is None)

    async def close(self) -> None:
        """Nothing to finish."""

    async def find(self, key: SubmitKey) -> str | None:
        """The id of the chain that was submitted with a key and this body; None when the key was not used.

        Raises:
            IdempotencyConflict: The key was used with another body.
        """
        use = self._keys.get((key.tenant, key.key))
        if use is not None and use.digest != key.digest:
            raise IdempotencyConflict
        return use.chain_id if use is not None else None

    async def submit(self, submitted: ChainSubmitted, key: SubmitKey | None = None, facts: Sequence[Fact] = ()) -> str:
        """Record a new chain and return its id; for a key seen before with the same body, the id it got then.

        Raises:
            IdempotencyConflict: The key was used with another body.
            Conflict: There is a chain of this id.
            QueueFull: A million keys are remembered, none of them for 7 days.
        """
        if key is not None and (known := await MemoryJournal.find(self, key)) is not None:
            return known
        chain_id = submitted.chain_id
        if chain_id in self._chains:
            raise Conflict(f"There is a chain '{chain_id}' already.")
        if key is not None:
            self._remember(key, submitted)
        self._chains[chain_id] = _Chain(submitted)
        self._take(chain_id, facts)
        return chain_id

    async def append(self, facts: Sequence[Fact], epoch: int = FIRST_EPOCH) -> None:
        """Record facts of one chain, all or none.

        Raises:
            ChainNotFound: There is no such chain.
            OwnershipLost: The chain's epoch is higher than `epoch`.
            Conflict: The chain has ended.
            ValueError: They are of several chains.
        """
        if not facts:
            return
        chain_id = facts[0].chain_id
        if any(fact.chain_id != chain_id for fact in facts):
            message = f"Facts of one chain at a time: not all of these are of {chain_id}."
            raise ValueError(message)
        chain = self._chains.get(chain_id)
        if chain is None:
            raise ChainNotFound(f"There is no chain '{chain_id}'.")
        if chain.epoch > epoch:
            raise OwnershipLost(f"Chain {chain_id} has another owner, of epoch {chain.epoch}; this one's is {epoch}.")
        if chain.ended_at is not None:
            raise Conflict(f"Chain {chain_id} has ended; nothing more is recorded of it.")
        self._take(chain_id, facts)

    async def claim(self, limit: int) -> Sequence[ChainRecord]:
        """Become the owner of chains that were unfinished when it was opened, epoch + 1; oldest first."""
        claimed: list[ChainRecord] = []
        while self._unclaimed and len(claimed) < limit:
            chain = self._chains.get(self._unclaimed.popleft())
            if chain is not None and chain.ended_at is None:
                chain.epoch += 1
                claimed.append(chain.record())
        return claimed

    async def read(self, chain_id: str) -> ChainRecord | None:
        """Everything recorded of a chain; None when there is no such chain."""
        chain = self._chains.get(chain_id)
        return chain.record() if chain is not None else None

    async def summary(self, chain_id: str) -> ChainSummary | None:
        """What lists show of a chain; None when there is no such chain."""
        chain = self._chains.get(chain_id)
        return chain.summary() if chain is not None else None

    async def outlines(self, chain_ids: Sequence[str]) -> Sequence[ChainRecord]:
        """What `read` gives of several chains, in this order, without results of tasks; unknown ones are left out."""
        chains = (self._chains.get(chain_id) for chain_id in chain_ids)
        return [chain.outline() for chain in chains if chain is not None]

    async def list_chains(self, query: ChainQuery) -> Sequence[ChainSummary]:
        """Newest first, one page. Costs a look at each newer chain."""
        return [chain.summary() for chain in islice(self._found(query), max(0, query.limit))]

    async def ask(self, request: Request) -> bool:
        """Remember a request to the owner of a chain; False when it has ended, or there is none.

        Raises:
            Conflict: There is one of this name with another body.
        """
        chain = self._chains.get(request.chain_id)
        if chain is None or chain.ended_at is not None:
            return False
        refuse_other(request, self._requests.setdefault((request.chain_id, request.name), request).body)
        return True

    async def asked(self) -> Sequence[Request]:
        """The requests to unfinished chains."""
        return list(self._requests.values())

    async def prune(self, before: datetime, limit: int) -> int:
        """Forget at most `limit` finished chains that ended before then, oldest end first; returns how many."""
        old: list[str] = []
        for chain_id in islice(self._finished, max(0, limit)):
            ended_at = self._chains[chain_id].ended_at
            if ended_at is None or ended_at >= before:
                break
            old.append(chain_id)
        for chain_id in old:
            self._forget(chain_id)
        return len(old)

    async def prune_keys(self, before: datetime) -> int:
        """Forget submit keys that were first used before then; returns how many."""
        count = 0
        while self._keys and next(iter(self._keys.values())).at < before:
            self._keys.popitem(last=False)
            count += 1
        return count

    def _found(self, query: ChainQuery) -> Iterator[_Chain]:
        """Newest first, one page of them from behind `before`, which must be one of the tenant's."""
        found: Iterator[_Chain] = reversed(self._chains.values())
        is_by_time = shape_of(query).has_times
        if is_by_time:
            # Stable: of those of one time the last one recorded stays first.
            found = iter(sorted(found, key=lambda chain: chain.submitted.at, reverse=True))
        if query.tenant is not None:
            found = (chain for chain in found if chain.submitted.tenant == query.tenant)
        if query.before is not None:
            found = dropwhile(lambda chain: chain.submitted.chain_id != query.before, found)
            next(found, None)
        if query.unfinished:
            found = (chain for chain in found if chain.ended_at is None)
        if query.with_tasks is not None:
            bit = bits_with(query.with_tasks)
            found = (chain for chain in found if chain.ends & bit)
        if query.name:
            found = (chain for chain in found if chain.submitted.spec.name.startswith(query.name))
        if is_by_time:
            first, last = times_from_to(query)
            found = (chain for chain in found if first <= chain.submitted.at < last)
        return found if query.status is None else (chain for chain in found if chain.status is query.status)

    def _take(self, chain_id: str, facts: Sequence[Fact]) -> None:
        chain = self._chains[chain_id]
        for fact in facts:
            chain.take(fact)
        for name in answered_by(facts):
            self._requests.pop((chain_id, name), None)
        if chain.ended_at is None:
            return
        for request in [each for each in self._requests if each[0] == chain_id]:
            del self._requests[request]
        self._finished[chain_id] = None
        if len(self._finished) > FINISHED_KEPT_MAX:
            self._forget(next(iter(self._finished)))

    def _forget(self, chain_id: str) -> None:
        del self._finished[chain_id]
        del self._chains[chain_id]

    def _remember(self, key: SubmitKey, submitted: ChainSubmitted) -> None:
        """A key is good for 7 days, so what is full refuses: forgetting one early could do something twice."""
        self._forget_old_keys()
        if len(self._keys) >= KEYS_KEPT_MAX:
            told = f"{KEYS_KEPT_MAX} submit keys of the last 7 days are remembered, which is all that fit in memory"
            raise QueueFull(f"{told}: submit without a key, or use a database.", KEYS_FULL_RETRY_S)
        self._keys[key.tenant, key.key] = _KeyUse(key.digest, submitted.chain_id, submitted.at, self._clock.monotonic())

    def _forget_old_keys(self) -> None:
        before_s = self._clock.monotonic() - KEYS_KEPT.total_seconds()
        while self._keys and next(iter(self._keys.values())).at_s < before_s:
            self._keys.popitem(last=False)
