"""Where replicas tell each other what each alone knows, in a PostgreSQL database: one statement to look, one to tell.

Rows carry the number of the transaction that wrote them. A look reads those of transactions that had not ended at the
look before, by the snapshot's own word, so that none is missed whatever the order in which they ended. A crash or a
failover may count transactions and notices anew; then all that is on record is read again.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial

import asyncpg
import msgspec

from aicp.errors import RecordDamaged, SettingsError
from aicp.model.agent import AgentProfile
from aicp.model.notice import Notice
from aicp.ports import News, Ordered, Posted
from aicp.storage.agent_rows import Cipher
from aicp.storage.damage import decoded
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_lease import BORN, CHANNEL, NOTICE
from aicp.storage.postgres_orders import stored_order
from aicp.storage.postgres_registrations import stored_agent
from aicp.storage.postgres_server import Rows
from aicp.storage.row_checksums import UNREADABLE, described, is_intact

KEPT_S = 60.0
PRUNE_EVERY_S = 10.0
PRUNED_AT_ONCE = 10_000
REMEMBERED_MAX = 100_000

_NOW = "pg_current_xact_id()::text::bigint"
_MARK = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_HIGHEST = "pg_snapshot_xmax(pg_current_snapshot())::text::bigint"

# Numbers of another server's transactions, from a backup, would be news for ever.
_SETTLE = f"""
    WITH registered AS (UPDATE registrations SET changed_in = 0 WHERE changed_in > {_HIGHEST}),
        removed AS (UPDATE removed_agents SET changed_in = 0 WHERE changed_in > {_HIGHEST}),
        ordered AS (UPDATE agent_orders SET changed_in = 0 WHERE changed_in > {_HIGHEST})
    DELETE FROM notices WHERE posted_in > {_HIGHEST}
"""  # noqa: S608 - constants
# Its table is unlogged: whatever empties the one of notices empties it, too.
_LIFE = "(SELECT born FROM server_life)"
_BEGIN = f"SELECT {_MARK} AS mark, {_LIFE} AS life"
_POST = f"""
    WITH told AS (INSERT INTO notices (replica, body, posted_in) VALUES ($1, $2, {_NOW}) RETURNING number)
    SELECT pg_notify({CHANNEL}, '{NOTICE}') FROM told
"""  # noqa: S608 - constants
_LOOK = f"""
    SELECT 'mark' AS kind, {_MARK} AS number, '' AS agent_id, {_LIFE} AS body, NULL::bytea AS sealed, NULL AS more,
        0::float8 AS age_s, '' AS subject, NULL::timestamptz AS at, NULL::bigint AS checksum
    UNION ALL
    SELECT 'registered', 0, agent_id, profile, sealed_auth, more, 0, '', saved_at, checksum FROM registrations
    WHERE changed_in >= $1
    UNION ALL
    SELECT 'removed', 0, agent_id, NULL, NULL, NULL, 0, '', NULL, checksum FROM removed_agents WHERE changed_in >= $1
    UNION ALL
    SELECT 'ordered', changed_in, agent_id, command, NULL, NULL, 0, subject, ordered_at, checksum FROM agent_orders
    WHERE changed_in >= $2
    UNION ALL
    SELECT 'told', number, replica::text, body, NULL, NULL, extract(epoch FROM clock_timestamp() - posted_at)::float8,
        '', NULL, NULL
    FROM notices WHERE posted_in >= $1 AND replica <> $3
"""  # noqa: S608 - constants
_PRUNE = f"""
    DELETE FROM notices WHERE number IN (
        SELECT number FROM notices WHERE posted_at < clock_timestamp() - interval '{KEPT_S} s'
        ORDER BY posted_at LIMIT {PRUNED_AT_ONCE} FOR UPDATE SKIP LOCKED
    )
"""  # noqa: S608 - constants

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Notice).decode


class PostgresBulletin:
    """What replicas on one database tell each other. For one event loop.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
        unseal: Turns sealed secrets of agents back.
    """

    def __init__(self, database: PostgresDatabase, *, unseal: Cipher | None = None) -> None:
        self._database = database
        self._unseal = unseal
        self._mark = self._next_mark = 0
        self._orders_mark = 0
        self._life: str | None = None
        self._looked_at = 0.0
        self._pruned_at = 0.0
        self._seen: OrderedDict[int, None] = OrderedDict()

    async def begin(self) -> None:
        """What is registered, removed or told from now on is news to the first `look`; and so is every order.

        Raises:
            StorageError: The database could not be asked.
        """
        self._database.require_open()
        await self._database.sessions.execute(_SETTLE)
        await self._database.sessions.execute(BORN)
        ((self._mark, self._life),) = await self._database.sessions.read(_BEGIN)
        self._orders_mark = 0
        self._looked_at = self._pruned_at = _now()

    async def post(self, notice: Notice) -> None:
        """Tell the others something.

        Raises:
            StorageError: It could not be told, or this replica is not alive.
        """
        number = self._database.replicas.number
        await self._database.sessions.execute(_POST, number, _encode(notice).decode())

    async def look(self) -> News:
        """What is new since the look that was accepted.

        Raises:
            StorageError: The database could not be asked.
        """
        self._database.require_open()
        # Before anything is read: what fails here must not take with it what would count as seen.
        await self._prune()
        rows, is_reborn = await self._rows()
        now = _now()
        news = self._read(rows, has_gap=is_reborn or now - self._looked_at > KEPT_S / 2)
        self._next_mark = _mark_of(rows)["number"]
        self._looked_at = now
        return news

    def accept(self) -> None:
        """What the last look returned was taken in: it is not news any more."""
        self._mark = self._orders_mark = self._next_mark

    async def until_posted(self, timeout_s: float) -> None:
        """Return when somebody told something, came or went, after `timeout_s` at the latest."""
        await self._database.replicas.until_posted(timeout_s)

    async def _rows(self) -> tuple[Rows, bool]:
        """What is new; all that there is, and True, when the server counts anew."""
        rows = await self._rows_since_mark()
        if _mark_of(rows)["body"] == self._life:
            return rows, False
        await self._database.sessions.execute(BORN)
        self._mark = self._orders_mark = 0
        rows = await self._rows_since_mark()
        self._life = _mark_of(rows)["body"]
        self._seen.clear()
        return rows, True

    async def _rows_since_mark(self) -> Rows:
        own = self._database.replicas.living_number
        return await self._database.sessions.read(_LOOK, self._mark, self._orders_mark, own)

    def _read(self, rows: Rows, *, has_gap: bool) -> News:
        kinds: dict[str, list[asyncpg.Record]] = {}
        for row in rows:
            kinds.setdefault(row["kind"], []).append(row)
        intact = self._database.damage.intact
        unseen = list(self._unseen(kinds.get("told", [])))
        posted = intact(unseen)
        return News(
            registered=tuple(intact(self._agents(kinds.get("registered", [])))),
            removed=tuple(intact(decoded(partial(_removed, row)) for row in kinds.get("removed", []))),
            orders=tuple(intact(decoded(partial(_ordered, row)) for row in kinds.get("ordered", []))),
            posted=tuple(posted),
            has_gap=has_gap or len(posted) < len(unseen),
        )

    def _agents(self, rows: Rows) -> Iterator[AgentProfile | RecordDamaged]:
        """Those whose secrets can be unsealed here, and how others are damaged."""
        for row in rows:
            stored = stored_agent(row["agent_id"], row["body"], row["sealed"], row["more"], row["at"], row["checksum"])
            try:
                yield decoded(partial(stored.decode, self._unseal))
            except SettingsError as error:
                _log.warning("an agent that another replica registered cannot be used here: %s", error)

    def _unseen(self, rows: Rows) -> Iterator[Posted | RecordDamaged]:
        """Those not read before, in order; a transaction that takes long lets the same ones come again and again."""
        for row in sorted(rows, key=lambda row: row["number"]):
            if row["number"] not in self._seen:
                self._seen[row["number"]] = None
                yield decoded(partial(_posted, row))
        while len(self._seen) > REMEMBERED_MAX:
            self._seen.popitem(last=False)

    async def _prune(self) -> None:
        now = _now()
        if now - self._pruned_at >= PRUNE_EVERY_S:
            self._pruned_at = now
            await self._database.sessions.execute(_PRUNE)


def _posted(row: asyncpg.Record) -> Posted:
    try:
        # The database's clock may have been set back since.
        return Posted(int(row["agent_id"]), max(0.0, row["age_s"]), _decode(row["body"]))
    except UNREADABLE as error:
        why = f"this version of AICP cannot read it ({' '.join(str(error).split())[:200]})"
        raise RecordDamaged("notices", described(row["number"]), why) from error


def _mark_of(rows: Rows) -> asyncpg.Record:
    return next(row for row in rows if row["kind"] == "mark")


def _removed(row: asyncpg.Record) -> str:
    agent_id = str(row["agent_id"])
    if not is_intact(row["checksum"], agent_id):
        raise RecordDamaged("removed_agents", described(agent_id), "its checksum is another")
    return agent_id


def _ordered(row: asyncpg.Record) -> Ordered:
    stored = stored_order(row["agent_id"], row["subject"], row["body"], row["at"], row["checksum"])
    return stored.decode(row["number"])


def _now() -> float:
    return asyncio.get_running_loop().time()
