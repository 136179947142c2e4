"""What is sent to an agent: its URLs, the headers and the body of a call."""

import math

import msgspec
from multidict import istr
from yarl import URL

from aicp.errors import InvalidAgent
from aicp.model.agent import BEARER_PATTERN, AgentAuth
from aicp.model.endpoint import Endpoint
from aicp.model.nesting import NESTING_MAX, is_too_deep
from aicp.model.outcome import Outcome, Reply
from aicp.model.pieces import VALUES_MAX, holds_more_values
from aicp.model.task import Call
from aicp.model.wire import (
    DEADLINE_HEADER,
    FENCING_HEADER,
    KEY_HEADER,
    PARAMS_BYTES_MAX,
    TRACE_HEADER,
    Invocation,
)
from aicp.model.writing import encode as encode_json
from aicp.transports.replies import misconfigured, one_line
from aicp.version import __version__

JSON = "application/json"
COMMON_HEADERS = {
    istr("Accept"): JSON,
    istr("Accept-Encoding"): "identity",
    istr("User-Agent"): f"aicp/{__version__}",
}
"""What goes with every request."""

# The case-insensitive form, made once: aiohttp would make it for each call.
_KEY, _DEADLINE, _FENCING, _TRACE = map(istr, (KEY_HEADER, DEADLINE_HEADER, FENCING_HEADER, TRACE_HEADER))
_AUTHORIZATION, _CONTENT_TYPE = istr("Authorization"), istr("Content-Type")


class Route(msgspec.Struct, frozen=True):
    """What is the same for every call to one agent.

    Attributes:
        invoke_url: Where calls go.
        probe_url: Where one asks whether it is alive.
        describe_url: Where one asks what it can do.
        auth_headers: How AICP proves itself to it.
    """

    invoke_url: URL
    probe_url: URL
    describe_url: URL
    auth_headers: dict[istr, str]


class Refused(Exception):
    """A call cannot be sent as it is.

    Attributes:
        reply: What it ends with.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__(reply.reason)


def make_route(endpoint_url: str | None, auth: AgentAuth | None) -> Route:
    """The route to an agent.

    Raises:
        Refused: Its URL or its bearer cannot be used.
    """
    try:
        url = Endpoint.parse(endpoint_url or "").url
    except InvalidAgent as error:
        raise Refused(misconfigured(error.faults[0].message)) from None
    if auth is not None and not BEARER_PATTERN.fullmatch(auth.bearer):
        raise Refused(misconfigured("its bearer has characters that no header can carry"))
    headers = {} if auth is None else {_AUTHORIZATION: f"Bearer {auth.bearer}"}
    invoke_url, probe_url, describe_url = (
        URL(f"{url}/{path}", encoded=True) for path in ("invoke", "healthz", "describe")
    )
    return Route(invoke_url, probe_url, describe_url, headers)


def encode(call: Call) -> bytes:
    """The body of a call; for a thread when the params are heavy.

    Raises:
        Refused: The params are no JSON, larger than 16 MiB, of more than 200,000 values, or nested deeper than 64.
    """
    try:
        body = encode_json(Invocation(call.task_id, call.capability, call.params, call.attempt))
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(Reply(Outcome.CALLER_FAULT, reason=one_line(f"params are not JSON: {error}"))) from None
    if len(body) > PARAMS_BYTES_MAX:
        raise Refused(Reply(Outcome.CALLER_FAULT, reason=f"params are larger than {PARAMS_BYTES_MAX >> 20} MiB"))
    if holds_more_values(body):
        raise Refused(Reply(Outcome.CALLER_FAULT, reason=f"params hold more than {VALUES_MAX:,} values"))
    if is_too_deep(call.params, body):
        raise Refused(Reply(Outcome.CALLER_FAULT, reason=f"params are nested deeper than {NESTING_MAX}"))
    return body


def headers_of(call: Call, route: Route) -> dict[istr, str]:
    """The headers of a call: key, time left, fencing token, trace and auth."""
    return {
        _CONTENT_TYPE: JSON,
        _KEY: call.task_id,
        _DEADLINE: str(math.ceil(min(call.timeout_s, call.remaining_s) * 1000)),
        _FENCING: call.fencing_token,
        _TRACE: call.traceparent,
        **route.auth_headers,
    }
