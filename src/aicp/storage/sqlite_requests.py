"""Requests to the owners of chains in a SQLite file: as a rule this process, else a newer version of AICP."""

import sqlite3

from aicp.errors import RecordDamaged
from aicp.model.request import KINDS, Request
from aicp.storage.damage import decoded
from aicp.storage.request_rows import REQUEST_COLUMNS, StoredRequest, refuse_other, request_checksum
from aicp.storage.sqlite_book import Book

ASKED_AT_ONCE_MAX = 1_000

_IS_OPEN = "SELECT 1 FROM chains WHERE chain_id = ? AND ended_at IS NULL"
_ASK = f"INSERT INTO requests ({REQUEST_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"  # noqa: S608 - constants
_BODY = "SELECT body FROM requests WHERE chain_id = ? AND name = ?"
_KINDS = ", ".join("?" * len(KINDS))
_ASKED = f"""
    SELECT {REQUEST_COLUMNS} FROM requests
    WHERE kind IN ({_KINDS}) AND EXISTS (
        SELECT 1 FROM chains WHERE chain_id = requests.chain_id AND ended_at IS NULL AND needs <= ?
    )
    ORDER BY at LIMIT {ASKED_AT_ONCE_MAX}
"""  # noqa: S608 - constants


def record_request(request: Request, at: str, book: Book) -> bool:
    """Put a request on record, unless it is there; False when its chain has ended, or there is none.

    Raises:
        Conflict: There is one of this name with another body.
    """
    if book.execute(_IS_OPEN, (request.chain_id,)).fetchone() is None:
        return False
    values = (request.chain_id, request.name, request.kind, request.body, request.by)
    book.execute(_ASK, (*values, at, request_checksum(*values)))
    refuse_other(request, *book.execute(_BODY, (request.chain_id, request.name)).fetchone())
    return True


def read_requests(connection: sqlite3.Connection, level: int) -> list[Request | RecordDamaged]:
    """The oldest 1,000 requests to unfinished chains that this version runs, of kinds that it carries out."""
    rows = connection.execute(_ASKED, (*KINDS, level)).fetchall()
    return [decoded(StoredRequest(*row).decode) for row in rows]
