"""What AICP shows to an agent, as it is kept outside: in a file, or in a variable."""

import os
from collections.abc import Mapping
from pathlib import Path

from aicp.errors import SettingsError
from aicp.model.agent import BEARER_CHARS_MAX, BEARER_PATTERN, AgentAuth
from aicp.private_files import is_no_file

FILE_CHARS_MAX = 2 * BEARER_CHARS_MAX
"""Room for blanks around it."""


def bearer_in_file(path: Path) -> AgentAuth:
    """The bearer that a file holds, in one line.

    Raises:
        SettingsError: The file cannot be read, or holds none.
    """
    if is_no_file(path):
        raise SettingsError(f"The token file {path} cannot be read: it is no file.")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(FILE_CHARS_MAX + 1)
    except (OSError, ValueError) as error:
        raise SettingsError(f"The token file {path} cannot be read: {_why_unread(error)}.") from error
    whole = text.strip() if len(text) <= FILE_CHARS_MAX else ""
    return sound_bearer(whole, f"The token file {path}")


def bearer_in_variable(name: str, environ: Mapping[str, str] | None = None) -> AgentAuth:
    """The bearer that a variable of the environment holds.

    Raises:
        SettingsError: It is not set, or holds none.
    """
    env = os.environ if environ is None else environ
    if name not in env:
        raise SettingsError(f"The variable {name[:80]} is not set.")
    return sound_bearer(env[name].strip(), f"The variable {name[:80]}")


def sound_bearer(bearer: str, source: str) -> AgentAuth:
    """The bearer, if a header can carry it.

    Raises:
        SettingsError: It cannot; the bearer is not repeated.
    """
    if not BEARER_PATTERN.fullmatch(bearer):
        told = f"it is one line of 1 to {BEARER_CHARS_MAX:,} printable ASCII characters, without spaces"
        raise SettingsError(f"{source} holds no token: {told}.")
    return AgentAuth(bearer)


def _why_unread(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)
