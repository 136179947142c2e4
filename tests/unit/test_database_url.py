"""A database URL names one file or one server's database, or the error says what to write instead."""

from pathlib import Path

import pytest

from aicp.errors import SettingsError
from aicp.runtime.database_url import (
    DATABASE_URL_VARIABLE,
    PostgresServerUrl,
    SqliteFile,
    choose_database,
    parse_database_url,
)

DATA = Path("/data")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///aicp.db", "aicp.db"),
        ("sqlite:///some/where/aicp.db", "some/where/aicp.db"),
        ("sqlite:////var/lib/aicp.db", "/var/lib/aicp.db"),
        ("sqlite:////var/my files/100%.db\n", "/var/my files/100%.db"),
    ],
)
def test_three_slashes_are_relative_and_four_absolute(url: str, path: str) -> None:
    assert parse_database_url(url) == SqliteFile(Path(path))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("aicp.db", "is no URL"),
        ("/var/lib/aicp.db", "is no URL"),
        ("", "is no URL"),
        ("sqlite:aicp.db", "is no URL"),
        ("sqlite://aicp.db", "names a host, 'aicp.db'"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////var/lib/", "is a directory"),
        ("sqlite:///aicp.db?mode=ro", "has options"),
        ("sqlite:///a\0b", "has options"),
        ("sqlite+aiosqlite:///aicp.db", "knows no database 'sqlite+aiosqlite://'"),
        ("mysql://host/aicp", "knows no database 'mysql://'"),
    ],
)
def test_any_other_url_is_refused_with_what_to_write(url: str, told: str) -> None:
    with pytest.raises(SettingsError, match=r"sqlite:///|name a file") as raised:
        parse_database_url(url)
    assert told in raised.value.message


@pytest.mark.parametrize("url", ["mysql://user:hunter2@host/aicp", "user:hunter2@host/aicp"])
def test_refusal_repeats_no_password(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_database_url(url)
    assert "hunter2" not in raised.value.message


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_url_of_postgresql_is_kept_as_it_is_and_never_shown(scheme: str) -> None:
    url = f"{scheme}://user:hunter2@host/aicp?sslmode=require"
    named = parse_database_url(f" {url}\n")
    assert named == PostgresServerUrl(url)
    assert "hunter2" not in f"{named} {named!r}"


def test_what_is_told_goes_before_the_environment_and_that_before_the_data_directory() -> None:
    environ = {DATABASE_URL_VARIABLE: "sqlite:///of-environment.db"}
    assert choose_database("sqlite:///told.db", environ, DATA) == SqliteFile(Path("told.db"))
    assert choose_database(None, environ, DATA) == SqliteFile(Path("of-environment.db"))
    assert choose_database(None, {}, DATA) == SqliteFile(Path("/data/aicp.db"))


def test_empty_variable_counts_as_unset() -> None:
    assert choose_database(None, {DATABASE_URL_VARIABLE: ""}, DATA) == SqliteFile(Path("/data/aicp.db"))
