"""What `aicp doctor` finds out by asking the server."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import msgspec

from aicp.cli.connection import run_to_end
from aicp.errors import AccessDenied, AicpError
from aicp.model.views import FleetHealth, Info
from aicp.runtime.checkup import Finding, Verdict
from aicp.runtime.settings import api_key
from aicp.version import __version__

ANSWER_WITHIN_S = 5.0
SLOW_S = 1.0
SKEW_S_MAX = 5.0
AGENTS_TOLD_MAX = 5
_BYTES_READ_MAX = 4_096


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Go nowhere."""


class Answer(msgspec.Struct, frozen=True):
    """What a server said to one question.

    Attributes:
        status: Of HTTP.
        text: The beginning of it.
        date: Its clock, None when it did not say.
        elapsed_s: How long it took.
    """

    status: int
    text: str
    date: datetime | None
    elapsed_s: float


def check_server(url: str) -> Iterator[Finding]:
    """Whether the server there answers, knows the key, and has agents that may be used; stops where that ends."""
    try:
        key = api_key(url)
        alive = _ask(url, "/livez", None)
    except AicpError as error:
        yield Finding("key", Verdict.FAIL, error.message.rstrip("."), "set AICP_API_KEY")
        return
    except (OSError, HTTPException, ValueError) as error:
        yield _unreached(url, error)
        return
    if (alive.status, alive.text) != (200, "ok"):
        told = f"what answers at {url} is no AICP server"
        yield Finding("server", Verdict.FAIL, told, "set AICP_URL, or start `aicp serve` with another --port")
        return
    yield _reached(url, alive)
    yield _check_clock(alive)
    if key is None:
        yield Finding("key", Verdict.FAIL, "there is none", "set AICP_API_KEY, or AICP_DATA_DIR to the server's")
        return
    if not (key.isascii() and key.isprintable() and " " not in key and key):
        yield Finding("key", Verdict.FAIL, "it is not one word of printable ASCII characters", "set AICP_API_KEY")
        return
    yield _check_readiness(url, key)
    yield from run_to_end(partial(_check_inside, url, key))


def _unreached(url: str, error: Exception) -> Finding:
    from aicp.client.unreached import reason_of

    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, ConnectionRefusedError):
        told = f"nobody listens at {url}"
        return Finding("server", Verdict.FAIL, told, "start it with `aicp serve`, or set AICP_URL")
    reason = reason_of(cause, url)
    advice = reason.advice or "look at AICP_URL, and at the network between"
    return Finding("server", Verdict.FAIL, f"{url} cannot be reached: {reason.told}", advice)


def _reached(url: str, alive: Answer) -> Finding:
    told = f"{url} answered within {alive.elapsed_s * 1000:.0f} ms"
    if alive.elapsed_s > SLOW_S:
        return Finding("server", Verdict.WARN, told, "look what keeps it, or the network, busy")
    return Finding("server", Verdict.OK, told)


def _check_clock(alive: Answer) -> Finding:
    if alive.date is None:
        return Finding("clock", Verdict.WARN, "the server does not tell its time", "look whether a proxy takes it out")
    skew_s = (alive.date - datetime.now(UTC)).total_seconds()
    told = f"the server's is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the one here"
    if abs(skew_s) > SKEW_S_MAX:
        return Finding("clock", Verdict.WARN, told, "let both machines keep time by NTP")
    return Finding("clock", Verdict.OK, "as the one here")


def _check_readiness(url: str, key: str) -> Finding:
    try:
        answer = _ask(url, "/readyz", key)
    except (OSError, HTTPException, ValueError) as error:
        return _unreached(url, error)
    if answer.status == 200:
        return Finding("ready", Verdict.OK, "it takes work")
    return Finding("ready", Verdict.FAIL, f"it takes no work: {answer.text}", "wait, or look at its log")


async def _check_inside(url: str, key: str) -> list[Finding]:
    """What is to be known only with a key."""
    from aicp.client import Client

    async with Client(url, key, timeout_s=ANSWER_WITHIN_S, retries_max=0) as client:
        try:
            findings = _of_info(await client.info())
        except AicpError as error:
            advice = "set AICP_API_KEY, or AICP_DATA_DIR to the server's" if isinstance(error, AccessDenied) else ""
            return [Finding("key", Verdict.FAIL, error.message.rstrip("."), advice)]
        try:
            findings.append(_of_agents(await client.health()))
        except AicpError as error:
            findings.append(Finding("agents", Verdict.WARN, error.message.rstrip("."), "use a key that may read them"))
        return findings


def _of_info(info: Info) -> list[Finding]:
    findings = [Finding("key", Verdict.OK, "it is accepted")]
    if info.version == __version__:
        findings.append(Finding("version", Verdict.OK, f"{__version__}, as the server's"))
    else:
        told = f"the server's is {info.version}, this command's {__version__}"
        findings.append(Finding("version", Verdict.WARN, told, "use the same"))
    kept = f"what it accepts is kept in {info.journal}"
    if info.durable:
        findings.append(Finding("record", Verdict.OK, kept))
    else:
        findings.append(Finding("record", Verdict.WARN, f"{kept}, and lost with the process", "give it a database"))
    return findings


def _of_agents(health: FleetHealth) -> Finding:
    if not health.total_agents:
        return Finding("agents", Verdict.WARN, "there are none", "`aicp agent add URL`, or `aicp agent run --register`")
    told = f"{health.healthy_agents} of {health.total_agents} may be used for all they offer"
    if health.capabilities_out:
        told += f"; nobody may be used for {', '.join(health.capabilities_out[:AGENTS_TOLD_MAX])}"
        return Finding("agents", Verdict.FAIL, told, "`aicp breaker list` says why")
    if health.healthy_agents < health.total_agents:
        return Finding("agents", Verdict.WARN, told, "`aicp breaker list` says why")
    return Finding("agents", Verdict.OK, told)


def _ask(url: str, path: str, key: str | None) -> Answer:
    """One GET, past any proxy; a redirect is not followed, since the key is for this server.

    Raises:
        OSError: It could not be reached.
        HTTPException: What answers does not speak HTTP.
        ValueError: The URL is none.
    """
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    if not url.startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    request = Request(f"{url.rstrip('/')}{path}", headers=headers)  # noqa: S310 - the scheme was looked at
    began = time.monotonic()
    try:
        with build_opener(ProxyHandler({}), _Stay).open(request, timeout=ANSWER_WITHIN_S) as answered:
            return _answer(answered.status, answered.read(_BYTES_READ_MAX), answered.headers["Date"], began)
    except HTTPError as refused:
        with refused:
            return _answer(refused.code, refused.read(_BYTES_READ_MAX), refused.headers["Date"], began)


def _answer(status: int, body: bytes, date: str | None, began: float) -> Answer:
    try:
        when = parsedate_to_datetime(date or "").astimezone(UTC)
    except ValueError:
        when = None
    return Answer(status, body.decode("utf-8", "replace").strip(), when, time.monotonic() - began)
