"""Where a node keeps what it must not forget: in memory, or in the database that was named."""

import functools
from collections.abc import Callable
from importlib.util import find_spec

import msgspec

from aicp.errors import RecordDamaged, SettingsError
from aicp.model.document_desk import DocumentDesk
from aicp.ports import (
    ApiKeys,
    AuditLog,
    Bulletin,
    Clock,
    ClockRecord,
    DatabaseFile,
    Journal,
    Registrations,
    Replicas,
    StandingOrders,
)
from aicp.private_files import PrivateFile
from aicp.runtime.database_url import DatabaseUrl, PostgresServerUrl, SqliteFile, files_of_database, parse_database_url
from aicp.runtime.settings import shared_secret_key
from aicp.storage.memory import MemoryJournal
from aicp.storage.memory_access import MemoryApiKeys, MemoryAuditLog

OnCommit = Callable[[float, int], None]
"""Told of each transaction of a journal on a disk: its seconds, and how many writes shared it."""
OnDamage = Callable[[RecordDamaged], None]
"""Called with each row of a database that was found damaged."""
IN_MEMORY = "memory"


class Stores(msgspec.Struct, frozen=True):
    """What a node remembers with.

    Attributes:
        kind: `memory`, `sqlite` or `postgresql`.
        place: For people: the file, or the server and its database, without user and password.
        journal: Remembers chains; opening it opens them all.
        api_keys: Remembers keys that open the API.
        audit_log: Remembers who changed what.
        registrations: Remembers agents; None for nobody.
        orders: Remembers what operators ordered for agents; None for nobody.
        replicas: The processes that share the journal; None where it is this one's alone.
        bulletin: Where they tell each other what each alone knows; None likewise.
        clock_record: Remembers how far time has progressed; None to remember it in memory.
        file: The file of the record; None where it is not one.
        private_files: What other users of this machine must not reach.
    """

    kind: str
    place: str
    journal: Journal
    api_keys: ApiKeys
    audit_log: AuditLog
    registrations: Registrations | None = None
    orders: StandingOrders | None = None
    replicas: Replicas | None = None
    bulletin: Bulletin | None = None
    clock_record: ClockRecord | None = None
    file: DatabaseFile | None = None
    private_files: tuple[PrivateFile, ...] = ()


def make_stores(
    database: str | DatabaseUrl | None,
    clock: Clock,
    secret_key: Callable[[], bytes],
    on_commit: OnCommit,
    on_damage: OnDamage | None = None,
    documents: DocumentDesk | None = None,
) -> Stores:
    """The stores of a database, not open yet; what they need is imported only when one is named.

    Args:
        database: Its URL, or what was read from that; None for memory.
        clock: Time.
        secret_key: Gives the key that seals secrets of agents in a file; asked when there is one. For PostgreSQL it is
            `AICP_SECRET_KEY`, since every server on that database needs the same.
        on_commit: Told of each transaction, in the event loop.
        on_damage: Called with each row that was found damaged, once, in the event loop.
        documents: Where heavy facts are encoded and decoded; a desk of its own by default.

    Raises:
        SettingsError: The URL is of no database that AICP can use, or what PostgreSQL needs is not installed.
    """
    if database is None:
        return Stores(IN_MEMORY, IN_MEMORY, MemoryJournal(clock=clock), MemoryApiKeys(), MemoryAuditLog())
    named = parse_database_url(database) if isinstance(database, str) else database
    if isinstance(named, PostgresServerUrl):
        return _postgres_stores(named, clock, on_commit, on_damage, documents)
    return _sqlite_stores(named, clock, secret_key, on_commit, on_damage, documents)


def require_postgres_driver() -> None:
    """Refuse to go on where AICP was installed without what it needs for PostgreSQL.

    Raises:
        SettingsError: It was.
    """
    if find_spec("asyncpg") is None:
        raise SettingsError("PostgreSQL needs a driver that is not installed: pip install 'aicp[postgres]'")


def _sqlite_stores(
    file: SqliteFile,
    clock: Clock,
    secret_key: Callable[[], bytes],
    on_commit: OnCommit,
    on_damage: OnDamage | None,
    documents: DocumentDesk | None,
) -> Stores:
    from aicp.storage.sqlite import SqliteJournal  # noqa: PLC0415 - whoever names no database pays for none
    from aicp.storage.sqlite_access import SqliteApiKeys, SqliteAuditLog  # noqa: PLC0415 - as above
    from aicp.storage.sqlite_clock import SqliteClockRecord  # noqa: PLC0415 - as above
    from aicp.storage.sqlite_database import SqliteDatabase  # noqa: PLC0415 - as above
    from aicp.storage.sqlite_orders import SqliteOrders  # noqa: PLC0415 - as above
    from aicp.storage.sqlite_registrations import SqliteRegistrations  # noqa: PLC0415 - as above

    database = SqliteDatabase(file.path, on_commit=on_commit, on_damage=on_damage)
    registrations = SqliteRegistrations(
        database, seal=functools.partial(_seal, secret_key), unseal=functools.partial(_unseal, secret_key), clock=clock
    )
    journal = SqliteJournal(database, documents)
    api_keys, audit_log = SqliteApiKeys(database), SqliteAuditLog(database)
    orders = SqliteOrders(database, clock=clock)
    return Stores(
        "sqlite", str(file.path), journal, api_keys, audit_log, registrations, orders,
        clock_record=SqliteClockRecord(database), file=database,
        private_files=tuple(files_of_database(file)),
    )  # fmt: skip


def _postgres_stores(
    server: PostgresServerUrl,
    clock: Clock,
    on_commit: OnCommit,
    on_damage: OnDamage | None,
    documents: DocumentDesk | None,
) -> Stores:
    require_postgres_driver()
    from aicp.storage.postgres import PostgresJournal  # noqa: PLC0415 - as above
    from aicp.storage.postgres_access import PostgresApiKeys, PostgresAuditLog  # noqa: PLC0415 - as above
    from aicp.storage.postgres_bulletin import PostgresBulletin  # noqa: PLC0415 - as above
    from aicp.storage.postgres_clock import PostgresClockRecord  # noqa: PLC0415 - as above
    from aicp.storage.postgres_database import PostgresDatabase  # noqa: PLC0415 - as above
    from aicp.storage.postgres_orders import PostgresOrders  # noqa: PLC0415 - as above
    from aicp.storage.postgres_registrations import PostgresRegistrations  # noqa: PLC0415 - as above

    database = PostgresDatabase(server.url, on_commit=on_commit, on_damage=on_damage)
    seal, unseal = functools.partial(_seal, shared_secret_key), functools.partial(_unseal, shared_secret_key)
    registrations = PostgresRegistrations(database, seal=seal, unseal=unseal, clock=clock)
    journal = PostgresJournal(database, documents)
    api_keys, audit_log = PostgresApiKeys(database), PostgresAuditLog(database)
    orders, bulletin = PostgresOrders(database, clock=clock), PostgresBulletin(database, unseal=unseal)
    return Stores(
        "postgresql", database.place, journal, api_keys, audit_log, registrations, orders, database.replicas, bulletin,
        PostgresClockRecord(database),
    )  # fmt: skip


def _seal(secret_key: Callable[[], bytes], secret: bytes) -> bytes:
    from aicp.storage.secrets import Secrets  # noqa: PLC0415 - loaded with the first secret; most nodes have none

    return Secrets(secret_key).seal(secret)


def _unseal(secret_key: Callable[[], bytes], sealed: bytes) -> bytes:
    from aicp.storage.secrets import Secrets  # noqa: PLC0415 - as above

    return Secrets(secret_key).unseal(sealed)
