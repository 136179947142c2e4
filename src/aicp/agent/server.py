"""The agent's three HTTP calls, on aiohttp's bare server: no router, no middleware, no access log."""

import hmac
import logging

import msgspec
from aiohttp import web

from aicp.agent.answers import refuse, reply
from aicp.agent.desk import DRAINING_RETRY_MS, Desk
from aicp.agent.pipelining import PipeliningServer
from aicp.agent.strangers import Strangers
from aicp.model.wire import AgentDescription

KEEPALIVE_S = 75.0
BACKLOG = 1_024
ANSWERS_S_MAX = 2.0
_HEALTHY = b'{"status":"ok"}'

logger = logging.getLogger("aicp.agent")
# Malformed HTTP is answered 400; a traceback for each would let anybody fill the log.
_quiet_logger = logging.getLogger("aicp.agent.http")
_quiet_logger.setLevel(logging.CRITICAL + 1)


class AgentServer:
    """Answers `POST /invoke`, `GET /describe` and `GET /healthz`.

    Args:
        desk: Where calls go.
        description: What `/describe` tells.
        token: What every caller must show as `Authorization: Bearer …`; None for no such demand.
        endpoint: The URL under which AICP calls it; None for the address it is bound to, which is then on loopback.
    """

    def __init__(
        self, desk: Desk, description: AgentDescription, token: str | None, endpoint: str | None = None
    ) -> None:
        self._desk = desk
        self._strangers = Strangers(endpoint)
        self._description = msgspec.json.encode(description)
        self._token = None if token is None else token.encode()

    def make_runner(self) -> web.ServerRunner:
        """The aiohttp runner that serves it; a caller that goes away cancels its request."""
        server = PipeliningServer(
            self._answer,
            handler_cancellation=True,
            access_log=None,
            logger=_quiet_logger,
            keepalive_timeout=KEEPALIVE_S,
            auto_decompress=False,
        )
        return web.ServerRunner(server, shutdown_timeout=ANSWERS_S_MAX)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return refuse(500, "internal", "the agent failed to handle this request; its log says why")

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if (refusal := self._refuse_caller(request)) is not None:
            return refusal
        path = request.rel_url.raw_path
        if path == "/invoke":
            return await self._desk.answer(request) if request.method == "POST" else _only("POST")
        if path not in {"/describe", "/healthz"}:
            return refuse(404, "not_found", "there are POST /invoke, GET /describe and GET /healthz")
        if request.method not in {"GET", "HEAD"}:
            return _only("GET, HEAD")
        return reply(200, self._description) if path == "/describe" else self._health()

    def _refuse_caller(self, request: web.BaseRequest) -> web.Response | None:
        if self._token is None:
            return self._strangers.refuse(request)
        return None if _shows(request.headers.get("Authorization", ""), self._token) else _unauthorized()

    def _health(self) -> web.Response:
        if self._desk.draining:
            return refuse(503, "draining", "this agent is going away", retry_after_ms=DRAINING_RETRY_MS)
        return reply(200, _HEALTHY)


def _shows(authorization: str, token: bytes) -> bool:
    scheme, _, shown = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), token)


def _unauthorized() -> web.Response:
    response = refuse(401, "access_denied", "send the agent's token as Authorization: Bearer <token>")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _only(methods: str) -> web.Response:
    response = refuse(405, "method_not_allowed", f"only {methods} is answered here")
    response.headers["Allow"] = methods
    return response
