"""Where a PostgreSQL database is: reads its URL and says it again without secrets."""

import os
import re
import urllib.parse
from collections.abc import Mapping

import msgspec

from aicp.errors import SettingsError

CONNECT_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S_MAX = 60.0
_SCHEMES = frozenset({"postgres", "postgresql"})
_FORM = "write postgresql://user@host:5432/database"

_HOST = r"(\[[0-9A-Fa-f:.%]+\]|[^:,\[\]]*)(:[0-9]*)?"
_PORTS = re.compile(f"{_HOST}(,{_HOST})*")
"""Hosts and ports. What stands there else may be the end of a password with a slash in it, which is not to be told."""

_HARMLESS = frozenset({
    "client_encoding", "gssencmode", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
    "load_balance_hosts", "sslcompression", "sslsni", "tcp_user_timeout",
})  # fmt: skip
"""Parameters of libpq that its users' URLs have, and that change nothing AICP relies on."""

_PROTECTING = frozenset({"channel_binding", "require_auth", "requirepeer", "requiressl", "sslcertmode"})
"""Parameters of libpq that protect, and that AICP's driver does not know: to ignore one would be to lie."""

_OURS = frozenset({"connect_timeout", "target_session_attrs"})
"""Parameters that AICP heeds itself: how long a connection may take, and that its server takes writes."""

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_PROTECTS_NOT = frozenset({"", "0", "allow", "disable", "prefer"})


class PostgresAddress(msgspec.Struct, frozen=True):
    """A database on a PostgreSQL server.

    Attributes:
        url: For the driver; it may hold a password.
        place: For people: without user, password and parameters.
        connect_timeout_s: How long making a connection may take.
        files: What it names for TLS, by the name of the parameter.
    """

    url: str
    place: str
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    files: Mapping[str, str] = {}

    def __repr__(self) -> str:
        """As people may see it."""
        return f"PostgresAddress({self.place})"


def urls_of(address: PostgresAddress) -> list[str]:
    """The URL of each of the hosts that an address names, in their order; most name one."""
    parts = urllib.parse.urlsplit(address.url)
    before, at, where = parts.netloc.rpartition("@")
    if "," in where:
        return [parts._replace(netloc=f"{before}{at}{host}").geturl() for host in where.split(",")]
    params = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    hosts, ports = params.get("host", "").split(","), params.get("port", "").split(",")
    if len(hosts) == 1 or len(ports) not in {1, len(hosts)}:
        return [address.url]
    ports = ports if len(ports) == len(hosts) else ports * len(hosts)
    return [_with_host(address.url, {**params, "host": host}, port) for host, port in zip(hosts, ports, strict=True)]


def _with_host(url: str, params: dict[str, str], port: str) -> str:
    named = {**params, "port": port} if port else params
    return f"{url.partition('?')[0]}?{urllib.parse.urlencode(named)}"


def require_files(address: PostgresAddress) -> None:
    """Make sure that the files for TLS can be read: the driver does not say which one it did not find.

    Raises:
        SettingsError: One cannot.
    """
    for name, path in address.files.items():
        if not os.access(path, os.R_OK):
            raise SettingsError(f"The database URL names a file as {name}, which cannot be read: {_shown(path)}.")


def parse_postgres_url(url: str) -> PostgresAddress:
    """What a URL as libpq takes it names; nothing is looked up. What it leaves out comes from `PG*` and `.pgpass`.

    Raises:
        SettingsError: It is none. The error repeats nothing that may be a password.
    """
    try:
        # A variable of the environment may hold bytes that are not UTF-8.
        parts = urllib.parse.urlsplit(url.strip().encode().decode())
        params = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise SettingsError(f"The database URL is not well-formed: {_FORM}, with %-escapes in a password.") from error
    if parts.scheme.partition("+")[0] not in _SCHEMES:
        raise SettingsError(f"The database URL does not begin with postgresql://: {_FORM}.")
    if parts.netloc.count("@") > 1 or not _PORTS.fullmatch(parts.netloc.rpartition("@")[2]):
        raise SettingsError(
            f"The database URL has no host and port one could read: {_FORM}; write %40 for '@' and "
            "%2F for '/' in a password."
        )
    if parts.fragment:
        raise SettingsError(f"The database URL has a bare '#': write %23 for it; {_FORM}.")
    _refuse_protection(params)
    _refuse_standbys(params)
    timeout_s = _connect_timeout_s(params)
    known = {name: value for name, value in params.items() if name not in _HARMLESS | _PROTECTING | _OURS}
    # Not `urlunsplit`, which drops the slashes of a URL without a host.
    query = f"?{urllib.parse.urlencode(known)}" if known else ""
    files = {name: params[name] for name in _FILES if params.get(name)}
    return PostgresAddress(f"postgresql://{parts.netloc}{parts.path}{query}", _place(parts, params), timeout_s, files)


def _refuse_protection(params: Mapping[str, str]) -> None:
    for name in sorted(_PROTECTING & params.keys()):
        if params[name] not in _PROTECTS_NOT:
            raise SettingsError(
                f"The database URL asks for {name}, which AICP's driver cannot give: leave it out; sslmode=verify-full "
                "makes sure who the server is."
            )


def _refuse_standbys(params: Mapping[str, str]) -> None:
    asked = params.get("target_session_attrs", "")
    if asked in {"read-only", "standby", "prefer-standby"}:
        raise SettingsError(
            f"The database URL asks for target_session_attrs={asked}, and AICP writes: leave it out; of several hosts "
            "the one that takes writes is used."
        )


def _connect_timeout_s(params: Mapping[str, str]) -> float:
    told = params.get("connect_timeout", "")
    if not told:
        return CONNECT_TIMEOUT_S
    if not told.isascii() or not told.isdigit():
        raise SettingsError("The database URL's connect_timeout is no whole number of seconds.")
    # To libpq, 0 means for ever; nothing here waits that long.
    return min(float(told) or CONNECT_TIMEOUT_S_MAX, CONNECT_TIMEOUT_S_MAX)


def _place(parts: urllib.parse.SplitResult, params: Mapping[str, str]) -> str:
    host = parts.netloc.rpartition("@")[2] or params.get("host", "")
    database = urllib.parse.unquote(parts.path.removeprefix("/")) or params.get("dbname", "")
    return f"postgresql://{_shown(host)}/{_shown(database)}"


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
