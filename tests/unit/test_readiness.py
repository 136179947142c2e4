"""What of a chain may run now: a pure fold of facts, against a plain reading of the rules."""

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicp.coordination.readiness import Readiness
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import ChainCancelled, ChainEnded, Fact, TaskEnded
from aicp.model.outcome import TaskError
from aicp.model.task import OnFailure, Task, TaskResult, TaskStatus
from aicp.model.validation import check_chain
from tests.unit.flow_kit import ECHO

AT = datetime(2026, 1, 1, tzinfo=UTC)
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
SKIPPED, PENDING, RUNNING = TaskStatus.SKIPPED, TaskStatus.PENDING, TaskStatus.RUNNING
FAST, ON = FailurePolicy.FAIL_FAST, FailurePolicy.CONTINUE


def chain(edges: dict[str, str], policy: FailurePolicy = FAST, defaults: tuple[str, ...] = ()) -> Readiness:
    """A chain from `{"c": "a b"}`: c waits for a and b; tasks named in `defaults` have an `on_failure`."""
    return Readiness(check_chain(ChainSpec(tuple(make_tasks(edges, defaults)), failure_policy=policy)))


def make_tasks(edges: dict[str, str], defaults: tuple[str, ...]) -> list[Task]:
    return [
        Task(
            ECHO, id=name, depends_on=tuple(awaited.split()), on_failure=OnFailure("else") if name in defaults else None
        )
        for name, awaited in edges.items()
    ]


def ended(task: str, status: TaskStatus = COMPLETED, result: Any = None) -> TaskEnded:
    error = TaskError("broken", "it broke") if status is FAILED else None
    return TaskEnded("chain", task, TaskResult(f"chain.{task}", ECHO, status, result, error))


DIAMOND = {"a": "", "b": "a", "c": "a", "d": "b c"}


class TestReady:
    def test_at_first_whoever_waits_for_nobody_is_ready(self) -> None:
        assert chain({"a": "", "b": "", "c": "a"}).ready() == ["a", "b"]

    def test_a_task_is_ready_the_moment_its_last_dependency_ended(self) -> None:
        readiness = chain(DIAMOND)
        assert readiness.apply(ended("a")) == ["b", "c"]
        assert readiness.apply(ended("c")) == []
        assert readiness.apply(ended("b")) == ["d"]
        assert readiness.ready() == ["d"]
        assert not readiness.is_over()
        readiness.apply(ended("d"))
        assert readiness.is_over()
        assert readiness.verdict == (COMPLETED, None)

    def test_there_are_no_levels(self) -> None:
        readiness = chain({"a": "", "b": "", "after-a": "a", "after-b": "b"})
        assert readiness.apply(ended("a")) == ["after-a"]

    def test_a_fact_that_comes_twice_changes_nothing(self) -> None:
        readiness = chain(DIAMOND)
        readiness.apply(ended("a"))
        assert readiness.apply(ended("a")) == []
        assert readiness.apply(ended("a", FAILED)) == []
        assert readiness.status_of("a") is COMPLETED
        assert not readiness.is_over()


class TestFailure:
    def test_fail_fast_stops_everything(self) -> None:
        readiness = chain({"a": "", "b": "", "c": "b"})
        assert readiness.apply(ended("a", FAILED)) == []
        assert readiness.is_over()
        assert readiness.ready() == []
        assert readiness.apply(ended("b")) == []
        assert readiness.status_of("c") is SKIPPED
        status, error = readiness.verdict
        assert status is FAILED
        assert error is not None
        assert "'a' failed: it broke" in error.message

    def test_continue_skips_dependents_and_theirs_and_lets_the_others_run(self) -> None:
        readiness = chain({"a": "", "b": "a", "c": "b", "x": "", "y": "x"}, ON)
        readiness.apply(ended("a", FAILED))
        assert [readiness.status_of(task) for task in "abcxy"] == [FAILED, SKIPPED, SKIPPED, PENDING, PENDING]
        assert readiness.ready() == ["x"]
        assert readiness.apply(ended("x")) == ["y"]
        assert not readiness.is_over()
        readiness.apply(ended("y"))
        assert readiness.is_over()
        assert readiness.verdict[0] is FAILED

    def test_a_skipped_task_stays_skipped_when_its_other_dependency_completes(self) -> None:
        readiness = chain({"a": "", "b": "", "c": "a b"}, ON)
        readiness.apply(ended("a", FAILED))
        assert readiness.apply(ended("b")) == []
        assert readiness.status_of("c") is SKIPPED

    @pytest.mark.parametrize("policy", [FAST, ON])
    def test_with_a_default_dependents_run_on_it_and_the_chain_completes(self, policy: FailurePolicy) -> None:
        readiness = chain({"a": "", "b": "a"}, policy, defaults=("a",))
        assert readiness.apply(ended("a", FAILED)) == ["b"]
        assert readiness.status_of("a") is FAILED
        assert readiness.output_of("a") == "else"
        readiness.apply(ended("b"))
        assert readiness.verdict == (COMPLETED, None)

    def test_without_failing_the_default_is_not_used(self) -> None:
        readiness = chain({"a": "", "b": "a"}, defaults=("a",))
        readiness.apply(ended("a", result="real"))
        assert readiness.output_of("a") == "real"

    def test_a_cancelled_task_skips_its_dependents(self) -> None:
        readiness = chain({"a": "", "b": "a", "x": ""}, ON)
        readiness.apply(ended("a", CANCELLED))
        assert readiness.status_of("b") is SKIPPED
        assert readiness.ready() == ["x"]


class TestStops:
    def test_a_cancelled_chain_starts_nothing_any_more(self) -> None:
        readiness = chain(DIAMOND)
        readiness.apply(ended("a"))
        readiness.apply(ChainCancelled("chain", AT))
        assert readiness.ready() == []
        assert readiness.is_over()
        assert readiness.status_of("a") is COMPLETED
        assert readiness.status_of("b") is CANCELLED
        assert readiness.verdict == (CANCELLED, None)

    def test_a_cancelled_chain_is_cancelled_even_if_a_task_had_failed(self) -> None:
        readiness = chain({"a": "", "b": ""}, ON)
        readiness.apply(ended("a", FAILED))
        readiness.apply(ChainCancelled("chain", AT))
        assert readiness.verdict[0] is CANCELLED

    def test_an_ended_chain_keeps_its_status(self) -> None:
        readiness = chain(DIAMOND)
        readiness.apply(ChainEnded("chain", FAILED, AT, TaskError("deadline_exceeded", "too late")))
        assert readiness.status_of_chain() is FAILED
        assert readiness.ready() == []
        assert readiness.status_of("d") is SKIPPED


class TestStatus:
    def test_pending_running_and_ended_depend_on_facts_and_on_what_is_in_flight(self) -> None:
        readiness = chain(DIAMOND)
        assert readiness.status_of_chain() is PENDING
        assert readiness.status_of_chain({"a": ()}) is RUNNING
        assert readiness.status_of("a") is PENDING
        assert readiness.status_of("a", {"a": ()}) is RUNNING
        readiness.apply(ended("a"))
        assert readiness.status_of_chain() is RUNNING
        assert readiness.status_of("a", {"a": ()}) is COMPLETED


class Reading:
    """The rules of section 5, read aloud: slow, and each rule once."""

    def __init__(self, spec: ChainSpec) -> None:
        self.tasks = {task.id: task for task in spec.tasks}
        self.policy = spec.failure_policy
        self.statuses: dict[str, TaskStatus] = {}
        self.cancelled = False

    def failed_for_good(self, name: str) -> bool:
        return self.statuses.get(name) is FAILED and self.tasks[name].on_failure is None

    def stopped(self) -> bool:
        return self.cancelled or (self.policy is FAST and any(map(self.failed_for_good, self.tasks)))

    def skipped(self, name: str) -> bool:
        awaited = self.tasks[name].depends_on
        return name not in self.statuses and any(
            self.failed_for_good(each) or self.statuses.get(each) is CANCELLED or self.skipped(each) for each in awaited
        )

    def usable(self, name: str) -> bool:
        return self.statuses.get(name) is COMPLETED or (
            self.statuses.get(name) is FAILED and not self.failed_for_good(name)
        )

    def ready(self) -> list[str]:
        if self.stopped():
            return []
        waiting = (name for name in self.tasks if name not in self.statuses)
        return [name for name in waiting if all(map(self.usable, self.tasks[name].depends_on))]

    def over(self) -> bool:
        return self.stopped() or all(name in self.statuses or self.skipped(name) for name in self.tasks)

    def status_of(self, name: str) -> TaskStatus:
        if name in self.statuses:
            return self.statuses[name]
        if self.cancelled:
            return CANCELLED
        return SKIPPED if self.stopped() or self.skipped(name) else PENDING

    def verdict(self) -> TaskStatus:
        if self.cancelled:
            return CANCELLED
        return FAILED if any(map(self.failed_for_good, self.tasks)) else COMPLETED


def random_spec(draw: random.Random, size: int) -> ChainSpec:
    tasks = []
    for number in range(size):
        awaited = draw.sample(range(number), k=min(number, draw.choice([0, 0, 1, 1, 2, 3])))
        default = OnFailure("else") if draw.random() < 0.2 else None
        tasks.append(Task(ECHO, id=f"t{number}", depends_on=tuple(f"t{each}" for each in awaited), on_failure=default))
    draw.shuffle(tasks)
    return ChainSpec(tuple(tasks), failure_policy=draw.choice([FAST, ON]))


@settings(max_examples=100, derandomize=True)
@given(st.randoms(use_true_random=False), st.integers(1, 16))
def test_any_chain_agrees_with_a_plain_reading_of_the_rules_after_every_fact(draw: random.Random, size: int) -> None:
    spec = random_spec(draw, size)
    readiness, reading = Readiness(check_chain(spec)), Reading(spec)
    facts: list[Fact] = []
    while not reading.over():
        assert set(readiness.ready()) == set(reading.ready())
        assert not readiness.is_over()
        before = set(readiness.ready())
        if draw.random() < 0.02:
            reading.cancelled = True
            facts.append(ChainCancelled("chain", AT))
            readiness.apply(facts[-1])
        else:
            name = draw.choice(reading.ready())
            status = draw.choices([COMPLETED, FAILED, CANCELLED], weights=[8, 2, 0.3])[0]
            reading.statuses[name] = status
            facts.append(ended(name, status))
            freed = readiness.apply(facts[-1])
            assert set(freed) == set(reading.ready()) - before
        for each in reading.tasks:
            assert readiness.status_of(each) is reading.status_of(each)
    assert readiness.is_over()
    assert readiness.ready() == []
    assert readiness.verdict[0] is reading.verdict()
    again = Readiness(check_chain(spec))
    for fact in facts:
        again.apply(fact)
    assert {each: again.status_of(each) for each in reading.tasks} == {
        each: reading.status_of(each) for each in reading.tasks
    }
    assert again.verdict == readiness.verdict
