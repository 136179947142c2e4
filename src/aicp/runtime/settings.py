"""What the process was started with: the only reader of environment and files."""

import base64
import binascii
import math
import os
import secrets
import ssl
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from aicp.coordination.retention import DEFAULT_RETENTION_S
from aicp.errors import SettingsError
from aicp.model.endpoint import (
    PORT_MAX,
    AddressPolicy,
    IPNetwork,
    is_loopback_host,
    leads_to_loopback,
    private_network,
)
from aicp.runtime.database_url import DatabaseUrl, choose_database

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8420
DEFAULT_DRAIN_S = 10.0
DRAIN_S_MAX = 3_600.0
DEFAULT_AUDIT_MAX = 1_000_000
AUDIT_MAX_MAX = 1_000_000_000
ADMIN_KEY_FILE = "admin.key"
SECRET_KEY_FILE = "secret.key"  # noqa: S105 - the name of a file
SECRET_KEY_VARIABLE = "AICP_SECRET_KEY"  # noqa: S105 - the name of a variable
TLS_CERTIFICATE_VARIABLE = "AICP_TLS_CERT"
TLS_KEY_VARIABLE = "AICP_TLS_KEY"
RETENTION_VARIABLE = "AICP_RETENTION_S"
DRAIN_VARIABLE = "AICP_DRAIN_S"
AUDIT_VARIABLE = "AICP_AUDIT_MAX"
LOG_FORMAT_VARIABLE = "AICP_LOG_FORMAT"
NETWORKS_VARIABLE = "AICP_ALLOW_NETWORKS"
KEY_BYTES = 32
ADMIN_KEY_CHARS_MIN = 32
"""Of a key that a person put there; one that AICP makes has 43."""
RETENTION_S_MAX = 100 * 366 * 86_400.0
NETWORKS_MAX = 1_000


class LogFormat(StrEnum):
    """How a server logs: for people, or as a JSON object a line."""

    TEXT = "text"
    JSON = "json"


class Tls(msgspec.Struct, frozen=True):
    """How a server proves who it is.

    Attributes:
        certificate: A PEM file with its certificate, and those that lead from it to one its clients trust.
        key: A PEM file with the private key of it, not encrypted.
    """

    certificate: Path
    key: Path


class Settings(msgspec.Struct, frozen=True):
    """Settings of a server.

    Attributes:
        host: Bind address.
        port: TCP port, 0 for any free one.
        data_dir: Where keys and the database live.
        policy: Which addresses agents may have.
        behind_tls_proxy: True when only a proxy with TLS reaches it, which then also minds the Host header.
        database: Where it remembers chains and agents; None for memory.
        retention_s: How long a chain is remembered after its end, seconds.
        log_format: How it logs to stderr.
        agents_file: A list of agents to keep registered; None for none.
        drain_s: How long attempts under way have to end when it is stopped, seconds.
        audit_max: About how many audit records are kept, the newest.
        tls: What it serves HTTPS with; None for HTTP.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    data_dir: Path = Path()
    policy: AddressPolicy = AddressPolicy(loopback=True)
    behind_tls_proxy: bool = False
    database: DatabaseUrl | None = None
    retention_s: float = DEFAULT_RETENTION_S
    log_format: LogFormat = LogFormat.TEXT
    drain_s: float = DEFAULT_DRAIN_S
    audit_max: int = DEFAULT_AUDIT_MAX
    agents_file: Path | None = None
    tls: Tls | None = None


def server_settings(
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    behind_tls_proxy: bool = False,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    allow_networks: Sequence[str] = (),
    agents_file: Path | None = None,
    log_format: LogFormat | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of a server: what it was told, the environment, and this machine's data directory.

    Raises:
        SettingsError: The port is none, others could listen to the keys sent to this host, the certificate cannot be
            used, a network is none, or the environment names no usable database, retention, drain time, size of the
            audit log, format of the log or key to the secrets of agents.
    """
    if not 0 <= port <= PORT_MAX:
        raise SettingsError(f"Port {port} is none: choose 1 to {PORT_MAX}, or 0 for any free one.")
    env = os.environ if environ is None else environ
    on_loopback, tls = is_loopback_host(host), _tls(tls_certificate, tls_key, env)
    if not (on_loopback or behind_tls_proxy or tls):
        raise SettingsError(
            f"Binding {host} would send keys in the clear: bind 127.0.0.1, serve HTTPS with --tls-cert and --tls-key, "
            "or put a proxy with TLS in front and say --behind-tls-proxy."
        )
    directory = data_dir(env)
    policy = AddressPolicy(on_loopback, _networks(allow_networks, env))
    database = choose_database(None, env, directory)
    log_format = log_format or _log_format(env)
    _check_secret_key(env)
    return Settings(
        host, port, directory, policy, behind_tls_proxy, database, log_format=log_format, agents_file=agents_file,
        retention_s=_seconds(env, RETENTION_VARIABLE, DEFAULT_RETENTION_S, RETENTION_S_MAX),
        drain_s=_seconds(env, DRAIN_VARIABLE, DEFAULT_DRAIN_S, DRAIN_S_MAX),
        audit_max=_audit_max(env), tls=tls,
    )  # fmt: skip


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


def secret_key(directory: Path, environ: Mapping[str, str] | None = None) -> bytes:
    """What seals secrets of agents: `AICP_SECRET_KEY`, else the key in the data directory, made when there is none.

    Raises:
        SettingsError: It is no key, cannot be read or written, or others may read it.
    """
    env = os.environ if environ is None else environ
    if chosen := env.get(SECRET_KEY_VARIABLE):
        return _sound_key(chosen, SECRET_KEY_VARIABLE)
    path = directory / SECRET_KEY_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = _read_key(path) if path.exists() else _write_key(path, _new_secret_key())
    except UnicodeDecodeError as error:
        raise SettingsError(f"The key {path} is not ASCII text; put the right one there.") from error
    except OSError as error:
        raise SettingsError(
            f"The key {path} cannot be used: {error.strerror}; set AICP_DATA_DIR to a directory of yours."
        ) from error
    return _sound_key(key, str(path))


def shared_secret_key(environ: Mapping[str, str] | None = None) -> bytes:
    """What seals secrets of agents in a database that others share: `AICP_SECRET_KEY`, the same wherever it is used.

    Raises:
        SettingsError: It is not set, or is no key.
    """
    env = os.environ if environ is None else environ
    if chosen := env.get(SECRET_KEY_VARIABLE):
        return _sound_key(chosen, SECRET_KEY_VARIABLE)
    raise SettingsError(
        f"{SECRET_KEY_VARIABLE} is not set, and a secret of an agent in PostgreSQL needs it: set it to {KEY_BYTES} "
        "random bytes in URL-safe base64, the same for every server on that database."
    )


def find_or_make_admin_key(directory: Path) -> str:
    """The admin key of a data directory; written there, readable by its owner alone, when there is none.

    Raises:
        SettingsError: The directory or the key cannot be read or written, others may read the key, or it is so short
            that it could be guessed.
    """
    path = directory / ADMIN_KEY_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = _read_key(path) if path.exists() else _write_key(path, secrets.token_urlsafe(KEY_BYTES))
    except UnicodeDecodeError as error:
        raise SettingsError(f"The admin key {path} is not ASCII text; remove it and start again.") from error
    except OSError as error:
        raise SettingsError(
            f"The admin key {path} cannot be used: {error.strerror}; set AICP_DATA_DIR to a directory of yours."
        ) from error
    if len(key) < ADMIN_KEY_CHARS_MIN:
        raise SettingsError(
            f"The admin key {path} has {len(key)} characters and could be guessed; remove it and start again, which "
            f"makes a new one, or write {ADMIN_KEY_CHARS_MIN} random ones or more."
        )
    return key


def _read_key(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise SettingsError(f"The {_named(path)} {path} can be read by others; run: chmod 600 {path}")
    key = path.read_text(encoding="ascii").strip()
    if not key:
        raise SettingsError(f"The {_named(path)} {path} is empty; remove it and start again.")
    return key


def _named(path: Path) -> str:
    return "admin key" if path.name == ADMIN_KEY_FILE else "secret key"


def _write_key(path: Path, key: str) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(descriptor)
    return key


def _new_secret_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii")


def _sound_key(key: str, source: str) -> bytes:
    encoded = key.strip().encode("ascii", "replace")
    try:
        size = len(base64.b64decode(encoded, altchars=b"-_", validate=True))
    except binascii.Error:
        size = 0
    if size != KEY_BYTES:
        raise SettingsError(f"{source} holds no key: it is {KEY_BYTES} random bytes in URL-safe base64, 44 characters.")
    return encoded


def _check_secret_key(environ: Mapping[str, str]) -> None:
    """Refuse a bad one now, and not when the first secret comes; where none is set, none is needed yet."""
    if chosen := environ.get(SECRET_KEY_VARIABLE):
        _sound_key(chosen, SECRET_KEY_VARIABLE)


def _networks(told: Sequence[str], environ: Mapping[str, str]) -> tuple[IPNetwork, ...]:
    """The private networks agents may live in: as told on the command line, else by the environment."""
    source = "--allow-network" if told else NETWORKS_VARIABLE
    texts = [text for text in told or environ.get(NETWORKS_VARIABLE, "").split(",") if text.strip()]
    if len(texts) > NETWORKS_MAX:
        raise SettingsError(f"{source} names {len(texts)} networks; at most {NETWORKS_MAX} are allowed.")
    try:
        return tuple(map(private_network, texts))
    except ValueError as error:
        raise SettingsError(f"{source} cannot be used: {error}.") from None


def _tls(certificate: Path | None, key: Path | None, environ: Mapping[str, str]) -> Tls | None:
    named = (certificate or environ.get(TLS_CERTIFICATE_VARIABLE), key or environ.get(TLS_KEY_VARIABLE))
    if not any(named):
        return None
    if not (named[0] and named[1]):
        raise SettingsError("HTTPS takes a certificate and its key: give both --tls-cert and --tls-key.")
    tls = Tls(Path(named[0]), Path(named[1]))
    _check_tls(tls)
    return tls


def _check_tls(tls: Tls) -> None:
    def refuse_password() -> str:
        raise SettingsError(f"The key {tls.key} is encrypted: give one that is not, readable by its owner alone.")

    for path in (tls.certificate, tls.key):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"The file {path} cannot be read: {error.strerror}.") from error
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            tls.certificate, tls.key, password=refuse_password
        )
    except ssl.SSLError as error:
        raise SettingsError(
            f"{tls.certificate} and {tls.key} are no certificate with its key: both must be PEM files, and belong "
            "together."
        ) from error


def _log_format(environ: Mapping[str, str]) -> LogFormat:
    told = environ.get(LOG_FORMAT_VARIABLE) or LogFormat.TEXT
    try:
        return LogFormat(told)
    except ValueError:
        raise SettingsError(f"{LOG_FORMAT_VARIABLE} is '{told[:80]}': it must be text or json.") from None


def _audit_max(environ: Mapping[str, str]) -> int:
    told = environ.get(AUDIT_VARIABLE)
    if not told:
        return DEFAULT_AUDIT_MAX
    if not (told.isascii() and told.isdecimal() and 1 <= int(told[:20]) <= AUDIT_MAX_MAX):
        raise SettingsError(f"{AUDIT_VARIABLE} is '{told[:80]}': it must be a number of records, 1 to {AUDIT_MAX_MAX}.")
    return int(told)


def _seconds(environ: Mapping[str, str], variable: str, default_s: float, most_s: float) -> float:
    told = environ.get(variable)
    if not told:
        return default_s
    try:
        seconds = float(told)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= most_s:
        raise SettingsError(f"{variable} is '{told[:80]}': it must be seconds, more than 0 and at most {most_s:.0f}.")
    return seconds
