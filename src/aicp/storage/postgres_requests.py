"""Requests to the owners of chains in a PostgreSQL database, whichever replica those are."""

from datetime import datetime
from functools import partial

from aicp.errors import RecordDamaged
from aicp.model.request import KINDS, Request, cancel_request
from aicp.storage.damage import decoded
from aicp.storage.postgres_lease import CANCEL as NEWS
from aicp.storage.postgres_lease import CHANNEL
from aicp.storage.postgres_sessions import Sessions
from aicp.storage.request_rows import REQUEST_COLUMNS, StoredRequest, refuse_other, request_checksum
from aicp.storage.row_checksums import described, is_intact
from aicp.storage.rows import timestamp

ASKED_AT_ONCE_MAX = 1_000

_ASK = f"""
    WITH asked AS (
        INSERT INTO requests ({REQUEST_COLUMNS})
        SELECT chain_id, $2, $3, $4, $5, clock_timestamp(), $6::bigint FROM chains
        WHERE chain_id = $1 AND ended_at IS NULL
        ON CONFLICT (chain_id, name) DO UPDATE SET at = requests.at RETURNING body
    )
    SELECT body, pg_notify({CHANNEL}, '{NEWS}') FROM asked
"""  # noqa: S608 - constants
_OPEN = "EXISTS (SELECT 1 FROM chains WHERE chain_id = {table}.chain_id AND ended_at IS NULL)"
_OWN = "JOIN chains USING (chain_id) WHERE chains.owner = $1 AND chains.ended_at IS NULL"
# What is forgotten is looked at as well: a damaged id is that of no chain. Code of revision 0009 has `cancel_requests`.
_ASKED = f"""
    WITH forgotten AS (
        DELETE FROM requests WHERE (chain_id, name) IN (
            SELECT chain_id, name FROM requests WHERE NOT {_OPEN.format(table="requests")} FOR UPDATE SKIP LOCKED
        )
        RETURNING *
    ), forgotten_cancels AS (
        DELETE FROM cancel_requests WHERE chain_id IN (
            SELECT chain_id FROM cancel_requests
            WHERE NOT {_OPEN.format(table="cancel_requests")} FOR UPDATE SKIP LOCKED
        )
        RETURNING *
    ), asked AS (
        SELECT requests.* FROM requests {_OWN} AND kind = ANY($2::text[]) ORDER BY requests.at LIMIT {ASKED_AT_ONCE_MAX}
    ), cancels AS (
        SELECT cancel_requests.* FROM cancel_requests {_OWN} ORDER BY cancel_requests.at LIMIT {ASKED_AT_ONCE_MAX}
    )
    SELECT {REQUEST_COLUMNS}, TRUE FROM asked
    UNION ALL SELECT {REQUEST_COLUMNS}, FALSE FROM forgotten
    UNION ALL SELECT chain_id, NULL, '', '', '', at, checksum, TRUE FROM cancels
    UNION ALL SELECT chain_id, NULL, '', '', '', at, checksum, FALSE FROM forgotten_cancels
"""  # noqa: S608 - constants


async def record_request(sessions: Sessions, request: Request) -> bool:
    """Put a request on record, unless it is there; False when its chain has ended, or there is none.

    Raises:
        Conflict: There is one of this name with another body.
        StorageError: It could not be recorded.
    """
    values = (request.chain_id, request.name, request.kind, request.body, request.by)
    rows = await sessions.execute(_ASK, *values, request_checksum(*values))
    for row in rows:
        refuse_other(request, row["body"])
    return bool(rows)


async def read_requests(sessions: Sessions, number: int) -> list[Request | RecordDamaged]:
    """The oldest 1,000 requests to unfinished chains of a replica, of kinds that this version carries out.

    Requests to chains that have ended are forgotten.

    Raises:
        StorageError: They could not be read.
    """
    found = []
    for *row, is_asked in await sessions.execute(_ASKED, number, list(KINDS)):
        request = decoded(partial(_request, *row))
        if is_asked or isinstance(request, RecordDamaged):
            found.append(request)
    return found


def _request(
    chain_id: str, name: str | None, kind: str, body: str, by: str, at: datetime, stored: int | None
) -> Request:  # fmt: skip
    if name is not None:
        return StoredRequest(chain_id, name, kind, body, by, timestamp(at), stored).decode()
    if not is_intact(stored, chain_id):
        raise RecordDamaged("cancel_requests", described(chain_id), "its checksum is another")
    return cancel_request(chain_id)
