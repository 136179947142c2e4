"""Facts as rows and back: JSON that a person can read with any SQL shell; large results apart, by digest."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import msgspec

from aicp.errors import StorageError
from aicp.model.event import ChainCancelled, ChainEnded, ChainSubmitted, Fact, TaskEnded, TaskStarted
from aicp.model.outcome import TaskError
from aicp.model.task import Attempt, TaskResult, TaskStatus
from aicp.ports import ChainRecord

INLINE_BYTES_MAX = 64 * 1024
"""A result whose JSON is longer is stored once, by its digest, and its fact holds `null` instead."""

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


class _EndOutline(msgspec.Struct, frozen=True, tag_field="kind", tag="task_ended"):
    chain_id: str
    task: str
    result: _ResultOutline


_outline_decoder = msgspec.json.Decoder(ChainSubmitted | TaskStarted | _EndOutline | ChainCancelled | ChainEnded)


class StoredFact(Protocol):
    """A fact as any database gives it back: chain id, epoch, JSON, and of its large result the digest and the JSON."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class FactRow(msgspec.Struct, frozen=True, gc=False):
    """A fact as it is stored.

    Attributes:
        fact: JSON.
        digest: Of its result when that lives apart, else None.
    """

    fact: str
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
    """

    chain_id: str
    facts: tuple[FactRow, ...]
    results: tuple[ResultRow, ...]
    status: TaskStatus | None
    ended_at: str | None
    size: int


def encode_submitted(submitted: ChainSubmitted) -> FactRow:
    """The first fact of a chain.

    Raises:
        StorageError: It holds what JSON cannot.
    """
    return FactRow(_encode(submitted, submitted.chain_id).decode())


def encode_facts(facts: Sequence[Fact]) -> AppendRows:
    """Facts of one chain, at least one. Costs a few microseconds a fact, and the size of the results.

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
        rows.append(_encode_fact(fact, results))
        if isinstance(fact, ChainEnded):
            status, ended_at = fact.status, timestamp(fact.at)
        elif isinstance(fact, TaskEnded):
            status = status or TaskStatus.RUNNING
    size = sum(len(row.fact) for row in rows) + sum(len(row.body) for row in results)
    return AppendRows(chain_id, tuple(rows), tuple(results), status, ended_at, size)


def decode_facts(facts: Iterable[str], results: Mapping[int, str]) -> list[Fact]:
    """Facts from their JSON, and the large results of some of them by position.

    Raises:
        msgspec.DecodeError: It is not what was written, or of a newer version.
    """
    decoded = _facts_decoder.decode(f"[{','.join(facts)}]")
    for position, body in results.items():
        decoded[position] = _with_result(decoded[position], body)
    return decoded


def decode_outline(fact: str) -> Fact:
    """A fact from its JSON, without the result of a task: whatever that is, it is skipped and not built.

    Raises:
        msgspec.DecodeError: It is not what was written, or of a newer version.
    """
    decoded: ChainSubmitted | TaskStarted | _EndOutline | ChainCancelled | ChainEnded = _outline_decoder.decode(fact)
    if not isinstance(decoded, _EndOutline):
        return decoded
    named = msgspec.structs.asdict(decoded.result)
    return TaskEnded(decoded.chain_id, decoded.task, TaskResult(**named))


def decode_record(rows: Sequence[StoredFact]) -> ChainRecord:
    """A chain from the rows of all its facts, in their order; at least one.

    Raises:
        msgspec.MsgspecError: It is not what was written, or of a newer version.
    """
    chain_id, epoch = rows[0][0], rows[0][1]
    return record_of(chain_id, epoch, decode_facts((row[2] for row in rows), _results(chain_id, rows)))


def decode_records(rows: Iterable[StoredFact]) -> Iterator[ChainRecord | msgspec.MsgspecError]:
    """Chains from rows that stand together chain by chain; for one that cannot be read, why."""
    for _, of_chain in groupby(rows, key=itemgetter(0)):
        try:
            yield decode_record(list(of_chain))
        except msgspec.MsgspecError as error:
            yield error


def record_of(chain_id: str, epoch: int, facts: Sequence[Fact]) -> ChainRecord:
    """A chain from all its facts, at least one.

    Raises:
        msgspec.ValidationError: It does not begin with its submit.
    """
    submitted = facts[0]
    if not isinstance(submitted, ChainSubmitted):
        message = f"chain {chain_id} does not begin with its submit"
        raise msgspec.ValidationError(message)
    return ChainRecord(submitted, tuple(facts[1:]), epoch)


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC, always 27 characters, so that texts sort as times do."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def _encode_fact(fact: Fact, results: list[ResultRow]) -> FactRow:
    encoded = _encode(fact, fact.chain_id)
    if len(encoded) <= INLINE_BYTES_MAX or not isinstance(fact, TaskEnded):
        return FactRow(encoded.decode())
    body = _encode(fact.result.result, fact.chain_id)
    if len(body) <= INLINE_BYTES_MAX:
        return FactRow(encoded.decode())
    digest = hashlib.sha256(body).digest()
    results.append(ResultRow(digest, body.decode()))
    without = msgspec.structs.replace(fact, result=msgspec.structs.replace(fact.result, result=None))
    return FactRow(_encode(without, fact.chain_id).decode(), digest)


def _results(chain_id: str, rows: Iterable[StoredFact]) -> dict[int, str]:
    """The large results by the position of their fact."""
    results: dict[int, str] = {}
    for position, (_, _, _, digest, body) in enumerate(rows):
        if digest is None:
            continue
        if body is None:
            message = f"chain {chain_id} refers to a result that is not there"
            raise msgspec.ValidationError(message)
        results[position] = body
    return results


def _with_result(fact: Fact, body: str) -> Fact:
    if not isinstance(fact, TaskEnded):
        message = "A large result belongs to a fact that has none."
        raise msgspec.ValidationError(message)
    result: Any = _result_decoder.decode(body)
    return msgspec.structs.replace(fact, result=msgspec.structs.replace(fact.result, result=result))


def _encode(value: Any, chain_id: str) -> bytes:
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise StorageError(f"Chain {chain_id} holds what cannot be recorded as JSON: {error}.") from error
