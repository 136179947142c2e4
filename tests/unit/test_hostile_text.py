"""Text that peers write is a value or the parser's own refusal, and nothing else."""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from aicp.agent.fencing import parse_token
from aicp.agent.incoming import read_headers, read_invocation
from aicp.agent.registration import Registrar, _told
from aicp.client import exchange
from aicp.client.client import _decode
from aicp.client.following import follow
from aicp.client.problems import error_of, read_problem
from aicp.errors import AicpError, SettingsError
from aicp.model.agent import AgentProfile, Capability
from aicp.model.endpoint import Endpoint
from aicp.model.live import LiveEvent
from aicp.model.outcome import Outcome
from aicp.model.reference import PointsNowhere, Reference, look_up, scan
from aicp.model.task import Call
from aicp.model.trace import parse_traceparent
from aicp.model.views import ChainView
from aicp.model.wire import AgentDescription, Invocation
from aicp.registry.directory import Directory
from aicp.registry.schemas import Schemas
from aicp.runtime.database_url import parse_database_url
from aicp.storage.postgres_address import parse_postgres_url
from aicp.transports import verdict
from aicp.transports.http import _read_description
from tests.unit.hostile_kit import ANY_TEXT, DATES, NUMBERS, SEED, TIMES, bounded, found_or_refused, hostile_json

NOW = datetime(2026, 11, 30, tzinfo=UTC)
DATE_LIKE = st.from_regex(
    r"[A-Za-z]{3}, [0-9]{1,20} [A-Z][a-z]{2} [0-9]{1,20} "
    r"[0-9]{1,20}:[0-9]{1,20}:[0-9]{1,30} ([A-Z]{3}|[+-][0-9]{1,20})",
    fullmatch=True,
)
TEXT = st.one_of(st.sampled_from(DATES), st.text(max_size=60), DATE_LIKE)
URLS = st.one_of(
    ANY_TEXT,
    st.builds(
        "{}://{}:{}/{}?{}={}".format, st.sampled_from(["http", "https", "postgresql", "sqlite"]), *[ANY_TEXT] * 5
    ),
    st.builds("{}://[{}]/".format, st.sampled_from(["http", "postgresql"]), ANY_TEXT),
)


def waits(header: str | None, body: bytes = b"") -> None:
    """What an agent and a server may ask for lies within bounds, or is not known."""
    reply = verdict.of_status(429, header, body, NOW)
    assert reply.outcome is Outcome.OVERLOADED
    assert reply.retry_after_s is None or 0.05 <= reply.retry_after_s <= 300.0
    wait_s = exchange._wait_s(read_problem(503, body, "http://s"), header)
    assert wait_s is None or (wait_s >= 0 and not math.isnan(wait_s))


@seed(SEED)
@bounded
@given(TEXT)
def test_header_that_asks_to_wait(text: str) -> None:
    waits(text)
    parse_traceparent(text)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:12])
def test_json_of_an_agent_and_of_a_server(number: str) -> None:
    for field in ("retry_after_ms", "error", "detail", "title", "status", "code", "retryable", "faults", "lease"):
        body = f'{{"{field}": {number}}}'.encode()
        waits(None, body)
        assert isinstance(error_of(read_problem(503, body, "http://s"), 503), AicpError)
        assert isinstance(_told(503, body), str)
    for field in ("result", "error", "task_id"):
        body = f'{{"task_id": "c.t", "{field}": {number}}}'.encode()
        assert isinstance(verdict.of_answer(body, Call("c.t", "c", {})).outcome, Outcome)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:12])
def test_lease_of_a_server(number: str) -> None:
    registrar = Registrar.__new__(Registrar)
    registrar._every_s = 5.0
    for body in (f'{{"lease": {number}}}', f'{{"lease": {{"heartbeat_every_s": {number}}}}}', f'{{"other": {number}}}'):
        assert 0.02 <= registrar._next_beat(body.encode()) <= 300.0


@seed(SEED)
@bounded
@given(URLS)
def test_url_is_used_or_refused(url: str) -> None:
    parsers: tuple[Any, ...] = (Endpoint.parse, parse_postgres_url, parse_database_url, exchange._checked_url)
    for parse in parsers:
        try:
            parse(url)
        except AicpError as refusal:
            msgspec.json.encode(str(refusal).encode("utf-8", "replace"))


@pytest.mark.parametrize("url", ["postgresql://h/d?\udcff=1", "postgresql://\udcff@h/d", "\udcff"])
def test_url_of_a_variable_that_is_not_utf_8_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        parse_postgres_url(url)


EVENT = {"kind": "task_ended", "at": "2026-11-30T00:00:00Z", "status": "completed", "error": {"code": "c"}, "lost": 1}
PROBLEM = {
    "type": "t", "title": "t", "status": 429, "detail": "d", "code": "queue_full", "retryable": True,
    "retry_after_ms": 5, "faults": [{"place": "/x", "message": "m"}], "capability": "c",
}  # fmt: skip
DESCRIPTION = {
    "agent_id": "eyes", "instance_id": "1", "max_concurrent_tasks": 2,
    "capabilities": [
        {
            "name": "a.b", "version": "1.0", "input_schema": {"type": "object", "properties": {"n": {"minimum": 1}}},
            "output_schema": {"pattern": "a+"}, "timeout_s": 3.5, "idempotent": False,
        }
    ],
}  # fmt: skip
INVOCATION = {"task_id": "c.t", "capability": "a.b", "params": {"x": [1]}, "attempt": 1}
VIEW = {"chain_id": "c", "name": "n", "status": "running", "total_tasks": 1, "tasks": {}, "submitted_at": "x"}


class Told:
    """An exchange with a server that sends these lines once, and is gone."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = [lines]
        self.headers: list[Mapping[str, str]] = []

    async def lines(self, _path: str, _query: object, headers: Mapping[str, str]) -> AsyncGenerator[str, None]:
        self.headers.append(headers)
        if not self._lines:
            raise exchange.Trouble(verdict_of_the_end())
        for line in self._lines.pop():
            yield line

    def backoffs(self) -> Any:
        return iter([0.0, 0.0, math.inf])

    async def wait_after(self, trouble: exchange.Trouble, _backoff_s: float) -> None:
        raise trouble.error


def verdict_of_the_end() -> AicpError:
    return AicpError("the end")


@seed(SEED)
@bounded
@given(
    st.lists(
        st.one_of(
            ANY_TEXT,
            ANY_TEXT.map("id: {}".format),
            hostile_json(EVENT, *TIMES).map(lambda body: "data: " + body.decode("utf-8", "replace")),
        ),
        max_size=3,
    )
)
def test_live_events_of_a_server(lines: list[str]) -> None:
    async def read() -> None:
        told = Told(lines)
        try:
            async with aclosing(follow(told, "/", {}, None)) as events:  # type: ignore[arg-type]
                async for event in events:
                    assert isinstance(event, LiveEvent)
        except AicpError:
            pass
        for headers in told.headers:
            # What goes back with the next request is what a header can carry.
            assert all(value.isascii() and value.isprintable() for value in headers.values())

    asyncio.run(read())


@seed(SEED)
@bounded
@given(hostile_json(PROBLEM), hostile_json(VIEW, *TIMES), st.sampled_from([400, 401, 403, 404, 409, 422, 429, 503]))
def test_refusals_and_answers_of_a_server(body: bytes, view: bytes, status: int) -> None:
    error = error_of(read_problem(status, body, "http://s"), status)
    assert isinstance(error, AicpError)
    assert str(error)
    found_or_refused(_decode, view, ChainView)


@seed(SEED)
@bounded
@given(hostile_json(DESCRIPTION))
def test_description_of_an_agent(body: bytes) -> None:
    reply = _read_description(body)
    assert isinstance(reply.outcome, Outcome)
    if isinstance(reply.result, AgentDescription):
        described = reply.result
        profile = AgentProfile(described.agent_id, described.capabilities, described.max_concurrent_tasks)
        found_or_refused(Directory(Schemas()).put, profile)


@seed(SEED)
@bounded
@given(hostile_json(INVOCATION), st.one_of(st.none(), ANY_TEXT))
def test_body_of_a_call(body: bytes, key: str | None) -> None:
    found = read_invocation(body, key)
    assert isinstance(found, Invocation) or found.status in {400, 422}


@seed(SEED)
@bounded
@given(st.one_of(TEXT, ANY_TEXT, st.sampled_from(NUMBERS)))
def test_headers_of_a_call(text: str) -> None:
    for name in ("X-AICP-Deadline-Ms", "X-AICP-Fencing-Token", "Idempotency-Key"):
        found = read_headers({name: text})
        assert getattr(found, "status", 400) == 400
    parse_token(text)
    Capability(text)


@pytest.mark.parametrize("path", ["/" + "9" * 5_000, "/" + "0" * 5_000, "/-1", "/٣", "/1e3", "/~", "//", "/\ud800"])
def test_path_of_a_reference(path: str) -> None:
    with pytest.raises(PointsNowhere):
        look_up([1], Reference("a", path))
    assert list(scan({"x": {"$result": "a", "path": path}}))
