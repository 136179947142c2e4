"""What the process was started with: the only reader of environment and files."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from aicp.errors import SettingsError
from aicp.model.endpoint import PORT_MAX, AddressPolicy, is_loopback_host, leads_to_loopback

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8420
ADMIN_KEY_FILE = "admin.key"
KEY_BYTES = 32


class Settings(msgspec.Struct, frozen=True):
    """Settings of a server.

    Attributes:
        host: Bind address.
        port: TCP port, 0 for any free one.
        data_dir: Where keys and the database live.
        policy: Which addresses agents may have.
        behind_tls_proxy: True when only a proxy with TLS reaches it, which then also minds the Host header.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    data_dir: Path = Path()
    policy: AddressPolicy = AddressPolicy(loopback=True)
    behind_tls_proxy: bool = False


def server_settings(
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    behind_tls_proxy: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of a server: what it was told, and this machine's data directory.

    Raises:
        SettingsError: The port is none, or others could listen to the keys sent to this host.
    """
    if not 0 <= port <= PORT_MAX:
        raise SettingsError(f"Port {port} is none: choose 1 to {PORT_MAX}, or 0 for any free one.")
    on_loopback = is_loopback_host(host)
    if not (on_loopback or behind_tls_proxy):
        raise SettingsError(
            f"Binding {host} would send keys in the clear: bind 127.0.0.1, or put a proxy with TLS in front and say "
            "--behind-tls-proxy."
        )
    return Settings(host, port, data_dir(environ), AddressPolicy(loopback=on_loopback), behind_tls_proxy)


def data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """`AICP_DATA_DIR`, else `aicp` in the user's data directory."""
    env = os.environ if environ is None else environ
    if chosen := env.get("AICP_DATA_DIR"):
        return Path(chosen)
    return Path(env.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "aicp"


def server_url(environ: Mapping[str, str] | None = None) -> str:
    """`AICP_URL`, else the default server on this machine."""
    env = os.environ if environ is None else environ
    return env.get("AICP_URL") or f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"


def api_key(url: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The key for the server at `url`: `AICP_API_KEY`, else, for a server on this machine, its admin key, else None.

    Raises:
        SettingsError: There is an admin key, but it cannot be read.
    """
    env = os.environ if environ is None else environ
    if chosen := env.get("AICP_API_KEY"):
        return chosen.strip()
    if not leads_to_loopback(url):
        return None
    path = data_dir(env) / ADMIN_KEY_FILE
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"The admin key {path} cannot be read: {error.strerror}; set AICP_API_KEY.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"The admin key {path} is not ASCII text; set AICP_API_KEY.") from error


def find_or_make_admin_key(directory: Path) -> str:
    """The admin key of a data directory; written there, readable by its owner alone, when there is none.

    Raises:
        SettingsError: The directory or the key cannot be read or written, or others may read the key.
    """
    path = directory / ADMIN_KEY_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _read_admin_key(path) if path.exists() else _write_admin_key(path)
    except UnicodeDecodeError as error:
        raise SettingsError(f"The admin key {path} is not ASCII text; remove it and start again.") from error
    except OSError as error:
        raise SettingsError(
            f"The admin key {path} cannot be used: {error.strerror}; set AICP_DATA_DIR to a directory of yours."
        ) from error


def _read_admin_key(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise SettingsError(f"The admin key {path} can be read by others; run: chmod 600 {path}")
    key = path.read_text(encoding="ascii").strip()
    if not key:
        raise SettingsError(f"The admin key {path} is empty; remove it and start again.")
    return key


def _write_admin_key(path: Path) -> str:
    key = secrets.token_urlsafe(KEY_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key + "\n")
    return key
