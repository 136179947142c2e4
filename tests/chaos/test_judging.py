"""The judge of the siege finds every broken promise: each test breaks one in a history where all were kept."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from aicp.model.chain import ChainSpec
from aicp.model.event import ChainCancelled, ChainEnded, ChainSubmitted, Fact, TaskEnded, TaskStarted
from aicp.model.outcome import TaskError
from aicp.model.task import TaskResult, TaskStatus
from aicp.model.validation import parse_chain
from aicp.ports import ChainRecord
from tests.chaos.executions import Execution
from tests.chaos.history import History, Ordered, Strike
from tests.chaos.load import LOST
from tests.chaos.verdict import breaches

CHAIN = "chain"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
COMPLETED, CANCELLED, FAILED = TaskStatus.COMPLETED, TaskStatus.CANCELLED, TaskStatus.FAILED
UNKNOWN = TaskError("outcome_unknown", "whether it was done is unknown")


def at(second: float) -> datetime:
    return BEGAN + timedelta(seconds=second)


def spec() -> ChainSpec:
    """`b` reads `a`, `c` waits for `b`; `once` must not be done twice."""
    read = {"a": {"$result": "a", "path": "/execution"}}
    tasks = [
        {"id": "a", "capability": "work", "params": {"given": {}}},
        {"id": "b", "capability": "work", "params": {"given": read}},
        {"id": "c", "capability": "work", "params": {"given": {}}, "depends_on": ["b"]},
        {"id": "once", "capability": "work", "params": {"given": {}}, "idempotent": False},
    ]
    return parse_chain({"name": "order", "tasks": tasks})


def execution(name: str, task: str, epoch: int, began: float, ended: float | None, **given: str) -> Execution:
    return Execution(name, f"{CHAIN}.{task}", (epoch, 1), given, began, at(began), ended)


def ended(task: str, execution_id: str, second: float) -> TaskEnded:
    result = TaskResult(f"{CHAIN}.{task}", "work", COMPLETED, {"execution": execution_id}, ended_at=at(second))
    return TaskEnded(CHAIN, task, result)


def failed(task: str, error: TaskError | None, second: float, status: TaskStatus = FAILED) -> TaskEnded:
    return TaskEnded(CHAIN, task, TaskResult(f"{CHAIN}.{task}", "work", status, error=error, ended_at=at(second)))


# `b` was in flight at the kill of second 4, and so done again.
EXECUTIONS = (
    execution("a1", "a", 1, 1, 2),
    execution("once1", "once", 1, 1.5, 2),
    execution("b1", "b", 1, 3, 3.9, a="a1"),
    execution("b2", "b", 2, 5, 6, a="a1"),
    execution("c1", "c", 2, 7, 8),
)
FACTS: tuple[Fact, ...] = (
    TaskStarted(CHAIN, "once", at(1.4)),
    ended("a", "a1", 2.1),
    ended("once", "once1", 2.1),
    ended("b", "b2", 6.1),
    ended("c", "c1", 8.1),
    ChainEnded(CHAIN, COMPLETED, at(8.2)),
)
STRIKES = (Strike(4, 4.1, at(4.1)),)


def judged(
    *,
    executions: Sequence[Execution] = EXECUTIONS,
    facts: Sequence[Fact] = FACTS,
    strikes: Sequence[Strike] = STRIKES,
    recorded_spec: ChainSpec | None = None,
    is_recorded: bool = True,
    **order: object,
) -> list[str]:
    told = {"chain_ids": {CHAIN}, "seen": {"a": {("COMPLETED", "a1")}}, "status": COMPLETED, **order}
    record = ChainRecord(ChainSubmitted(CHAIN, recorded_spec or spec(), at(0)), tuple(facts), 2)
    records = {CHAIN: record} if is_recorded else {}
    return breaches(History([msgspec.structs.replace(Ordered("order", spec()), **told)], strikes, executions, records))


def replaced(old: Fact, new: Fact) -> tuple[Fact, ...]:
    return tuple(new if fact is old else fact for fact in FACTS)


def without(*gone: Execution) -> tuple[Execution, ...]:
    return tuple(each for each in EXECUTIONS if each not in gone)


A, ONCE, B1, B2, C = EXECUTIONS
STARTED, A_ENDED, ONCE_ENDED, B_ENDED, C_ENDED, CHAIN_ENDED = FACTS


def test_history_in_which_all_promises_were_kept_is_acquitted() -> None:
    assert judged() == []


def test_start_of_what_must_not_be_done_twice_may_be_cut_off_by_a_kill() -> None:
    unknown = failed("once", UNKNOWN, 4.5)
    assert judged(facts=replaced(ONCE_ENDED, unknown), executions=EXECUTIONS) == []
    assert judged(facts=replaced(ONCE_ENDED, unknown), executions=without(ONCE)) == []


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        ("acknowledged and is lost", {"is_recorded": False}),
        ("2 chains for one key", {"chain_ids": {CHAIN, "another"}}),
        ("nobody was told of it", {"chain_ids": {"another"}}),
        ("as something else", {"recorded_spec": parse_chain({"tasks": [{"id": "a", "capability": "work"}]})}),
        ("has 0 ends", {"facts": FACTS[:-1]}),
        ("its last fact is TaskStarted", {"facts": (*FACTS, STARTED)}),
        ("two ends of one task", {"facts": (ended("a", "a1", 2.0), *FACTS)}),
        ("without an end of ['c']", {"facts": (*FACTS[:4], CHAIN_ENDED)}),
        ("the customer was told FAILED", {"status": FAILED}),
        ("c ended FAILED", {"facts": replaced(C_ENDED, failed("c", UNKNOWN, 8.1))}),
        ("once ended FAILED", {"facts": replaced(ONCE_ENDED, failed("once", UNKNOWN, 4.5)), "strikes": ()}),
        ("execution that nobody knows", {"executions": without(C)}),
        ("an execution of it began at", {"executions": (*EXECUTIONS, execution("a2", "a", 2, 5, 6))}),
        ("c began before b had ended", {"executions": (*without(C), execution("c1", "c", 2, 5.5, 8))}),
        ("that is not the one on record", {"executions": (*without(B1), execution("b0", "b", 1, 3, 3.9, a="a0"))}),
        ("nothing was struck in between", {"strikes": ()}),
        ("run twice by one owner", {"executions": (*without(B2), execution("b2", "b", 1, 5, 6, a="a1"))}),
        ("must not be run twice and was run 2", {"executions": (*EXECUTIONS, execution("x", "once", 2, 5, 6))}),
        ("has 0 starts on record", {"facts": FACTS[1:]}),
        ("after epoch 2", {"executions": (*without(C), execution("c1", "c", 1, 7, 8))}),
        ("not on record as such", {"cancelled_at": 9.0}),
        ("was shown as ('COMPLETED', 'a0')", {"seen": {"a": {("COMPLETED", "a0")}}}),
    ],
)
def test_broken_promise_is_found(told: str, changes: dict[str, Any]) -> None:
    assert any(told in breach for breach in judged(**changes))


def test_token_that_falls_is_found() -> None:
    swapped = (A, ONCE, execution("b1", "b", 2, 3, 3.9, a="a1"), execution("b2", "b", 1, 6.5, 6.9, a="a1"), C)
    assert any("b: token (1, 1) after (2, 1)" in breach for breach in judged(executions=swapped))


def test_what_a_struck_owner_had_sent_may_begin_when_its_successor_has_gone_on_but_only_at_once() -> None:
    straggling, late = (execution("b0", "b", 1, second, second + 0.5, a="a1") for second in (5.5, 6.5))
    assert judged(executions=(A, ONCE, B2, straggling, C)) == []
    assert judged(executions=(A, ONCE, B2, late, C)) != []
    assert judged(executions=(A, ONCE, B2, straggling, C), strikes=()) != []


def test_what_a_struck_owner_had_sent_and_must_not_be_done_twice_may_begin_when_its_outcome_was_given_up() -> None:
    given_up = replaced(ONCE_ENDED, failed("once", UNKNOWN, 4.5))
    straggling = execution("once2", "once", 1, 5, 6)
    assert judged(facts=given_up, executions=(*without(ONCE), straggling)) == []
    twice = judged(facts=given_up, executions=(*EXECUTIONS, straggling))
    assert any("must not be run twice and was run 2" in breach for breach in twice)


def test_cancelled_chain_has_no_more_executions_once_that_is_confirmed() -> None:
    cut_off = failed("b", TaskError("cancelled", "cut off"), 4.0, CANCELLED)
    facts = (STARTED, A_ENDED, ONCE_ENDED, cut_off, ChainCancelled(CHAIN, at(4)), ChainEnded(CHAIN, CANCELLED, at(4)))
    kept: dict[str, Any] = {"facts": facts, "cancelled_at": 4.0, "status": CANCELLED, "seen": {"c": {("SKIPPED", "")}}}
    assert judged(executions=without(B2, C), **kept) == []
    late = (*without(B2, C), execution("b2", "b", 2, 6.5, 7, a="a1"))
    assert any("after the cancel was confirmed" in breach for breach in judged(executions=late, **kept))


def test_dependent_of_a_lost_outcome_is_given_the_default() -> None:
    chain = parse_chain(
        {
            "name": "order",
            "tasks": [
                {"id": "once", "capability": "work", "params": {"given": {}}, "idempotent": False},
                {"id": "b", "capability": "work", "params": {"given": {"once": {"$result": "once"}}}},
            ],
        }
    )
    facts = (
        TaskStarted(CHAIN, "once", at(1)),
        failed("once", UNKNOWN, 4.5),
        ended("b", "b1", 6.1),
        ChainEnded(CHAIN, COMPLETED, at(7)),
    )
    history: dict[str, Any] = {"facts": facts, "spec": chain, "recorded_spec": chain, "seen": {}}
    started = execution("once1", "once", 1, 1.5, None)
    given = execution("b1", "b", 2, 5, 6, once=LOST)
    assert judged(executions=(started, given), **history) == []
    other = execution("b1", "b", 2, 5, 6, once="once1")
    assert any("not the one on record" in breach for breach in judged(executions=(started, other), **history))
