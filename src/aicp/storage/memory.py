"""A journal in memory: the whole contract but durability."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence

from aicp.errors import ChainNotFound, IdempotencyConflict
from aicp.model.event import ChainEnded, ChainSubmitted, Fact
from aicp.ports import ChainQuery, ChainRecord, SubmitKey

FINISHED_KEPT_MAX = 10_000
KEYS_KEPT_MAX = 100_000


class _Chain:
    __slots__ = ("facts", "is_finished", "submitted")

    def __init__(self, submitted: ChainSubmitted) -> None:
        self.submitted = submitted
        self.facts: list[Fact] = []
        self.is_finished = False


class MemoryJournal:
    """Remembers unfinished chains and the last 10,000 finished ones, until the process ends."""

    durable = False

    def __init__(self) -> None:
        self._chains: dict[str, _Chain] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._keys: OrderedDict[tuple[str, str], tuple[bytes, str]] = OrderedDict()

    async def open(self) -> None:
        """Nothing to make ready."""

    async def close(self) -> None:
        """Nothing to finish."""

    async def submit(self, submitted: ChainSubmitted, key: SubmitKey | None = None) -> str:
        """Record a new chain and return its id; for a key seen before with the same body, the id it got then.

        Raises:
            IdempotencyConflict: The key was used with another body.
        """
        if key is not None and (known := self._keys.get((key.tenant, key.key))) is not None:
            digest, chain_id = known
            if digest != key.digest:
                raise IdempotencyConflict
            return chain_id
        self._chains[submitted.chain_id] = _Chain(submitted)
        if key is not None:
            self._keys[key.tenant, key.key] = (key.digest, submitted.chain_id)
            if len(self._keys) > KEYS_KEPT_MAX:
                self._keys.popitem(last=False)
        return submitted.chain_id

    async def append(self, facts: Sequence[Fact]) -> None:
        """Record facts, all or none.

        Raises:
            ChainNotFound: A fact is about a chain that was never submitted.
        """
        for fact in facts:
            if fact.chain_id not in self._chains:
                raise ChainNotFound(f"There is no chain '{fact.chain_id}'.")
        for fact in facts:
            chain = self._chains[fact.chain_id]
            chain.facts.append(fact)
            if isinstance(fact, ChainEnded):
                self._finish(fact.chain_id, chain)

    async def read(self, chain_id: str) -> ChainRecord | None:
        """Everything recorded of a chain; None when there is no such chain."""
        chain = self._chains.get(chain_id)
        return _record(chain) if chain is not None else None

    async def unfinished(self) -> Sequence[ChainRecord]:
        """Every chain without an end, oldest first."""
        return [_record(chain) for chain in self._chains.values() if not chain.is_finished]

    async def list_chains(self, query: ChainQuery) -> Sequence[ChainRecord]:
        """Newest first, one page."""
        newest_first = reversed(self._chains)
        if query.before is not None:
            newest_first = itertools.dropwhile(lambda chain_id: chain_id != query.before, newest_first)
            next(newest_first, None)
        chains = (self._chains[chain_id] for chain_id in newest_first)
        theirs = (chain for chain in chains if query.tenant in {None, chain.submitted.tenant})
        return [_record(chain) for chain in itertools.islice(theirs, query.limit)]

    def _finish(self, chain_id: str, chain: _Chain) -> None:
        chain.is_finished = True
        self._finished[chain_id] = None
        if len(self._finished) > FINISHED_KEPT_MAX:
            oldest, _ = self._finished.popitem(last=False)
            del self._chains[oldest]


def _record(chain: _Chain) -> ChainRecord:
    return ChainRecord(chain.submitted, tuple(chain.facts))
