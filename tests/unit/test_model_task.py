"""Tasks, their states and what travels with an attempt, as values (sections 1, 4 and 5)."""

import gc
import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from aicp.model.chain import ChainSpec
from aicp.model.event import ChainCancelled, ChainEnded, ChainSubmitted, Fact, TaskEnded, TaskStarted
from aicp.model.outcome import Outcome, TaskError
from aicp.model.task import (
    DEADLINE_S_MAX,
    DEFAULT_ATTEMPT_TIMEOUT_S,
    DEFAULT_TASK_DEADLINE_S,
    Attempt,
    Call,
    OnFailure,
    Priority,
    Task,
    TaskResult,
    TaskStatus,
)

NINE_OUTCOMES = [
    "SUCCESS",
    "TASK_FAILED",
    "CALLER_FAULT",
    "OVERLOADED",
    "UNAVAILABLE",
    "AGENT_FAULT",
    "MISCONFIGURED",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
]


def test_four_states_are_terminal() -> None:
    terminal = [status for status in TaskStatus if status.is_terminal]
    assert terminal == [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.SKIPPED]
    assert [status for status in TaskStatus if not status.is_terminal] == [TaskStatus.PENDING, TaskStatus.RUNNING]


def test_an_attempt_ends_in_one_of_nine_ways() -> None:
    assert [str(outcome) for outcome in Outcome] == NINE_OUTCOMES


def test_defaults_are_a_minute_an_attempt_and_ten_a_task() -> None:
    assert (DEFAULT_ATTEMPT_TIMEOUT_S, DEFAULT_TASK_DEADLINE_S) == (60.0, 600.0)
    task = Task("nlp")
    assert (task.timeout_s, task.deadline_s, task.idempotent, task.priority) == (None, None, True, Priority.NORMAL)
    assert DEADLINE_S_MAX == 366 * 24 * 3_600


def test_the_fencing_token_is_epoch_and_attempt_in_decimal() -> None:
    assert Call("c.fetch", "image.fetch", {}, attempt=12, epoch=3).fencing_token == "3.12"
    assert Call("c.fetch", "image.fetch", {}).fencing_token == "1.1"


@pytest.mark.parametrize(
    "value", [Task("nlp"), OnFailure(None), Call("c.t", "nlp", {}), TaskError("boom", "It broke.")], ids=str
)
def test_values_are_frozen(value: Any) -> None:
    for field in value.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(value, field, None)


def test_a_task_is_written_without_what_it_leaves_to_the_defaults() -> None:
    assert msgspec.json.encode(Task("nlp", {"text": "hi"})) == b'{"capability":"nlp","params":{"text":"hi"}}'


def test_the_default_of_a_failed_task_is_called_continue() -> None:
    assert msgspec.json.encode(OnFailure([1])) == b'{"continue":[1]}'
    assert msgspec.json.decode(b'{"continue":null}', type=OnFailure) == OnFailure(None)


@pytest.mark.parametrize("document", [b"{}", b'{"capability":"nlp","prams":{}}', b'{"capability":"nlp","params":[]}'])
def test_a_document_that_is_no_task_is_refused(document: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(document, type=Task)


def test_params_left_out_are_not_shared_between_tasks() -> None:
    one, other = Task("nlp"), Task("nlp")
    one.params["changed"] = True
    assert other.params == {}


@pytest.mark.parametrize("status", [status for status in TaskStatus if status.is_terminal])
def test_a_result_survives_being_written_and_read_again(status: TaskStatus) -> None:
    error = None if status is TaskStatus.COMPLETED else TaskError("boom", "It broke.")
    result = TaskResult("c.fetch", "image.fetch", status, result={"n": [1, None]}, error=error, agent_id="eyes-1")
    assert msgspec.json.decode(msgspec.json.encode(result), type=TaskResult) == result


def test_priorities_are_three_words() -> None:
    assert [str(priority) for priority in Priority] == ["high", "normal", "low"]


def test_equal_tasks_are_equal_however_they_were_made() -> None:
    made = [
        Task("nlp", {"a": [1]}, timeout_s=5.0),
        msgspec.json.decode(b'{"capability":"nlp","params":{"a":[1]},"timeout_s":5}', type=Task),
        msgspec.convert({"capability": "nlp", "params": {"a": [1]}, "timeout_s": 5}, Task),
    ]
    assert all(one == other for one, other in itertools.combinations(made, 2))


def test_facts_say_what_kind_they_are() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    facts: list[Fact] = [
        ChainSubmitted("c", ChainSpec((Task("nlp", id="read"),)), at),
        TaskStarted("c", "read", at),
        TaskEnded("c", "read", TaskResult("c.read", "nlp", TaskStatus.COMPLETED, result=7)),
        ChainCancelled("c", at),
        ChainEnded("c", TaskStatus.COMPLETED, at),
    ]
    for fact in facts:
        written = msgspec.json.encode(fact)
        assert msgspec.json.decode(written)["kind"] == type(fact).__struct_config__.tag
        assert msgspec.json.decode(written, type=Fact) == fact


def test_what_is_made_for_each_attempt_is_none_of_the_garbage_collectors_business() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    attempt = Attempt("eyes", 1, Outcome.SUCCESS, "", at, at)
    result = TaskResult("c.t", "nlp", TaskStatus.COMPLETED, {"words": ["a"]}, attempts=(attempt,))
    made = [attempt, result, TaskEnded("c", "t", result), Call("c.t", "nlp", {"words": ["a"]})]
    assert not any(map(gc.is_tracked, made))
