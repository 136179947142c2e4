"""Looks whether AICP can work on this machine: its settings, its data directory, its database. Changes nothing."""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from aicp.errors import SettingsError
from aicp.private_files import PrivateFile, find_exposures
from aicp.runtime.database_url import SqliteFile, choose_database, files_of_database
from aicp.runtime.databases import sqlite_log_problem
from aicp.runtime.secrets_on_disk import files_of_server
from aicp.runtime.settings import (
    ADMIN_KEY_CHARS_MIN,
    ADMIN_KEY_FILE,
    SECRET_KEY_FILE,
    Settings,
    data_dir,
    server_settings,
)

FREE_BYTES_LITTLE = 1 << 30
FREE_BYTES_TOO_LITTLE = 100 << 20
_OTHERS = 0o077


class Verdict(StrEnum):
    """How a check ended: `WARN` may go wrong, `FAIL` does."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """What a check found.

    Attributes:
        check: What was looked at.
        verdict: How it is.
        told: What was found, a sentence without its end.
        advice: What to do; empty when it is well.
    """

    check: str
    verdict: Verdict
    told: str
    advice: str = ""


def check_machine(environ: Mapping[str, str] | None = None, agents_file: Path | None = None) -> Iterator[Finding]:
    """Whether a server could work here, with this environment and this list of agents."""
    env = os.environ if environ is None else environ
    yield _check_settings(env)
    directory = data_dir(env)
    yield _check_directory(directory)
    for name in (ADMIN_KEY_FILE, SECRET_KEY_FILE):
        if _is_there(directory / name):
            yield _check_key(directory / name)
    yield _check_database(env, directory)
    yield from _check_permissions(env, directory, agents_file)


def _check_settings(env: Mapping[str, str]) -> Finding:
    try:
        settings = server_settings(environ=env)
    except SettingsError as error:
        return Finding("settings", Verdict.FAIL, error.message.rstrip("."), "correct the variable")
    networks = ", ".join(map(str, settings.policy.allow_networks))
    told = f"agents may also live in {networks}" if networks else "agents may live here and at public addresses"
    return Finding("settings", Verdict.OK, told)


def _check_directory(directory: Path) -> Finding:
    what = "data directory"
    if not _is_there(directory):
        return Finding(what, Verdict.OK, f"{directory} is not there yet; the first start makes it")
    if not directory.is_dir():
        return Finding(what, Verdict.FAIL, f"{directory} is no directory", "set AICP_DATA_DIR to a directory of yours")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        told = f"{directory} cannot be written by this user"
        return Finding(what, Verdict.FAIL, told, "set AICP_DATA_DIR to a directory of yours")
    if directory.stat().st_mode & stat.S_IWOTH:
        return Finding(what, Verdict.FAIL, f"{directory} can be written by anybody", f"chmod 700 {directory}")
    if directory.stat().st_mode & _OTHERS:
        return Finding(what, Verdict.WARN, f"{directory} can be read by others", f"chmod 700 {directory}")
    return Finding(what, Verdict.OK, f"{directory} is yours alone")


def _check_key(path: Path) -> Finding:
    if not os.access(path, os.R_OK):
        told = f"{path} cannot be read by this user"
        return Finding(path.name, Verdict.FAIL, told, "run as the user of the server, or set AICP_API_KEY")
    if path.stat().st_mode & _OTHERS:
        return Finding(path.name, Verdict.FAIL, f"{path} can be read by others", f"chmod 600 {path}")
    if path.name == ADMIN_KEY_FILE and len(path.read_bytes().strip()) < ADMIN_KEY_CHARS_MIN:
        told = f"{path} has fewer than {ADMIN_KEY_CHARS_MIN} characters and could be guessed"
        return Finding(path.name, Verdict.FAIL, told, "remove it and start the server again, which makes a new one")
    return Finding(path.name, Verdict.OK, f"{path} is yours alone")


def _check_database(env: Mapping[str, str], directory: Path) -> Finding:
    try:
        database = choose_database(None, env, directory)
    except SettingsError as error:
        return Finding("database", Verdict.FAIL, error.message.rstrip("."), "correct AICP_DATABASE_URL")
    if isinstance(database, SqliteFile):
        return _check_log(database.path) or _check_file(database.path)
    return Finding("database", Verdict.OK, "PostgreSQL, which is not asked here; `aicp db check` reads all of it")


def _check_file(path: Path) -> Finding:
    if _is_there(path) and not os.access(path, os.R_OK | os.W_OK):
        told = f"{path} cannot be read and written by this user"
        return Finding("database", Verdict.FAIL, told, "run as the user of the server, or set AICP_DATABASE_URL")
    place = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    told = (
        f"{path}{'' if _is_there(path) else ' is not there yet; the first start makes it'}, {_size(free)} free on disk"
    )
    if free < FREE_BYTES_LITTLE:
        verdict = Verdict.FAIL if free < FREE_BYTES_TOO_LITTLE else Verdict.WARN
        return Finding("database", verdict, told, "make room, or set AICP_RETENTION_S lower")
    return Finding("database", Verdict.OK, told)


def _check_log(path: Path) -> Finding | None:
    """What is wrong with the write-ahead log of a file; None when nothing is."""
    try:
        problem = sqlite_log_problem(path)
    except SettingsError as error:
        return Finding("database", Verdict.FAIL, error.message.rstrip("."), "run as the user of the server")
    if problem is None:
        return None
    return Finding("database", Verdict.FAIL, problem, "keep the file; `aicp db restore`, or `aicp db salvage`")


def _check_permissions(env: Mapping[str, str], directory: Path, agents_file: Path | None) -> Iterator[Finding]:
    """One finding for each file that others can reach; the keys and their directory have checks of their own."""
    for exposure in find_exposures(_private_files(env, directory, agents_file)):
        verdict = Verdict.FAIL if exposure.is_open_to_all else Verdict.WARN
        yield Finding("permissions", verdict, exposure.message, exposure.advice)


def _private_files(env: Mapping[str, str], directory: Path, agents_file: Path | None) -> Iterator[PrivateFile]:
    try:
        settings = server_settings(environ=env, agents_file=agents_file)
        database = settings.database
    except SettingsError:
        settings, database = Settings(data_dir=directory, agents_file=agents_file), None
    checked = {directory, directory / ADMIN_KEY_FILE, directory / SECRET_KEY_FILE}
    files = (*files_of_database(database), *files_of_server(settings))
    yield from (file for file in files if file.path not in checked)


def _is_there(path: Path) -> bool:
    """False as well for what cannot be looked at, where `Path.exists` may raise."""
    return os.access(path, os.F_OK)


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"
