"""What `aicp db check` does with rows, the same for every database: each is compared with its checksum."""

from collections.abc import Callable
from typing import Any

from aicp.errors import NewerVersion, RecordDamaged
from aicp.model.event import Fact
from aicp.storage.row_checksums import described
from aicp.storage.rows import FIRST_EPOCH, SEQ, StoredChain, StoredFact, intact_result, outline_fact

PROBLEMS_MAX = 100

_OF_CHAIN = "the chain is not run and reading it fails, restore a backup or go on without it"
_ADVICE = {
    "chains": _OF_CHAIN,
    "facts": _OF_CHAIN,
    "results": "reading the tasks that had this result fails, restore a backup or go on without them",
    "submit_keys": "whether this key was used is not known, restore a backup or do not send it again",
    "registrations": "the agent is unknown until it registers again",
    "api_keys": "the key opens nothing, revoke it and create another one",
    "audit": "the record is not listed",
    "agent_orders": "the order is not carried out, give it again",
    "cancel_requests": "the request is not carried out, cancel the chain again",
    "requests": "the request is not carried out, make it again",
    "open_waits": "the wait is not listed, look at its chain",
    "capabilities": "the capability is unknown until an agent offers it again",
    "removed_agents": "other servers may still list the agent, remove it again",
    "clock_state": "nothing old is deleted until the clocks have been observed anew",
}
"""By table: what a damaged row means and what to do."""

FACTS = "SELECT {columns} FROM chains LEFT JOIN facts ON facts.chain_id = chains.chain_id ORDER BY number, seq"
"""The rows for `ChainChecks`, each with the columns of `FACT_COLUMNS` and the fact's JSON."""
ORPHANS = """
    SELECT DISTINCT chain_id FROM facts
    WHERE NOT EXISTS (SELECT 1 FROM chains WHERE chains.chain_id = facts.chain_id) LIMIT 100
"""
"""The chains for `missing_chain`."""
MISSING_RESULTS = """
    SELECT DISTINCT result_digest FROM facts
    WHERE result_digest IS NOT NULL AND NOT EXISTS (SELECT 1 FROM results WHERE digest = facts.result_digest) LIMIT 100
"""
"""The digests for `missing_result`."""
MISSING_KEYS = """
    SELECT chains.chain_id FROM chains LEFT JOIN submit_keys ON submit_keys.chain_id = chains.chain_id
    WHERE chains.key_checksum IS NOT NULL AND chains.submitted_at > {since} AND submit_keys.chain_id IS NULL LIMIT 100
"""
"""The chains for `missing_key`, submitted since some time before the newest one."""
KEYS_THERE_DAYS = 6
"""How old keys may be that must be there: they are kept for seven days."""


class Problems:
    """What is wrong with the rows of a database, each a sentence without a full stop."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @property
    def are_enough(self) -> bool:
        """True when there is no need to look for more."""
        return len(self.found) >= PROBLEMS_MAX

    def add(self, damage: RecordDamaged) -> None:
        """Take down a damaged row."""
        if not self.are_enough:
            self.found.append(problem_of(damage))

    def check(self, check: Callable[[Any], object], row: Any) -> None:
        """Check a row; `check` raises `RecordDamaged`."""
        try:
            check(row)
        except RecordDamaged as damage:
            self.add(damage)


class ChainChecks:
    """Checks facts that come chain by chain and in their order; of each chain, the first problem counts.

    Args:
        problems: Takes down what is wrong.
    """

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._chain: StoredChain | None = None
        self._facts: list[Fact] = []
        self._is_damaged = False

    def take(self, row: StoredFact) -> None:
        """Check a fact."""
        if self._chain is None or self._chain.chain_id != row[0]:
            self.end()
            self._chain = StoredChain(row, None)
            self._problems.check(check_epoch, row)
        if not self._is_damaged and row[SEQ] is not None:
            self._problems.check(self._take, row)

    def end(self) -> None:
        """Check the chain whose last fact was taken as a whole."""
        if self._chain is not None and self._chain.is_readable and not self._is_damaged:
            self._problems.check(self._chain.record, self._facts)
        self._chain, self._facts, self._is_damaged = None, [], False

    def _take(self, row: StoredFact) -> None:
        if self._chain is None:
            raise RuntimeError("a fact came before its chain")
        try:
            if self._chain.is_readable:
                self._facts.append(outline_fact(self._chain, row))
            else:
                self._chain.check(row)
        except NewerVersion:
            # Its facts are what was written. Those that follow are compared with their checksums.
            self._chain.is_readable = False
        except RecordDamaged:
            self._is_damaged = True
            raise


def check_epoch(row: StoredFact) -> None:
    """Compare a chain's epoch with the one that it has at least.

    Raises:
        RecordDamaged: It is lower; the next owner goes on from the other one.
    """
    chain_id, epoch, epoch_min, *_ = row
    at_least = epoch_min or FIRST_EPOCH
    if epoch < at_least:
        raise RecordDamaged("chains", described(chain_id), f"its epoch is {epoch} and must be at least {at_least}")


def check_result(row: Any) -> None:
    """Compare a large result with its digest; of digest and body.

    Raises:
        RecordDamaged: It is another.
    """
    intact_result(*row)


def missing_chain(chain_id: str) -> RecordDamaged:
    """How a chain is damaged whose facts are there, and its row is not."""
    return RecordDamaged("chains", described(chain_id), "it is missing, and facts of the chain are there")


def missing_result(digest: bytes) -> RecordDamaged:
    """How a large result is damaged that a fact refers to, and that is not there."""
    return RecordDamaged("results", digest.hex(), "it is missing")


def missing_key(chain_id: str) -> RecordDamaged:
    """How a chain is damaged that was submitted with a key, whose row is not there."""
    return RecordDamaged("submit_keys", f"of chain {described(chain_id)}", "it is missing")


def problem_of(damage: RecordDamaged) -> str:
    """What a check says of a damaged row, without a full stop."""
    advice = _ADVICE.get(damage.table)
    return f"row {damage.row} of table {damage.table} is damaged: {damage.why}{f'; {advice}' if advice else ''}"
