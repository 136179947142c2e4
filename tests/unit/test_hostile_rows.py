"""Rows that other replicas and other versions wrote are read, or refused as damaged, whatever they contain."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from aicp.errors import SettingsError
from aicp.model.access import ApiKey, Scope
from aicp.model.agent import AgentAuth, AgentProfile, Capability
from aicp.model.chain import ChainSpec
from aicp.model.event import ChainCancelled, ChainEnded, ChainSubmitted, TaskEnded, TaskStarted
from aicp.model.live import LiveEvent
from aicp.model.notice import Notice, Opening, Relayed
from aicp.model.outcome import Outcome, TaskError
from aicp.model.progress import ClockState
from aicp.model.task import Attempt, Task, TaskResult, TaskStatus
from aicp.ports import Posted
from aicp.storage.access_rows import StoredApiKey, StoredAudit
from aicp.storage.agent_rows import StoredAgent, StoredOrder
from aicp.storage.chain_summaries import StoredSummary
from aicp.storage.clock_rows import decode_clock_state
from aicp.storage.damage import DamageReports
from aicp.storage.postgres_bulletin import PostgresBulletin
from aicp.storage.rows import decode_outlines, decode_record
from tests.unit.hostile_kit import ANY_TEXT, SEED, TIMES, bounded, found_or_refused, hostile_json

NOW = datetime(2026, 11, 30, tzinfo=UTC)
ERROR = TaskError("code", "message")
ATTEMPT = Attempt("eyes", 1, Outcome.SUCCESS, "", NOW, NOW)
RESULT = TaskResult("c.a", "text.echo", TaskStatus.COMPLETED, {"x": 1}, ERROR, "eyes", (ATTEMPT,), NOW, NOW, NOW)
FACTS = (
    ChainSubmitted("c", ChainSpec((Task("text.echo", {"x": 1}, id="a"),)), NOW),
    TaskStarted("c", "a", NOW),
    TaskEnded("c", "a", RESULT),
    ChainCancelled("c", NOW),
    ChainEnded("c", TaskStatus.COMPLETED, NOW, ERROR),
)
PROFILE = AgentProfile("eyes", (Capability("text.echo"),), 1, endpoint="http://127.0.0.1:9", labels={"a": "b"})
EVENT = LiveEvent("task_ended", NOW, chain_id="c", status=TaskStatus.FAILED, error=ERROR, waited_s=0.5)
NOTICE = Notice({"eyes": "1"}, (Opening("eyes", "text.echo", 1.5),), {}, (Relayed.of(EVENT, None),), 3)
KEY = ApiKey("k", "name", "default", (Scope.TASKS_READ,), NOW)


def built(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def as_text(raw: bytes) -> str:
    """As the driver of a database returns a column of text."""
    return raw.decode("utf-8", "surrogateescape")


@seed(SEED)
@bounded
@given(fact=st.integers(0, len(FACTS) - 1), data=st.data())
def test_facts_of_a_chain(fact: int, data: st.DataObject) -> None:
    hostile = data.draw(hostile_json(built(FACTS[fact]), *TIMES))
    kinds: tuple[Any, ...] = (hostile, as_text(hostile))
    for told in kinds:
        rows: list[Any] = [
            (
                "c",
                1,
                None,
                None,
                fact == len(FACTS) - 1,
                0,
                seq,
                None,
                None,
                told if seq == fact else msgspec.json.encode(each),
                None,
            )
            for seq, each in enumerate(FACTS[: fact + 1])
        ]
        found_or_refused(decode_record, rows)
        found_or_refused(decode_outlines, rows)
        summary = StoredSummary("c", "n", "t", "completed", 1, "x", as_text(hostile)[:30], None, None, 5, None)
        found_or_refused(summary.summary)
        found_or_refused(summary.check_progress, hostile)


@seed(SEED)
@bounded
@given(profile=hostile_json(built(PROFILE)), secret=hostile_json(built(AgentAuth("s3cret"))), text=ANY_TEXT)
def test_agents_and_orders(profile: bytes, secret: bytes, text: str) -> None:
    def unseal(sealed: bytes) -> bytes:
        return sealed

    for sealed in (None, secret):
        stored = StoredAgent("eyes", as_text(profile), sealed, None, "2026", None)
        found_or_refused(stored.decode, unseal)
        found_or_refused(stored.decode_public)
    found_or_refused(StoredOrder("eyes", "circuit", text, "2026", None).decode, 1)


@seed(SEED)
@bounded
@given(
    key=hostile_json(built(KEY), *TIMES),
    time=st.one_of(st.sampled_from(TIMES), ANY_TEXT),
    clocks=hostile_json(built(ClockState(NOW, 1.5))),
)
def test_keys_audit_records_and_clocks(key: bytes, time: str, clocks: bytes) -> None:
    found_or_refused(StoredApiKey("k", b"", as_text(key), "2026", None, time, None, None, None).decode)
    found_or_refused(StoredAudit(time.strip('"'), "k", "t", "a", "o", 200, 1, 1, None).decode)
    found_or_refused(decode_clock_state, (as_text(clocks), None))


@seed(SEED)
@bounded
@given(body=hostile_json(built(NOTICE), *TIMES), number=st.sampled_from(["7", "", "x", "9" * 5_000]))
def test_notices_of_other_replicas(body: bytes, number: str) -> None:
    bulletin = PostgresBulletin(SimpleNamespace(place="here", damage=DamageReports()))  # type: ignore[arg-type]
    rows: Any = [
        {"kind": "told", "number": 1, "agent_id": number, "body": as_text(body), "age_s": 0.0},
        {"kind": "told", "number": 2, "agent_id": "5", "body": as_text(msgspec.json.encode(NOTICE)), "age_s": 0.0},
    ]
    news = bulletin._read(rows, has_gap=False)
    # One that cannot be read takes no other along; and that it is missing is known.
    assert news.posted[-1] == Posted(5, 0.0, NOTICE)
    assert news.has_gap == (len(news.posted) == 1)


@pytest.mark.parametrize("deep", [b"[" * 5_000, b'{"a":' * 5_000])
def test_secret_that_is_nested_without_end_cannot_be_unsealed(deep: bytes) -> None:
    row = StoredAgent("eyes", msgspec.json.encode(PROFILE).decode(), deep, None, "2026", None)
    with pytest.raises(SettingsError):
        row.decode(lambda sealed: b'{"bearer":' + sealed)
