"""Submits and appends of one moment as one SQL statement: one way to the server and back, one wait for its disk.

The statement locks this replica's row (unless it was declared dead, or the writer has another connection by now), then
each chain's row, and takes what the chain's owner and epoch allow. So whoever claims a chain waits for what is being
recorded of it, and what comes after the claim is refused. What is refused of a batch harms nothing else in it, and it
waits for no chain's row: a chain that another session has locked is left out, and reported.
"""

import functools
from collections.abc import Iterable, Sequence
from operator import or_
from typing import Any

import asyncpg
import msgspec

from aicp.errors import AicpError, ChainNotFound, Conflict, IdempotencyConflict, OwnershipLost, RecordDamaged
from aicp.model.event import ChainSubmitted
from aicp.model.task import TaskStatus
from aicp.ports import SubmitKey
from aicp.storage.chain_growth import GROWN_COLUMNS, GROWN_SET, GROWN_VALUES, growth_of, together
from aicp.storage.row_checksums import chain_checksum, checksum, described, is_intact, status_checksum
from aicp.storage.rows import FIRST_EPOCH, AppendRows, FactRow, ResultRow, timestamp
from aicp.storage.task_ends import ADDED, EPOCH, added

_BETWEEN = "\n"
"""Between the facts of a chain: JSON as it is written here has no line breaks."""

_ME = """
    me AS MATERIALIZED (
        SELECT number FROM replicas WHERE number = $1 AND session = $2 AND died_at IS NULL FOR SHARE
    )
"""
# Behind a fact that is missing stays a gap: the next one must not take its place. Of a NULL, `greatest` thinks nothing.
_APPENDS = """
    heads AS MATERIALIZED (
        SELECT given.*, chain.* FROM unnest(
            $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
            $11::bigint[]
        ) AS given
            (chain_id, given_epoch, facts, digests, checksums, new_status, new_end, new_status_checksum, new_ends)
        CROSS JOIN LATERAL (
            SELECT epoch, owner, status, ended_at, facts_min FROM chains WHERE chains.chain_id = given.chain_id
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS chain
        WHERE EXISTS (SELECT 1 FROM me)
    ), fit AS MATERIALIZED (
        SELECT heads.*,
            greatest((SELECT max(seq) FROM facts WHERE facts.chain_id = heads.chain_id), facts_min - 1, -1) AS seq
        FROM heads WHERE owner = $1 AND epoch <= given_epoch AND ended_at IS NULL
    ), appended AS (
        INSERT INTO facts (chain_id, seq, fact, result_digest, checksum)
        SELECT fit.chain_id, fit.seq + each.place, each.fact, decode(nullif(each.digest, ''), 'hex'),
            each.checksum::bigint + ((fit.seq + each.place) << 32)
        FROM fit CROSS JOIN LATERAL unnest(
            string_to_array(fit.facts, E'\\n'), string_to_array(fit.digests, E'\\n'),
            string_to_array(fit.checksums, E'\\n')
        ) WITH ORDINALITY AS each (fact, digest, checksum, place)
    ), stood AS (
        UPDATE chains SET status = coalesce(fit.new_status, chains.status), ended_at = fit.new_end::timestamptz,
            status_checksum = coalesce(fit.new_status_checksum, chains.status_checksum),
            facts_min = fit.seq + 1 + cardinality(string_to_array(fit.checksums, E'\\n')),
            owner = CASE WHEN fit.new_end IS NULL THEN chains.owner END, task_ends = {added}{grow}
        FROM fit{grown} WHERE chains.chain_id = fit.chain_id
    )
""".replace("{added}", ADDED)
_SUBMITS = """
    keyed AS (
        INSERT INTO submit_keys (tenant, key, digest, chain_id, at, checksum)
        SELECT tenant, key, digest, chain_id, at::timestamptz, checksum
        FROM unnest($12::text[], $24::text[], $14::text[], $15::bytea[], $16::text[], $26::bigint[])
            AS given (chain_id, tenant, key, digest, at, checksum)
        WHERE key IS NOT NULL AND EXISTS (SELECT 1 FROM me) ORDER BY tenant, key
        ON CONFLICT DO NOTHING RETURNING chain_id
    ), fresh AS MATERIALIZED (
        SELECT given.* FROM unnest(
            $12::text[], $13::text[], $14::text[], $16::text[], $17::text[], $18::text[], $19::int[], $20::text[],
            $21::text[], $22::text[], $23::text[], $25::text[], $26::bigint[], $27::bigint[], $28::bigint[],
            $29::bigint[]
        ) WITH ORDINALITY
            AS given (chain_id, tenant, key, at, name, status, total_tasks, ended_at, retry_of, facts, digests,
                checksums, key_checksum, checksum, status_checksum, task_ends, place)
        WHERE EXISTS (SELECT 1 FROM me) AND (key IS NULL OR chain_id IN (SELECT chain_id FROM keyed))
    ), made AS (
        INSERT INTO chains
            (chain_id, tenant, name, status, total_tasks, epoch, submitted_at, ended_at, retry_of, owner, checksum,
            status_checksum, key_checksum, facts_min, task_ends{columns})
        SELECT chain_id, tenant, name, status, total_tasks, 1, at::timestamptz, ended_at::timestamptz, retry_of,
            CASE WHEN ended_at IS NULL THEN $1 END, checksum, status_checksum, key_checksum,
            cardinality(string_to_array(checksums, E'\\n')), task_ends{values}
        FROM fresh{grown} ORDER BY place
    ), begun AS (
        INSERT INTO facts (chain_id, seq, fact, result_digest, checksum)
        SELECT fresh.chain_id, each.place - 1, each.fact, decode(nullif(each.digest, ''), 'hex'),
            each.checksum::bigint + ((each.place - 1) << 32)
        FROM fresh CROSS JOIN LATERAL unnest(
            string_to_array(fresh.facts, E'\\n'), string_to_array(fresh.digests, E'\\n'),
            string_to_array(fresh.checksums, E'\\n')
        ) WITH ORDINALITY AS each (fact, digest, checksum, place)
    )
"""
# Seldom there: most facts raise no level and begin no runs but those of their tasks.
_GROWN = """
    grown AS MATERIALIZED (
        SELECT * FROM unnest({first}::text[], {second}::int[], {third}::bigint[]) AS given (chain_id, needs, runs)
    )
"""
# A row that another session has locked is forgotten when the chain has ended.
_ANSWERED = """
    answered AS (
        DELETE FROM requests WHERE ctid IN (
            SELECT requests.ctid FROM requests
            JOIN unnest({first}::text[], {second}::text[]) AS given (chain_id, name) USING (chain_id, name)
            WHERE chain_id IN (SELECT chain_id FROM fit) FOR UPDATE OF requests SKIP LOCKED
        )
    )
"""
_WITH_GROWTH = {
    "{grow}": GROWN_SET,
    "{columns}": GROWN_COLUMNS,
    "{values}": GROWN_VALUES,
    "{grown}": " LEFT JOIN grown USING (chain_id)",
}
# A result that is there already is locked all the same: whoever prunes must not take it away meanwhile.
_RESULTS = """
    stored AS (
        INSERT INTO results (digest, body)
        SELECT DISTINCT ON (digest) digest, body
        FROM unnest({first}::text[], {second}::bytea[], {third}::text[]) AS given (chain_id, digest, body)
        WHERE {admitted} ORDER BY digest
        ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest
    )
"""
_ADMITTED = "chain_id IN (SELECT chain_id FROM {})"
_MISFITS = """
    CASE WHEN (SELECT count(*) FROM fit) < cardinality($3::text[]) THEN (
        SELECT coalesce(json_object_agg(chain_id, json_build_array(epoch, ended_at IS NOT NULL, chain_id IN (
            SELECT chain_id FROM fit
        ))), '{}') FROM heads
    ) END
"""
_LOCKED = """
    CASE WHEN (SELECT count(*) FROM heads) < cardinality($3::text[]) THEN ARRAY(
        SELECT chain_id FROM chains WHERE chain_id = ANY($3::text[]) AND chain_id NOT IN (SELECT chain_id FROM heads)
    ) END
"""
_STALE = "CASE WHEN (SELECT count(*) FROM fresh) < cardinality($12::text[]) THEN ARRAY(SELECT chain_id FROM fresh) END"
_SUBMITS_FROM, _SUBMIT_COLUMNS = 12, 18
KEY_USE_COLUMNS = "tenant, key, digest, chain_id, at, checksum"
KEY_USES = f"""
    SELECT {KEY_USE_COLUMNS} FROM submit_keys
    WHERE (tenant, key) IN (SELECT tenant, key FROM unnest($1::text[], $2::text[]) AS asked (tenant, key))
"""  # noqa: S608 - constants
"""What keys were used for, by arrays of tenants and keys."""


class Submit(msgspec.Struct, frozen=True, eq=False):
    """A new chain, ready to be stored.

    Attributes:
        submitted: The chain.
        first: Its submit as a row.
        rows: Further facts of it; None for none.
        key: What makes it safe to repeat, or None.
    """

    submitted: ChainSubmitted
    first: FactRow
    rows: AppendRows | None
    key: SubmitKey | None

    @property
    def chain_id(self) -> str:
        """Of the chain."""
        return self.submitted.chain_id


class Append(msgspec.Struct, frozen=True, eq=False):
    """Facts of one chain, ready to be stored.

    Attributes:
        rows: The facts.
        epoch: Of whoever records them.
    """

    rows: AppendRows
    epoch: int

    @property
    def chain_id(self) -> str:
        """Of the chain."""
        return self.rows.chain_id


Item = Submit | Append


class Verdicts(msgspec.Struct, frozen=True):
    """What became of a batch that was recorded.

    Attributes:
        is_alive: False when nothing of it was: this replica is dead, or the writer has another connection.
        misfits: Of the chains appended to, by id: epoch, whether it had ended, whether it took the facts. None when
            all did.
        fresh: The ids of the chains that were made; None when all were.
        locked: The ids of the chains that another session has locked: nothing was recorded of them.
    """

    is_alive: bool
    misfits: dict[str, tuple[int, bool, bool]] | None
    fresh: frozenset[str] | None
    locked: frozenset[str] = frozenset()

    def on_append(self, append: Append) -> AicpError | None:
        """Why facts were refused; None when they are recorded."""
        chain_id = append.chain_id
        if not self.is_alive:
            return OwnershipLost(f"Chain {chain_id} has another owner: this replica was declared dead.")
        if self.misfits is None:
            return None
        if (found := self.misfits.get(chain_id)) is None:
            return ChainNotFound(f"There is no chain '{chain_id}'.")
        epoch, is_over, took = found
        if took:
            return None
        if is_over and epoch <= append.epoch:
            return Conflict(f"Chain {chain_id} has ended; nothing more is recorded of it.")
        return OwnershipLost(f"Chain {chain_id} has another owner, of epoch {epoch}; this one's is {append.epoch}.")

    def is_fresh(self, submit: Submit) -> bool:
        """True when a submit made its chain."""
        return self.fresh is None or submit.chain_id in self.fresh


class Batch:
    """Items in the order they came, as long as they go together."""

    def __init__(self) -> None:
        self.submits: dict[str, Submit] = {}
        self._appends: dict[str, list[Append]] = {}

    @property
    def chain_ids(self) -> list[str]:
        """Of the chains it submits."""
        return list(self.submits)

    def takes(self, item: Item) -> bool:
        """Add an item; False when it has to wait for what is in the batch already, and was not added."""
        chain_id = item.chain_id
        if chain_id in self.submits:
            return False
        if isinstance(item, Submit):
            if chain_id in self._appends:
                return False
            self.submits[chain_id] = item
            return True
        earlier = self._appends.setdefault(chain_id, [])
        if earlier and (earlier[-1].epoch != item.epoch or earlier[-1].rows.ended_at is not None):
            return False
        earlier.append(item)
        return True

    def statement(self, number: int, session: int) -> tuple[str, list[Any]]:
        """SQL and its parameters, for a replica and its writer's connection."""
        appends = [self._appends[chain_id] for chain_id in sorted(self._appends)]
        submits = list(self.submits.values())
        results = [*_results_of_appends(appends), *_results_of_submits(submits)]
        answered = [(append.chain_id, name) for each in appends for append in each for name in append.rows.answered]
        growths = [*_growths_of_appends(appends), *_growths_of_submits(submits)]
        sql = _statement(
            has_appends=bool(appends), has_submits=bool(submits), has_results=bool(results), has_growths=bool(growths),
            has_answers=bool(answered),
        )  # fmt: skip
        args: list[Any] = [number, session]
        if appends:
            args += _columns_of_appends(appends)
        if submits:
            args += _columns_of_submits(submits)
        if results:
            args += _columns(((chain_id, row.digest, row.body) for chain_id, row in results))
        if growths:
            args += _columns(growths)
        if answered:
            args += _columns(answered)
        return sql, args


def verdicts_of(row: asyncpg.Record) -> Verdicts:
    """Read the answer to a batch's statement."""
    misfits, fresh = row["misfits"], row["fresh"]
    return Verdicts(
        row["is_alive"],
        None if misfits is None else _misfits_decoder.decode(misfits),
        None if fresh is None else frozenset(fresh),
        frozenset(row["locked"] or ()),
    )


Key = tuple[str, str]
KeyUse = tuple[bytes, str]


def key_use(row: asyncpg.Record) -> KeyUse:
    """What a key was used for, by its row of `KEY_USE_COLUMNS`: the body's digest and the chain.

    Raises:
        RecordDamaged: The row is damaged.
    """
    check_key_use(row)
    return row["digest"], row["chain_id"]


def check_key_use(row: asyncpg.Record) -> Key:
    """Tenant and key of a row of `KEY_USE_COLUMNS`, which is as it was written.

    Raises:
        RecordDamaged: It is not.
    """
    tenant, key, digest, chain_id, at, stored = row
    if not is_intact(stored, tenant, key, digest, chain_id, timestamp(at)):
        raise RecordDamaged("submit_keys", described(tenant, key), "its checksum is another")
    return tenant, key


def chain_of(use: KeyUse, key: SubmitKey) -> str:
    """The chain that a key leads to, by what it was used for.

    Raises:
        IdempotencyConflict: It was used with another body.
    """
    digest, chain_id = use
    if digest != key.digest:
        raise IdempotencyConflict
    return chain_id


_misfits_decoder = msgspec.json.Decoder(dict[str, tuple[int, bool, bool]])


@functools.cache
def _statement(*, has_appends: bool, has_submits: bool, has_results: bool, has_growths: bool, has_answers: bool) -> str:
    """One of the statements there are: the fewer parts, the less the server has to set up."""
    parts, after = [_ME], 3
    if has_appends:
        parts.append(_APPENDS)
        after = _SUBMITS_FROM
    if has_submits:
        parts.append(_SUBMITS if has_appends else _renumbered(_SUBMITS, _SUBMITS_FROM - 3))
        after += _SUBMIT_COLUMNS
    parts = [_growing(part, has_growths) for part in parts]
    if has_results:
        admitted = [_ADMITTED.format(name) for name, is_there in (("fit", has_appends), ("fresh", has_submits))
                    if is_there]  # fmt: skip
        parts.append(_RESULTS.format(admitted=" OR ".join(admitted), **_places(after)))
        after += 3
    if has_growths:
        parts.insert(0, _GROWN.format(**_places(after)))
        after += 3
    if has_answers:
        parts.append(_ANSWERED.format(**_places(after)))
    misfits = _MISFITS if has_appends else "NULL"
    stale = (_STALE if has_appends else _renumbered(_STALE, _SUBMITS_FROM - 3)) if has_submits else "NULL"
    locked = _LOCKED if has_appends else "NULL"
    told = f"SELECT EXISTS (SELECT 1 FROM me) AS is_alive, {misfits} AS misfits, {stale} AS fresh, {locked} AS locked"  # noqa: S608 - constants
    return f"WITH {', '.join(parts)} {told}"


def _places(first: int) -> dict[str, str]:
    return {name: f"${first + number}" for number, name in enumerate(("first", "second", "third"))}


def _growing(sql: str, has_growths: bool) -> str:  # noqa: FBT001 - reads like a condition
    for place, growth in _WITH_GROWTH.items():
        sql = sql.replace(place, growth if has_growths else "")
    return sql


def _renumbered(sql: str, less: int) -> str:
    """The same with parameters from $12 on counted from a lower number; $1 stays."""
    for number in range(_SUBMITS_FROM, _SUBMITS_FROM + _SUBMIT_COLUMNS):
        sql = sql.replace(f"${number}::", f"${number - less}::")
    return sql


def _columns_of_appends(appends: Sequence[list[Append]]) -> list[list[Any]]:
    return _columns(_append_row(of_chain) for of_chain in appends)


def _append_row(appends: list[Append]) -> tuple[Any, ...]:
    """All that is appended to one chain, in order; the last word on its status counts."""
    if len(appends) == 1:
        facts: Sequence[FactRow] = appends[0].rows.facts
    else:
        facts = [row for append in appends for row in append.rows.facts]
    told = [append.rows for append in appends if append.rows.status is not None]
    status, of_status = (told[-1].status, told[-1].status_checksum) if told else (None, None)
    return (
        appends[0].chain_id, appends[0].epoch, *_joined(facts), None if status is None else status.value,
        appends[-1].rows.ended_at, of_status, functools.reduce(or_, (append.rows.task_ends for append in appends)),
    )  # fmt: skip


def _columns_of_submits(submits: Sequence[Submit]) -> list[list[Any]]:
    return _columns(map(_submit_row, submits))


def _submit_row(submit: Submit) -> tuple[Any, ...]:
    submitted, spec, rows, key = submit.submitted, submit.submitted.spec, submit.rows, submit.key
    chain_id, tenant, name = submitted.chain_id, storable(submitted.tenant), storable(spec.name)
    at, total_tasks, retry_of = timestamp(submitted.at), len(spec.tasks), submitted.retry_of
    status = ((rows.status if rows is not None else None) or TaskStatus.PENDING).value
    facts, digests, checksums = _joined([submit.first] if rows is None else [submit.first, *rows.facts])
    ended_at = None if rows is None else rows.ended_at
    of_key, key_name, digest, key_checksum = _key_columns(key, chain_id, at)
    of_chain = chain_checksum(chain_id, tenant, name, total_tasks, at, retry_of, key_checksum)
    return (
        chain_id, tenant, key_name, digest, at, name, status, total_tasks, ended_at, retry_of, facts, digests, of_key,
        checksums, key_checksum, of_chain, status_checksum(chain_id, status, ended_at),
        added(FIRST_EPOCH * EPOCH, 0 if rows is None else rows.task_ends, total_tasks),
    )  # fmt: skip


def _key_columns(
    key: SubmitKey | None, chain_id: str, at: str
) -> tuple[str | None, str | None, bytes | None, int | None]:
    if key is None:
        return None, None, None, None
    tenant, name = storable(key.tenant), storable(key.key)
    return tenant, name, key.digest, checksum(tenant, name, key.digest, chain_id, at)


def _growths_of_appends(appends: Sequence[list[Append]]) -> list[tuple[str, int, int]]:
    found = ((of_chain[0].chain_id, together(append.rows.growth for append in of_chain)) for of_chain in appends)
    return [(chain_id, growth.needs, growth.runs) for chain_id, growth in found if growth is not None]


def _growths_of_submits(submits: Sequence[Submit]) -> list[tuple[str, int, int]]:
    found = (
        (each.chain_id, together([growth_of([each.submitted]), None if each.rows is None else each.rows.growth]))
        for each in submits
    )
    return [(chain_id, growth.needs, growth.runs) for chain_id, growth in found if growth is not None]


def _results_of_appends(appends: Sequence[list[Append]]) -> list[tuple[str, ResultRow]]:
    return [(append.chain_id, row) for of_chain in appends for append in of_chain for row in append.rows.results]


def _results_of_submits(submits: Sequence[Submit]) -> list[tuple[str, ResultRow]]:
    return [(submit.chain_id, row) for submit in submits if submit.rows is not None for row in submit.rows.results]


def _joined(facts: Sequence[FactRow]) -> tuple[str, str, str]:
    """The facts, in hex the digests of their large results, and their checksums, each line by line."""
    digests = _BETWEEN.join("" if row.digest is None else row.digest.hex() for row in facts)
    return _BETWEEN.join(row.fact for row in facts), digests, _BETWEEN.join(str(row.checksum) for row in facts)


def storable(text: str) -> str:
    """PostgreSQL's texts have no NUL; the facts keep it, escaped."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)]
    return columns
