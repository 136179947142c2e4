"""Text that peers write is a value or the parser's own refusal, and nothing else."""

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from aicp.agent.registration import Registrar, _told
from aicp.client import exchange
from aicp.client.problems import error_of, read_problem
from aicp.errors import AicpError, SettingsError
from aicp.model.endpoint import Endpoint
from aicp.model.outcome import Outcome
from aicp.model.task import Call
from aicp.model.trace import parse_traceparent
from aicp.runtime.database_url import parse_database_url
from aicp.storage.postgres_address import parse_postgres_url
from aicp.transports import verdict

NOW = datetime(2026, 11, 30, tzinfo=UTC)
NUMBERS = (
    "1e400", "-1e400", "1e-400", "-0", "9" * 30, "9" * 400, "-" + "9" * 400, "18446744073709551616", "0.5", "true",
    "null", "[]", "{}", '"x"', '"\\ud800"', "NaN", "-Infinity", "[" * 5_000,
)  # fmt: skip
DATES = (
    "Fri, 31 Dec 2026 23:59:99999999999999999999 GMT", "Fri, 31 Dec 99999 23:59:59 GMT",
    "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "Fri, 31 Dec 2026 23:59:59 +99999999999999",
    "", "-5", "nan", "1e400", "9" * 5_000, "١٢",
)  # fmt: skip
DATE_LIKE = st.from_regex(
    r"[A-Za-z]{3}, [0-9]{1,20} [A-Z][a-z]{2} [0-9]{1,20} "
    r"[0-9]{1,20}:[0-9]{1,20}:[0-9]{1,30} ([A-Z]{3}|[+-][0-9]{1,20})",
    fullmatch=True,
)
TEXT = st.one_of(st.sampled_from(DATES), st.text(max_size=60), DATE_LIKE)
ANY_TEXT = st.text(st.characters(codec=None), max_size=20)
URLS = st.one_of(
    ANY_TEXT,
    st.builds(
        "{}://{}:{}/{}?{}={}".format, st.sampled_from(["http", "https", "postgresql", "sqlite"]), *[ANY_TEXT] * 5
    ),
    st.builds("{}://[{}]/".format, st.sampled_from(["http", "postgresql"]), ANY_TEXT),
)
bounded = settings(max_examples=300, deadline=None, database=None)


def waits(header: str | None, body: bytes = b"") -> None:
    """What an agent and a server may ask for lies within bounds, or is not known."""
    reply = verdict.of_status(429, header, body, NOW)
    assert reply.outcome is Outcome.OVERLOADED
    assert reply.retry_after_s is None or 0.05 <= reply.retry_after_s <= 300.0
    wait_s = exchange._wait_s(read_problem(503, body, "http://s"), header)
    assert wait_s is None or (wait_s >= 0 and not math.isnan(wait_s))


@seed(20261130)
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


@seed(20261130)
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
