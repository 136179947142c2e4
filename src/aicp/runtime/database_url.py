"""Where the database is: the one place that reads a database URL."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from aicp.errors import SettingsError
from aicp.private_files import PrivateFile, Reach

DATABASE_FILE = "aicp.db"
DATABASE_URL_VARIABLE = "AICP_DATABASE_URL"

_SQLITE = "sqlite"
_POSTGRESQL = frozenset({"postgres", "postgresql"})
_FORMS = "sqlite:///relative.db, sqlite:////absolute/path.db or postgresql://user@host/database"


class SqliteFile(msgspec.Struct, frozen=True):
    """A database that is one file.

    Attributes:
        path: The file, which need not be there; a relative one counts from the working directory.
    """

    path: Path


class PostgresServerUrl(msgspec.Struct, frozen=True):
    """A database on a PostgreSQL server; whether its URL can be used shows when it is.

    Attributes:
        url: As libpq takes it; it may hold a password, and is for nobody's eyes.
    """

    url: str

    def __repr__(self) -> str:
        """As people may see it."""
        return "PostgresServerUrl(postgresql://…)"


DatabaseUrl = SqliteFile | PostgresServerUrl
"""What a database URL may name."""


def parse_database_url(url: str) -> DatabaseUrl:
    """What a database URL names; nothing is looked up. Of a file, what follows the third slash is the path, as written.

    Raises:
        SettingsError: It is no URL of a database that AICP can use. The error repeats no more than the scheme of a
            URL that may hold a password.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        told = "The database" if "@" in url else f"The database '{url}'"
        raise SettingsError(f"{told} is no URL: write {_FORMS}.")
    # What stands before a `+` is the database, what stands behind it a driver, and those are ours to choose.
    if scheme.partition("+")[0] in _POSTGRESQL:
        return PostgresServerUrl(url.strip())
    if scheme != _SQLITE:
        raise SettingsError(f"AICP knows no database '{scheme}://': write {_FORMS}.")
    return SqliteFile(_path_of(rest, url))


def choose_database(told: str | None, environ: Mapping[str, str], data_dir: Path) -> DatabaseUrl:
    """The database to use: the URL that was told, else `AICP_DATABASE_URL`, else `aicp.db` in the data directory.

    Raises:
        SettingsError: The URL is of no database that AICP can use.
    """
    url = told or environ.get(DATABASE_URL_VARIABLE)
    return parse_database_url(url) if url else SqliteFile(data_dir / DATABASE_FILE)


def _path_of(rest: str, url: str) -> Path:
    host, _, path = rest.partition("/")
    if host:
        raise SettingsError(f"The database '{url}' names a host, '{host}': write {_FORMS}.")
    if path in {"", ":memory:"}:
        raise SettingsError(f"The database '{url}' names no file: write {_FORMS}.")
    if path.endswith("/"):
        raise SettingsError(f"The database '{url}' is a directory: name a file in it.")
    if "?" in path or "\0" in path:
        raise SettingsError(f"The database '{url}' has options or a NUL, which AICP does not take: write {_FORMS}.")
    return Path(path)


def files_of_database(database: DatabaseUrl | None) -> Iterator[PrivateFile]:
    """A database file with its log and shared memory, and the directory they are in; nothing of PostgreSQL."""
    if not isinstance(database, SqliteFile):
        return
    path = database.path
    yield PrivateFile("directory of the database", path.parent, Reach.DIRECTORY)
    yield PrivateFile("database", path)
    for suffix in ("-wal", "-shm"):
        yield PrivateFile("database", path.with_name(path.name + suffix))
