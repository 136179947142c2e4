"""What PostgreSQL and the way to it say when something is wrong, as one sentence for a person."""

import socket
import ssl

import asyncpg
import msgspec

from aicp.errors import AicpError, Conflict, SettingsError, StorageError

VERSION_MIN = 13

_NOT_ACKNOWLEDGED = "what could not be written was not acknowledged"

_NOT_LET_IN = "the server does not let this user in: check the user of the URL, and pg_hba.conf"
_TOO_FEW_RIGHTS = (
    "the user has too few rights: let it own the database, or grant it CREATE on the schema and all on its tables"
)

_READ_ONLY = "it is read-only, as a standby is: name the primary server"

_ANOTHER_HOST = "the server's certificate is for another host: name the server in the URL as its certificate does"
_NOT_TRUSTED = "the server's certificate is not trusted: check sslrootcert of the URL"
_NO_TLS = "the server offers no TLS: switch it on there, or ask for none with sslmode=disable"
_NAME_MISMATCHES = frozenset({62, 64})
"""What OpenSSL calls a certificate whose names, or whose addresses, are others."""
_REFUSES_TLS = "rejected SSL upgrade"
"""What the driver says, and has no class for."""

_OF_SETTINGS: tuple[tuple[type[BaseException], str], ...] = (
    (asyncpg.InvalidPasswordError, "the password is wrong, or the server wants one: check the URL, or ~/.pgpass"),
    (asyncpg.InvalidAuthorizationSpecificationError, _NOT_LET_IN),
    (asyncpg.InvalidCatalogNameError, "there is no such database: make it with `createdb`, or check the URL's path"),
    (asyncpg.InvalidSchemaNameError, "there is no schema to make tables in: check the user's search_path"),
    (asyncpg.InsufficientPrivilegeError, _TOO_FEW_RIGHTS),
    (asyncpg.ReadOnlySQLTransactionError, _READ_ONLY),
    (asyncpg.TargetServerAttributeNotMatched, _READ_ONLY),
    (asyncpg.ClientConfigurationError, "its URL cannot be used"),
    (asyncpg.CantChangeRuntimeParamError, "its URL has a parameter that the server does not take"),
    (asyncpg.UndefinedObjectError, "its URL has a parameter that the server does not know"),
    (socket.gaierror, "its host is not known: check the URL's host"),
    (ssl.SSLError, "TLS failed: check sslmode and sslrootcert of the URL"),
)  # fmt: skip

_PASSING: tuple[tuple[type[BaseException], str], ...] = (
    (asyncpg.CannotConnectNowError, "the server is starting or stopping: it is tried again"),
    (asyncpg.TooManyConnectionsError, "no connection is free: raise max_connections, or run fewer replicas"),
    (asyncpg.DiskFullError, f"the server's disk is full: free some space; {_NOT_ACKNOWLEDGED}"),
    (asyncpg.OutOfMemoryError, "the server ran out of memory: give it more, or submit smaller work"),
    (asyncpg.LockNotAvailableError, f"another session has locked what this needs: try again; {_NOT_ACKNOWLEDGED}"),
    (asyncpg.DeadlockDetectedError, "it was in the way of another replica: try again"),
    (asyncpg.QueryCanceledError, f"the server gave up after its time was over: try again; {_NOT_ACKNOWLEDGED}"),
    (asyncpg.ProgramLimitExceededError, "this is too large for it: at most 1 GB at a time"),
    (ConnectionRefusedError, "nobody listens there: start PostgreSQL, or check the URL's host and port"),
    (FileNotFoundError, "there is no such socket: start PostgreSQL, or check the URL's host"),
    (TimeoutError, f"it does not answer: check the network and the server; {_NOT_ACKNOWLEDGED}"),
)  # fmt: skip

_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    OSError,
    EOFError,
)

_WRONG_SERVER = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
)
"""Errors about the server, or about its role, and not about a statement: 25006, 57P01 to 57P04."""

_HELD_UP = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.DeadlockDetectedError)

Trouble = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""What the driver raises; everything else is a defect."""


def is_lost(error: BaseException) -> bool:
    """True when the connection is gone, or what state it is in is unknown, so that a fresh one is needed."""
    return isinstance(error, _LOST) and not is_held_up(error)


def is_held_up(error: BaseException) -> bool:
    """True when a lock, or the server's own clock, ended a statement: it is undone, and its connection is sound."""
    return isinstance(error, _HELD_UP)


def is_read_only(error: BaseException | None) -> bool:
    """True when a server refused to write at all: it is a standby, or was made read-only."""
    return isinstance(error, asyncpg.ReadOnlySQLTransactionError | asyncpg.TargetServerAttributeNotMatched)


def is_wrong_server(error: BaseException) -> bool:
    """True when an error is about this server and not about the statement: no connection is to be kept."""
    # A server that ends a session says why, and the driver raises that as the cause.
    return isinstance(error, _WRONG_SERVER) or isinstance(error.__cause__, _WRONG_SERVER)


def is_of_settings(error: BaseException) -> bool:
    """True when trying again helps nobody: something was set up wrongly."""
    if isinstance(error, SettingsError) or _of_tls(error):
        return True
    return any(isinstance(error, kind) for kind, _ in _OF_SETTINGS)


def storage_error(error: BaseException, place: str) -> AicpError:
    """What to raise for an error while the database was in use; whatever it is, a later call may succeed."""
    if isinstance(error, AicpError):
        return error
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return Conflict(f"This contradicts what is already recorded in {place}: {_detail(error)}.")
    if isinstance(error, msgspec.MsgspecError):
        return StorageError(f"The database {place} holds what this version of AICP cannot read ({_detail(error)}).")
    return StorageError(_told(error, place))


def in_use_error(error: BaseException, place: str) -> AicpError:
    """What to raise when no connection could be made for a database in use: what was right once may be right again."""
    if isinstance(error, SettingsError):
        return StorageError(str(error))
    return storage_error(error, place)


def opening_error(error: BaseException, place: str) -> AicpError:
    """What to raise for an error while the database was being opened: often it is the wrong one."""
    if isinstance(error, AicpError):
        return error
    told = _told(error, place)
    return SettingsError(told) if is_of_settings(error) else StorageError(told)


def too_old_error(version: str, place: str) -> SettingsError:
    """What to raise for a server that lacks what AICP needs."""
    return SettingsError(
        f"The database {place} is on PostgreSQL {version}, which is too old: AICP needs {VERSION_MIN} or later."
    )


def _told(error: BaseException, place: str) -> str:
    sentences = (*_PASSING, *_OF_SETTINGS)
    what = _of_tls(error) or next((told for kind, told in sentences if isinstance(error, kind)), None)
    if what is None:
        what = f"the connection was lost; {_NOT_ACKNOWLEDGED}" if is_lost(error) else "PostgreSQL refused"
    detail = _detail(error)
    return f"The database {place} cannot be used: {what}{f' ({detail})' if detail else ''}."


def _of_tls(error: BaseException) -> str | None:
    """What is wrong with the server's proof of who it is, or that it has none."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _ANOTHER_HOST if error.verify_code in _NAME_MISMATCHES else _NOT_TRUSTED
    if isinstance(error, ConnectionError) and _REFUSES_TLS in str(error):
        return _NO_TLS
    return None


def _detail(error: BaseException) -> str:
    """The first line of what was said: further ones are hints for programmers."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:200].rstrip(".") if lines else ""
