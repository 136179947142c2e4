"""Facts as rows and back: JSON that a person can read with any SQL shell; large results apart, by digest."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol, TypeVar

import msgspec

from aicp.errors import InvalidChain, NewerVersion, RecordDamaged, StorageError
from aicp.model.document_desk import DocumentDesk
from aicp.model.fact import (
    AnswerGiven,
    AttemptAccepted,
    ChainCancelled,
    ChainEnded,
    ChainStopped,
    ChainSubmitted,
    Fact,
    QuestionAsked,
    TaskEnded,
    TaskExpanded,
    TaskStarted,
)
from aicp.model.level import LEVEL
from aicp.model.long_texts import LONG_TEXT, text_of
from aicp.model.nesting import NESTING_MAX
from aicp.model.outcome import TaskError
from aicp.model.pieces import LARGE_BYTES, decode_in_pieces, is_large
from aicp.model.request import answered_by
from aicp.model.task import Attempt, Charge, TaskResult, TaskStatus
from aicp.model.writing import HEAVY_VALUES, encode_in_pieces, is_heavy
from aicp.ports import ChainRecord
from aicp.storage.chain_growth import Growth, growth_of
from aicp.storage.row_checksums import UNREADABLE, described, fact_checksum, placed, status_checksum
from aicp.storage.task_ends import bits_of

FIRST_EPOCH = 1
INLINE_BYTES_MAX = 64 * 1024
"""A result whose JSON is longer is stored once, by its digest, and its fact holds `null` instead."""

# A chain has its params five levels below its fact.
_LEVELS_MAX = NESTING_MAX + 8

T = TypeVar("T")
Unreadable = RecordDamaged | NewerVersion
"""Why a chain cannot be read."""

_encoder = msgspec.json.Encoder()
_facts_decoder = msgspec.json.Decoder(list[Fact])
_result_decoder = msgspec.json.Decoder()


class _ResultOutline(msgspec.Struct, frozen=True):
    """The fields of a `TaskResult` but its result."""

    task_id: str
    capability: str
    status: TaskStatus
    error: TaskError | None = None
    agent_id: str | None = None
    attempts: tuple[Attempt, ...] = ()
    ready_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    by: str = ""
    charges: tuple[Charge, ...] = ()


class _EndOutline(msgspec.Struct, frozen=True, tag_field="kind", tag="task_ended"):
    chain_id: str
    task: str
    result: _ResultOutline


_Outline = (
    ChainSubmitted
    | TaskStarted
    | TaskExpanded
    | AttemptAccepted
    | QuestionAsked
    | AnswerGiven
    | _EndOutline
    | ChainCancelled
    | ChainStopped
    | ChainEnded
)
_outline_decoder = msgspec.json.Decoder(_Outline)


class StoredFact(Protocol):
    """A fact with its chain's row: the columns of `FACT_COLUMNS`, the fact's JSON, and that of its large result."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


FACT_COLUMNS = """
    chains.chain_id, chains.epoch, chains.epoch_min, chains.facts_min, chains.ended_at IS NOT NULL,
    chains.needs, facts.seq, facts.checksum, facts.result_digest
"""
"""What `decode_record` needs beside a fact's JSON and its large result; `facts` is left-joined to `chains`."""
SEQ, CHECKSUM, DIGEST, FACT, BODY = range(6, 11)
"""Where a row of these columns, a fact's JSON and its large result has the values of the fact."""


class FactRow(msgspec.Struct, frozen=True, gc=False):
    """A fact as it is stored.

    Attributes:
        fact: JSON.
        checksum: Of chain id, JSON and digest; not of its place, which is not known yet.
        digest: Of its result when that lives apart, else None.
    """

    fact: str
    checksum: int
    digest: bytes | None = None


class ResultRow(msgspec.Struct, frozen=True, gc=False):
    """A large result.

    Attributes:
        digest: SHA-256 of the JSON.
        body: JSON.
    """

    digest: bytes
    body: str


class AppendRows(msgspec.Struct, frozen=True, gc=False):
    """Facts of one chain, ready to be stored.

    Attributes:
        chain_id: Of all of them.
        facts: In their order.
        results: The large ones.
        status: What the chain's row says from then on; None to leave it.
        ended_at: When the chain ended; None when it did not.
        size: Bytes, about.
        task_ends: The bits that these facts add to those of the chain's row.
        growth: What they add to its level and its number of runs; None for nothing, as a rule.
        answered: The names of the requests that end with them; none, as a rule.
    """

    chain_id: str
    facts: tuple[FactRow, ...]
    results: tuple[ResultRow, ...]
    status: TaskStatus | None
    ended_at: str | None
    size: int
    task_ends: int
    growth: Growth | None = None
    answered: Sequence[str] = ()

    @property
    def status_checksum(self) -> int | None:
        """Of `status` and `ended_at`; None to leave it."""
        return None if self.status is None else status_checksum(self.chain_id, self.status.value, self.ended_at)


class FactEncoder:
    """Encodes facts for a journal, off the loop when they are heavy, and those of one chain in the order of the calls.

    Args:
        documents: Where heavy facts are encoded.
    """

    def __init__(self, documents: DocumentDesk) -> None:
        self._documents = documents
        self._last: dict[str, asyncio.Future[None]] = {}

    async def submit(self, submitted: ChainSubmitted, facts: Sequence[Fact]) -> tuple[FactRow, AppendRows | None]:
        """The first fact of a chain, and further ones if there are any.

        Raises:
            StorageError: One holds what JSON cannot.
        """
        is_long = is_heavy([_heavy_part(submitted), *map(_heavy_part, facts)])
        return await self._run(lambda: _encode_submit(submitted, facts, is_long=is_long), is_long=is_long)

    async def append(self, facts: Sequence[Fact]) -> AppendRows:
        """What `encode_facts` gives.

        Raises:
            StorageError: One holds what JSON cannot.
            ValueError: They are of several chains.
        """
        chain_id, is_long = facts[0].chain_id, is_heavy([*map(_heavy_part, facts)])
        before = self._last.get(chain_id)
        if before is None and not is_long:
            return encode_facts(facts)
        mine = self._last[chain_id] = asyncio.get_running_loop().create_future()
        try:
            if before is not None:
                await asyncio.wait([before])
            return await self._run(lambda: encode_facts(facts, is_long=is_long), is_long=is_long)
        finally:
            mine.set_result(None)
            if self._last[chain_id] is mine:
                del self._last[chain_id]

    async def _run(self, work: Callable[[], T], *, is_long: bool) -> T:
        return await self._documents.run(LONG_TEXT, work, waits=True) if is_long else work()


def encode_submitted(submitted: ChainSubmitted, *, is_long: bool = False) -> FactRow:
    """The first fact of a chain; `is_long` as in `encode_facts`.

    Raises:
        InvalidChain: It holds what JSON cannot: Python's strings and integers can.
    """
    try:
        return _encode_fact(submitted, [], is_long=is_long)
    except StorageError as error:
        raise InvalidChain(f"it is not JSON: {error.__cause__}") from error


def encode_facts(facts: Sequence[Fact], *, is_long: bool = False) -> AppendRows:
    """Facts of one chain, at least one. Costs a few microseconds a fact, and the size of the results.

    Args:
        facts: In their order.
        is_long: True in a thread: what is long is encoded in pieces, which give up the interpreter lock.

    Raises:
        StorageError: One holds what JSON cannot.
        ValueError: They are of several chains.
    """
    chain_id = facts[0].chain_id
    rows: list[FactRow] = []
    results: list[ResultRow] = []
    status: TaskStatus | None = None
    ended_at: str | None = None
    for fact in facts:
        if fact.chain_id != chain_id:
            message = f"Facts of one chain at a time: these are of {chain_id} and {fact.chain_id}."
            raise ValueError(message)
        rows.append(_encode_fact(fact, results, is_long=is_long))
        if isinstance(fact, ChainEnded):
            status, ended_at = fact.status, timestamp(fact.at)
        elif isinstance(fact, TaskEnded):
            status = status or TaskStatus.RUNNING
    size = sum(len(row.fact) for row in rows) + sum(len(row.body) for row in results)
    return AppendRows(
        chain_id, tuple(rows), tuple(results), status, ended_at, size, bits_of(facts), growth_of(facts),
        answered_by(facts),
    )  # fmt: skip


def decode_facts(facts: Iterable[bytes], results: Mapping[int, bytes]) -> list[Fact]:
    """Facts from their JSON, and the large results of some of them by position.

    Raises:
        msgspec.MsgspecError: It is not what was written, or of a newer version.
    """
    decoded = [fact for some in _small_and_large(facts) for fact in _decode_some(some)]
    for position, body in results.items():
        decoded[position] = _with_result(decoded[position], body)
    return decoded


def decode_outline(fact: bytes) -> Fact:
    """A fact from its JSON, without the result of a task: whatever that is, it is skipped and not built.

    Raises:
        msgspec.MsgspecError: It is not what was written, or of a newer version.
    """
    decoded: _Outline = _outline_decoder.decode(fact)
    if not isinstance(decoded, _EndOutline):
        return decoded
    named = msgspec.structs.asdict(decoded.result)
    return TaskEnded(decoded.chain_id, decoded.task, TaskResult(**named))


def newer_version(chain_id: str, level: int | None) -> NewerVersion:
    """What to raise for a chain that needs a higher level than that of this version; the level is None when unknown."""
    which = "" if level is None else f" (level {level})"
    told = f"Chain {described(chain_id)} has facts of a newer version of AICP{which}: a server of that version"
    return NewerVersion(f"{told} shows and runs it.")


class StoredChain:
    """Checks the rows of one chain, fact by fact in their order, and makes a record of them.

    A fact must be at its place, be what its checksum says, and none may be missing: neither between two facts, nor
    behind the last one, as the chain's row says how many there are at least. A fact behind that number has been added
    by code of an older version, which counts none and knows no checksums.

    Args:
        row: Any of the rows.
        level: The level of who reads it; None to read no facts and compare checksums alone where it needs a higher one.

    Raises:
        NewerVersion: The chain needs a higher level.
    """

    def __init__(self, row: StoredFact, level: int | None = LEVEL) -> None:
        self.chain_id, epoch, epoch_min, facts_min, self._is_over, needs, *_ = row
        self.is_readable = needs <= (LEVEL if level is None else level)
        if level is not None and not self.is_readable:
            raise newer_version(self.chain_id, needs)
        self._epoch: int = max(epoch, epoch_min or FIRST_EPOCH)
        self._facts_min: int = facts_min or 0
        self._seq = 0
        self._have_checksums = True

    def check(self, row: StoredFact) -> bytes:
        """The JSON of the next fact.

        Raises:
            RecordDamaged: It is damaged, or one before it is missing.
        """
        seq, stored, digest, fact = row[SEQ], row[CHECKSUM], row[DIGEST], row[FACT]
        if seq != self._seq:
            raise self._missing()
        told = fact if isinstance(fact, bytes) else fact.encode()
        if stored is not None:
            if stored != placed(fact_checksum(self.chain_id, digest, told), seq):
                raise self._damaged_fact("its checksum is another")
            if seq >= self._facts_min:
                raise RecordDamaged(
                    "chains", described(self.chain_id), f"it counts less facts than the {seq + 1} found"
                )
        else:
            self._have_checksums = False
        self._seq += 1
        return told

    def record(self, facts: Sequence[Fact]) -> ChainRecord:
        """All facts together, once each was checked.

        Raises:
            RecordDamaged: One is missing, or they do not belong together.
        """
        if not facts or self._seq < self._facts_min:
            raise self._missing()
        submitted = facts[0]
        if not isinstance(submitted, ChainSubmitted) or submitted.chain_id != self.chain_id:
            raise RecordDamaged("facts", described(self.chain_id, 0), "the chain does not begin with its submit")
        if isinstance(facts[-1], ChainEnded) != bool(self._is_over):
            raise RecordDamaged("chains", described(self.chain_id), "it contradicts the facts on whether it has ended")
        return ChainRecord(submitted, tuple(facts[1:]), self._epoch)

    def unreadable(self, error: Exception) -> RecordDamaged | NewerVersion:
        """What to raise for facts that cannot be decoded.

        JSON that is what was written, as its checksum says, and that fits no type here is of a newer version: it has a
        kind of fact, or a field of a task, that this one does not know. Anything else is damage.
        """
        if self._have_checksums and isinstance(error, msgspec.ValidationError):
            return newer_version(self.chain_id, None)
        why = f"this version of AICP cannot read the chain's facts ({' '.join(str(error).split())[:200]})"
        return RecordDamaged("facts", described(self.chain_id), why)

    def _missing(self) -> RecordDamaged:
        return RecordDamaged("facts", described(self.chain_id, self._seq), "it is missing")

    def _damaged_fact(self, why: str) -> RecordDamaged:
        return RecordDamaged("facts", described(self.chain_id, self._seq), why)


def decode_record(rows: Sequence[StoredFact], level: int = LEVEL) -> ChainRecord:
    """A chain from the rows of all its facts, in their order; at least one.

    Raises:
        NewerVersion: It needs a higher level, or has a fact that this version does not know.
        RecordDamaged: Something is not as it was written, or is missing.
    """
    chain = StoredChain(rows[0], level)
    try:
        facts = [chain.check(row) for row in rows if row[SEQ] is not None]
        return chain.record(decode_facts(facts, _results(rows)))
    except UNREADABLE as error:
        raise chain.unreadable(error) from error


def decode_records(rows: Iterable[StoredFact], level: int = LEVEL) -> Iterator[ChainRecord | Unreadable]:
    """Chains from rows that stand together chain by chain; for one that cannot be read, why."""
    for _, of_chain in groupby(rows, key=itemgetter(0)):
        try:
            yield decode_record(list(of_chain), level)
        except (RecordDamaged, NewerVersion) as error:
            yield error


async def read_in_pieces(rows: Sequence[StoredFact], documents: DocumentDesk, work: Callable[[], T]) -> T:
    """The result of work on rows with their large results, off the loop when they are large."""
    size = sum(len(row[FACT] or b"") + len(row[BODY] or b"") for row in rows)
    return await documents.run(size, work, waits=True) if size > LARGE_BYTES else work()


def decode_outlines(rows: Iterable[StoredFact], level: int = LEVEL) -> ChainRecord | None:
    """What `decode_record` makes, without results of tasks and row by row; None when there are no rows.

    Raises:
        NewerVersion: It needs a higher level, or has a fact that this version does not know.
        RecordDamaged: Something is not as it was written, or is missing.
    """
    chain: StoredChain | None = None
    facts: list[Fact] = []
    for row in rows:
        chain = chain or StoredChain(row, level)
        if row[SEQ] is not None:
            facts.append(outline_fact(chain, row))
    return None if chain is None else chain.record(facts)


def outline_fact(chain: StoredChain, row: StoredFact) -> Fact:
    """The next fact of a chain, without the result of a task.

    Raises:
        RecordDamaged: It is damaged, or one before it is missing.
    """
    try:
        return decode_outline(chain.check(row))
    except UNREADABLE as error:
        raise chain.unreadable(error) from error


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC, always 27 characters, so that texts sort as times do."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def _encode_submit(
    submitted: ChainSubmitted, facts: Sequence[Fact], *, is_long: bool
) -> tuple[FactRow, AppendRows | None]:
    first = encode_submitted(submitted, is_long=is_long)
    return first, encode_facts(facts, is_long=is_long) if facts else None


def _encode_fact(fact: Fact, results: list[ResultRow], *, is_long: bool) -> FactRow:
    is_in_pieces = is_long and is_heavy(_heavy_part(fact))
    if not isinstance(fact, TaskEnded):
        return _fact_row(fact.chain_id, _encode(fact, fact.chain_id, is_in_pieces=is_in_pieces))
    encoded = b"" if is_in_pieces else _encode(fact, fact.chain_id)
    if encoded and len(encoded) <= INLINE_BYTES_MAX:
        return _fact_row(fact.chain_id, encoded)
    body = _encode(fact.result.result, fact.chain_id, is_in_pieces=is_in_pieces)
    if len(body) <= INLINE_BYTES_MAX:
        return _fact_row(fact.chain_id, encoded or _encode(fact, fact.chain_id))
    digest = hashlib.sha256(body).digest()
    results.append(ResultRow(digest, text_of(body)))
    without = msgspec.structs.replace(fact, result=msgspec.structs.replace(fact.result, result=None))
    return _fact_row(fact.chain_id, _encode(without, fact.chain_id), digest)


def _heavy_part(fact: Fact) -> Any:
    """What of a fact may be large."""
    if isinstance(fact, TaskEnded):
        return fact.result.result
    if isinstance(fact, ChainSubmitted):
        return [(task.params, task.on_failure) for task in fact.spec.tasks[:HEAVY_VALUES]]
    return None


def _fact_row(chain_id: str, encoded: bytes, digest: bytes | None = None) -> FactRow:
    return FactRow(text_of(encoded), fact_checksum(chain_id, digest, encoded), digest)


def _small_and_large(facts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Facts in their order: small ones together, each large one by itself."""
    for are_large, some in groupby(facts, key=is_large):
        together = list(some)
        yield from ([fact] for fact in together) if are_large else [together]


def _decode_some(facts: list[bytes]) -> list[Fact]:
    if len(facts) == 1 and is_large(facts[0]):
        decoded: Fact = msgspec.convert(decode_in_pieces(facts[0], levels_max=_LEVELS_MAX), Fact)
        return [decoded]
    return _facts_decoder.decode(b"[%b]" % b",".join(facts))


def _results(rows: Iterable[StoredFact]) -> dict[int, bytes]:
    """The large results by the position of their fact; its digest is a result's checksum.

    Raises:
        RecordDamaged: One is missing, or is not what was written.
    """
    results: dict[int, bytes] = {}
    for position, (*_, digest, _, body) in enumerate(rows):
        if digest is None:
            continue
        if body is None:
            raise RecordDamaged("results", digest.hex(), "it is missing")
        results[position] = intact_result(digest, body)
    return results


def intact_result(digest: bytes, body: bytes | str) -> bytes:
    """The JSON of a large result.

    Raises:
        RecordDamaged: It is not what was written.
    """
    told = body if isinstance(body, bytes) else body.encode()
    # hashlib gives the interpreter lock up meanwhile.
    if hashlib.sha256(told).digest() != digest:
        raise RecordDamaged("results", digest.hex(), "its content does not fit its digest")
    return told


def _with_result(fact: Fact, body: bytes) -> Fact:
    if not isinstance(fact, TaskEnded):
        message = "A large result belongs to a fact that has none."
        raise msgspec.ValidationError(message)
    result: Any = decode_in_pieces(body) if is_large(body) else _result_decoder.decode(body)
    return msgspec.structs.replace(fact, result=msgspec.structs.replace(fact.result, result=result))


def _encode(value: Any, chain_id: str, *, is_in_pieces: bool = False) -> bytes:
    try:
        return encode_in_pieces(value) if is_in_pieces else _encoder.encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise StorageError(f"Chain {chain_id} holds what cannot be recorded as JSON: {error}.") from error
