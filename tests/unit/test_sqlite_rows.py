"""Facts as rows: what is written is what is read, and what cannot be written is refused before it is."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from aicp.errors import StorageError
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import ChainCancelled, ChainEnded, ChainSubmitted, Fact, TaskEnded, TaskStarted
from aicp.model.outcome import TaskError
from aicp.model.task import OnFailure, Priority, Task, TaskResult, TaskStatus
from aicp.storage.rows import (
    INLINE_BYTES_MAX,
    decode_facts,
    decode_outline,
    encode_facts,
    encode_submitted,
    timestamp,
)
from tests.unit.sqlite_kit import AT, chain_ended, submitted, task_ended

FULL_TASK = Task(
    "image.label@2", {"image": {"$result": "fetch", "path": "/image"}, "ü": [1, 2.5, None, True, 10**30]}, id="label",
    depends_on=("fetch",), on_failure=OnFailure({"faces": []}), priority=Priority.LOW, timeout_s=3.0, deadline_s=9.5,
    idempotent=False, labels={"zone": "a"}, agents=("a1",), exclude_agents=("a2",),
)  # fmt: skip


def read_back(facts: list[Fact]) -> list[Fact]:
    rows = encode_facts(facts)
    bodies = {row.digest: row.body for row in rows.results}
    large = {position: bodies[row.digest].encode() for position, row in enumerate(rows.facts) if row.digest is not None}
    return decode_facts([row.fact.encode() for row in rows.facts], large)


def test_submit_with_every_field_reads_back_as_it_was() -> None:
    spec = ChainSpec((Task("image.fetch", id="fetch"), FULL_TASK), "näme", 7.0, FailurePolicy.CONTINUE)
    fact = ChainSubmitted("c1", spec, AT, "tenant", "c0")
    assert decode_facts([encode_submitted(fact).fact.encode()], {}) == [fact]


def test_every_kind_of_fact_reads_back_as_it_was() -> None:
    failed = TaskResult("c1.b", "x.y", TaskStatus.FAILED, error=TaskError("boom", "it broke"), ready_at=AT)
    facts: list[Fact] = [
        TaskStarted("c1", "a", AT),
        task_ended("c1", "a", {"deep": [{"ü": "\x00\n"}], "big": 2**64}),
        TaskEnded("c1", "b", failed),
        ChainCancelled("c1", AT),
        ChainEnded("c1", TaskStatus.CANCELLED, AT, TaskError("cancelled", "by you")),
    ]
    assert read_back(facts) == facts


ROWS_OF_REVISION_0009 = (
    (
        '{"kind":"chain_submitted","chain_id":"c1","spec":{"tasks":[{"capability":"x.y","id":"a"}]},'
        '"at":"2026-01-01T12:00:00Z","tenant":"default","retry_of":null,"traceparent":null,"key_id":""}'
    ),
    '{"kind":"task_started","chain_id":"c1","task":"a","at":"2026-01-01T12:00:00Z"}',
    (
        '{"kind":"task_ended","chain_id":"c1","task":"a","result":{"task_id":"c1.a","capability":"x.y","status":"SKIPPED",'
        '"result":null,"error":null,"agent_id":null,"attempts":[],"ready_at":null,"started_at":null,"ended_at":null}}'
    ),
    '{"kind":"chain_cancelled","chain_id":"c1","at":"2026-01-01T12:00:00Z"}',
    '{"kind":"chain_ended","chain_id":"c1","status":"COMPLETED","at":"2026-01-01T12:00:00Z","error":null}',
)
"""What that revision wrote of facts, none of which has what came later."""


def test_facts_without_what_came_later_are_the_bytes_that_they_were() -> None:
    submitted = ChainSubmitted("c1", ChainSpec((Task("x.y", id="a"),)), AT)
    facts: list[Fact] = [
        submitted, TaskStarted("c1", "a", AT), TaskEnded("c1", "a", TaskResult("c1.a", "x.y", TaskStatus.SKIPPED)),
        ChainCancelled("c1", AT), ChainEnded("c1", TaskStatus.COMPLETED, AT),
    ]  # fmt: skip
    written = [encode_submitted(submitted).fact, *(row.fact for row in encode_facts(facts[1:]).facts)]
    assert tuple(written) == ROWS_OF_REVISION_0009
    assert decode_facts([row.encode() for row in ROWS_OF_REVISION_0009], {}) == facts


def test_fields_that_this_version_does_not_know_are_passed_over() -> None:
    (row,) = encode_facts([TaskStarted("c1", "a", AT)]).facts
    newer = row.fact.replace("{", '{"mood":{"good":[1]},', 1).encode()
    assert decode_facts([newer], {}) == [decode_outline(newer)] == [TaskStarted("c1", "a", AT)]


def test_facts_are_json_that_a_person_can_read() -> None:
    (row,) = encode_facts([task_ended("c1", "a", {"faces": 2})]).facts
    assert json.loads(row.fact)["kind"] == "task_ended"
    assert json.loads(row.fact)["result"]["result"] == {"faces": 2}


@pytest.mark.parametrize("result", ["x" * (INLINE_BYTES_MAX + 1), ["ü" * INLINE_BYTES_MAX], {"a": "x" * 10**6}])
def test_result_over_64_kib_stands_apart_and_reads_back_whole(result: object) -> None:
    facts: list[Fact] = [task_ended("c1", "a", 1), task_ended("c1", "b", result), task_ended("c1", "c", 3)]
    rows = encode_facts(facts)
    assert [row.digest is not None for row in rows.facts] == [False, True, False]
    assert all(len(row.fact) < 1_000 for row in rows.facts)
    assert rows.results[0].digest == hashlib.sha256(rows.results[0].body.encode()).digest()
    assert read_back(facts) == facts


def test_result_of_64_kib_stays_with_its_fact() -> None:
    quotes = len('""')
    rows = encode_facts([task_ended("c1", "a", "x" * (INLINE_BYTES_MAX - quotes))])
    assert rows.results == ()
    assert encode_facts([task_ended("c1", "a", "x" * (INLINE_BYTES_MAX - quotes + 1))]).results != ()


@pytest.mark.parametrize("result", [object(), {(1, 2): 3}, "\ud800"])
def test_what_json_cannot_hold_is_refused_in_a_sentence(result: object) -> None:
    with pytest.raises(StorageError, match=r"^Chain c1 holds what cannot be recorded as JSON: .*\.$"):
        encode_facts([task_ended("c1", "a", result)])


def test_nesting_without_end_is_refused_in_a_sentence() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(StorageError, match="cannot be recorded as JSON"):
        encode_facts([task_ended("c1", "a", nested)])
    while nested:
        # Taken apart by hand: to free it all at once would go as deep.
        nested = nested.pop()  # type: ignore[assignment] # it is lists all the way down


def test_facts_of_two_chains_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="one chain at a time"):
        encode_facts([task_ended("c1", "a"), task_ended("c2", "a")])


def test_chain_reads_running_once_a_task_ended_and_as_it_ended_after_that() -> None:
    assert encode_facts([TaskStarted("c1", "a", AT)]).status is None
    assert encode_facts([task_ended("c1", "a")]).status is TaskStatus.RUNNING
    ended = encode_facts([task_ended("c1", "a"), chain_ended("c1", status=TaskStatus.FAILED)])
    assert (ended.status, ended.ended_at) == (TaskStatus.FAILED, "2026-01-01T12:00:00.000000Z")


def test_timestamps_sort_as_the_times_do() -> None:
    east = timezone(timedelta(hours=5))
    times = [
        AT,
        AT + timedelta(microseconds=1),
        AT.astimezone(east) + timedelta(seconds=1),
        datetime(9999, 1, 1, tzinfo=UTC),
    ]
    written = [timestamp(at) for at in times]
    assert written == sorted(written)
    assert {len(text) for text in written} == {27}


def test_size_counts_facts_and_large_results() -> None:
    small = encode_facts([task_ended("c1", "a")]).size
    large = encode_facts([task_ended("c1", "a", "x" * 10**6)]).size
    assert 200 < small < 1_000
    assert 10**6 < large < 10**6 + 1_000
    assert len(encode_submitted(submitted("c1")).fact) > 50
