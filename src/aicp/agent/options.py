"""What an agent is started with, checked before anything is opened."""

import ipaddress
import logging
import math
from pathlib import Path

import msgspec

from aicp.errors import InvalidAgent, SettingsError
from aicp.model.endpoint import Endpoint, is_loopback_host
from aicp.private_files import PrivateFile, warn_of_exposures

_log = logging.getLogger("aicp.agent")

DRAIN_S = 30.0
DRAIN_S_MAX = 3_600.0


class AgentOptions(msgspec.Struct, frozen=True):
    """How an agent is served.

    Attributes:
        host: Address to bind; anything but loopback needs a token.
        port: 0 for any free one.
        register: URL of the AICP server that shall know the agent; None for no registration.
        api_key: Shown to that server; None for `AICP_API_KEY`, else the admin key of this machine's data directory.
        token: What callers must show as `Authorization: Bearer …`; AICP is told at registration.
        token_file: A file that holds the token.
        endpoint: The URL under which AICP reaches the agent; None for the bound host and port.
        drain_s: How long calls in flight may take to end when the agent stops, seconds.
        until_stdin_closes: Stop when standard input ends, that is, when the parent process dies.
    """

    host: str = "127.0.0.1"
    port: int = 0
    register: str | None = None
    api_key: str | None = None
    token: str | None = None
    token_file: Path | None = None
    endpoint: str | None = None
    drain_s: float = DRAIN_S
    until_stdin_closes: bool = False

    def __repr__(self) -> str:
        return f"AgentOptions(host={self.host!r}, port={self.port}, register={self.register!r})"  # no secrets


def checked(options: AgentOptions) -> AgentOptions:
    """The options with the token read from its file and URLs in their one spelling.

    Raises:
        SettingsError: One of them cannot be used.
    """
    if not 0 <= options.port <= 65_535:
        raise SettingsError(f"Port {options.port} is none: choose 1 to 65535, or 0 for any free one.")
    if not (math.isfinite(options.drain_s) and 0 <= options.drain_s <= DRAIN_S_MAX):
        raise SettingsError(f"The drain bound must be 0 to {DRAIN_S_MAX:.0f} seconds, not {options.drain_s}.")
    token = _token(options)
    if token is None and not is_loopback_host(options.host):
        raise SettingsError(
            f"Binding {options.host} lets others reach this agent: give it a token (--token-file), or bind 127.0.0.1."
        )
    register = None if options.register is None else _checked_url(options.register, "--register")
    endpoint = None if options.endpoint is None else _checked_url(options.endpoint, "--endpoint")
    if register is not None and endpoint is None and _is_wildcard(options.host):
        raise SettingsError(f"{options.host} is no address to be called at: say --endpoint http://<this host>:<port>.")
    return msgspec.structs.replace(options, token=token, token_file=None, register=register, endpoint=endpoint)


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _token(options: AgentOptions) -> str | None:
    token = options.token
    if options.token_file is not None:
        if token is not None:
            raise SettingsError("Give a token or a token file, not both.")
        warn_of_exposures(_log, [PrivateFile("token file", options.token_file)])
        try:
            token = options.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not text"
            raise SettingsError(f"The token file {options.token_file} cannot be read: {reason}.") from error
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise SettingsError("A token must be one line of printable ASCII characters, and not empty.")
    return token


def _checked_url(url: str, option: str) -> str:
    try:
        return Endpoint.parse(url).url
    except InvalidAgent as error:
        raise SettingsError(f"{option}: {error.faults[0].message}; say something like http://127.0.0.1:8420.") from None
