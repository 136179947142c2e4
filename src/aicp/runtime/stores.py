"""Where a node keeps what it must not forget: in memory, or in the database that was named."""

import functools
from collections.abc import Callable

import msgspec

from aicp.ports import Clock, Journal, Registrations
from aicp.runtime.database_url import SqliteFile, parse_database_url
from aicp.storage.memory import MemoryJournal

OnCommit = Callable[[float, int], None]
"""Told of each transaction of a journal on a disk: its seconds, and how many writes shared it."""
IN_MEMORY = "memory"


class Stores(msgspec.Struct, frozen=True):
    """What a node remembers with.

    Attributes:
        kind: `memory` or `sqlite`.
        place: For people: the file.
        journal: Remembers chains; opening it opens them all.
        registrations: Remembers agents; None for nobody.
    """

    kind: str
    place: str
    journal: Journal
    registrations: Registrations | None


def make_stores(
    database: str | SqliteFile | None, clock: Clock, secret_key: Callable[[], bytes], on_commit: OnCommit
) -> Stores:
    """The stores of a database, not open yet; what they need is imported only when one is named.

    Args:
        database: Its URL, or the file; None for memory.
        clock: Time.
        secret_key: Gives the key that seals secrets of agents; asked when there is one.
        on_commit: Told of each transaction, in the event loop.

    Raises:
        SettingsError: The URL is of no database that AICP can use.
    """
    if database is None:
        return Stores(IN_MEMORY, IN_MEMORY, MemoryJournal(clock=clock), None)
    file = parse_database_url(database) if isinstance(database, str) else database
    return _sqlite_stores(file, clock, secret_key, on_commit)


def _sqlite_stores(file: SqliteFile, clock: Clock, secret_key: Callable[[], bytes], on_commit: OnCommit) -> Stores:
    from aicp.storage.sqlite import SqliteJournal  # noqa: PLC0415 - whoever names no database pays for none
    from aicp.storage.sqlite_database import SqliteDatabase  # noqa: PLC0415 - as above
    from aicp.storage.sqlite_registrations import SqliteRegistrations  # noqa: PLC0415 - as above

    database = SqliteDatabase(file.path, on_commit=on_commit)
    registrations = SqliteRegistrations(
        database, seal=functools.partial(_seal, secret_key), unseal=functools.partial(_unseal, secret_key), clock=clock
    )
    return Stores("sqlite", str(file.path), SqliteJournal(database, clock=clock), registrations)


def _seal(secret_key: Callable[[], bytes], secret: bytes) -> bytes:
    from aicp.storage.secrets import Secrets  # noqa: PLC0415 - loaded with the first secret; most nodes have none

    return Secrets(secret_key).seal(secret)


def _unseal(secret_key: Callable[[], bytes], sealed: bytes) -> bytes:
    from aicp.storage.secrets import Secrets  # noqa: PLC0415 - as above

    return Secrets(secret_key).unseal(sealed)
