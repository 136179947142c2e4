"""Facts of attempts, items, questions and stops: folded as the table says, and the same after a crash at each."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicp.coordination.chain_status import facts_once, fold
from aicp.coordination.readiness import Readiness
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.fact import (
    AnswerGiven,
    AttemptAccepted,
    ChainCancelled,
    ChainEnded,
    ChainStopped,
    ChainSubmitted,
    Fact,
    QuestionAsked,
    TaskEnded,
    TaskExpanded,
    TaskStarted,
)
from aicp.model.outcome import TaskError
from aicp.model.run_id import run_of, task_of
from aicp.model.task import OnFailure, Phase, Task, TaskResult, TaskStatus
from aicp.model.validation import check_chain
from aicp.ports import ChainRecord
from aicp.storage.rows import decode_facts, decode_outline, encode_facts
from tests.unit.flow_kit import ECHO

AT = datetime(2026, 1, 1, tzinfo=UTC)
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
SKIPPED, PENDING, RUNNING = TaskStatus.SKIPPED, TaskStatus.PENDING, TaskStatus.RUNNING


def chain(edges: dict[str, str], once: str = "") -> Readiness:
    """A chain from `{"c": "a b"}`: c waits for a and b; tasks named in `once` are not idempotent."""
    tasks = [
        Task(ECHO, id=name, depends_on=tuple(awaited.split()), idempotent=name not in once.split())
        for name, awaited in edges.items()
    ]
    return Readiness(check_chain(ChainSpec(tuple(tasks))))


def started(run: str, number: int = 1) -> TaskStarted:
    return TaskStarted("chain", run, AT, number, "agent")


def accepted(run: str, number: int = 1) -> AttemptAccepted:
    return AttemptAccepted("chain", run, number, "agent", "boot", "job-7", AT)


def asked(run: str, key: str = "q", number: int = 1) -> QuestionAsked:
    return QuestionAsked("chain", run, number, key, "Which one?", AT)


def answered(run: str, key: str = "q", number: int = 1, value: Any = "this") -> AnswerGiven:
    return AnswerGiven("chain", run, number, key, AT, value, by="key")


def ended(run: str, status: TaskStatus = COMPLETED) -> TaskEnded:
    error = TaskError("broken", "it broke") if status is FAILED else None
    return TaskEnded("chain", run, TaskResult(f"chain.{run}", ECHO, status, error=error))


class TestStarts:
    def test_only_a_task_that_is_not_idempotent_is_never_sent_again(self) -> None:
        readiness = chain({"a": "", "b": ""}, once="b")
        for task in "ab":
            readiness.apply(started(task))
        assert readiness.ready() == ["a"]
        assert readiness.left_started() == ["b"]
        assert [readiness.status_of(task) for task in "ab"] == [RUNNING, RUNNING]

    def test_numbers_go_on_from_the_highest_on_record(self) -> None:
        readiness = chain({"a": ""})
        assert readiness.attempts_on_record("a") == 0
        for fact in (started("a"), started("a", 4), accepted("a", 3)):
            readiness.apply(fact)
        assert readiness.attempts_on_record("a") == 4


class TestItems:
    def test_items_are_ready_in_place_of_their_task(self) -> None:
        readiness = chain({"a": "", "b": "a"})
        assert readiness.apply(TaskExpanded("chain", "a", 3, AT)) == ["a.0", "a.1", "a.2"]
        assert readiness.apply(TaskExpanded("chain", "a", 3, AT)) == []
        assert readiness.apply(ended("a.1")) == []
        assert readiness.ready() == ["a.0", "a.2"]
        assert readiness.status_of("a") is RUNNING
        assert readiness.status_of_chain() is RUNNING
        assert not readiness.is_over()

    def test_a_task_ends_by_a_fact_of_its_own(self) -> None:
        readiness = chain({"a": "", "b": "a"})
        readiness.apply(TaskExpanded("chain", "a", 1, AT))
        readiness.apply(ended("a.0", FAILED))
        assert readiness.status_of("b") is PENDING
        assert readiness.apply(ended("a")) == ["b"]

    def test_an_item_that_must_be_sent_once_only_is_left_to_its_owner(self) -> None:
        readiness = chain({"a": ""}, once="a")
        readiness.apply(TaskExpanded("chain", "a", 2, AT))
        readiness.apply(started("a.0"))
        assert (readiness.ready(), readiness.left_started()) == (["a.1"], ["a.0"])
        readiness.apply(ended("a.0"))
        assert readiness.left_started() == []

    def test_an_empty_list_has_no_items(self) -> None:
        readiness = chain({"a": ""})
        assert readiness.apply(TaskExpanded("chain", "a", 0, AT)) == []
        assert readiness.ready() == []


class TestAcceptedAndAsked:
    def test_what_an_agent_accepted_is_asked_for_and_not_sent(self) -> None:
        readiness = chain({"a": ""}, once="a")
        readiness.apply(started("a"))
        readiness.apply(accepted("a"))
        assert (readiness.ready(), readiness.left_started()) == ([], [])
        assert readiness.attached() == [accepted("a")]
        assert (readiness.status_of("a"), readiness.phase_of("a")) == (RUNNING, Phase.ACCEPTED)

    def test_a_later_attempt_takes_its_place(self) -> None:
        readiness = chain({"a": ""}, once="a")
        for fact in (accepted("a"), asked("a"), started("a", 2)):
            readiness.apply(fact)
        assert readiness.attached() == []
        assert readiness.left_started() == ["a"]
        assert readiness.phase_of("a") is None

    def test_a_question_stands_until_its_answer(self) -> None:
        readiness = chain({"a": "", "b": "a"})
        for fact in (accepted("a"), asked("a", "one"), asked("a", "two"), answered("a", "one")):
            readiness.apply(fact)
        assert readiness.phase_of("a") is Phase.INPUT_REQUIRED
        assert readiness.phase_of("b") is Phase.WAITING
        readiness.apply(answered("a", "two"))
        assert readiness.phase_of("a") is Phase.ACCEPTED

    def test_the_first_answer_counts(self) -> None:
        readiness = chain({"a": ""})
        for fact in (asked("a"), answered("a"), answered("a", value="other"), asked("a")):
            readiness.apply(fact)
        opened = readiness.open_runs.runs.get("a")
        assert opened is not None
        assert opened.answers[1, "q"].value == "this"
        assert opened.asked == ()

    def test_an_end_ends_all_of_it(self) -> None:
        readiness = chain({"a": ""})
        for fact in (accepted("a"), asked("a"), ended("a"), answered("a"), started("a", 2)):
            readiness.apply(fact)
        assert readiness.phase_of("a") is None
        assert readiness.attached() == []
        assert not readiness.has_started


class TestStop:
    def test_a_stop_starts_nothing_and_says_how_the_chain_ends(self) -> None:
        readiness = chain({"a": "", "b": "a", "c": ""})
        readiness.apply(ended("a"))
        readiness.apply(ChainStopped("chain", COMPLETED, AT, output=7))
        assert readiness.ready() == []
        assert readiness.is_over()
        assert readiness.verdict == (COMPLETED, None)
        assert [readiness.status_of(task) for task in "abc"] == [COMPLETED, SKIPPED, SKIPPED]
        assert readiness.phase_of("b") is None

    @pytest.mark.parametrize("cancel_is_first", [True, False])
    def test_a_cancelled_chain_ends_cancelled(self, cancel_is_first: bool) -> None:  # noqa: FBT001 - a parameter of a test
        readiness = chain({"a": ""})
        facts: list[Fact] = [ChainStopped("chain", FAILED, AT), ChainCancelled("chain", AT)]
        for fact in reversed(facts) if cancel_is_first else facts:
            readiness.apply(fact)
        assert readiness.verdict == (CANCELLED, None)


def test_facts_of_one_name_are_one_fact() -> None:
    facts: list[Fact] = [
        started("a"),
        started("a", 2),
        asked("a", "x"),
        asked("a", "y"),
        asked("a", "x", 2),
        ended("a"),
    ]
    assert len({fact.name for fact in facts}) == len(facts)
    submitted = ChainSubmitted("chain", ChainSpec((Task(ECHO, id="a"),)), AT)
    record = ChainRecord(submitted, (*facts, *facts))
    assert facts_once(record) == [submitted, *facts]


class Plain:
    """The rules read aloud from the list of all facts: slow, and each rule once."""

    def __init__(self, spec: ChainSpec, facts: Sequence[Fact]) -> None:
        self.tasks = {task.id: task for task in spec.tasks}
        self.policy = spec.failure_policy
        self.facts = list({fact.name: fact for fact in reversed(facts)}.values())[::-1]

    def of(self, kind: type[Any], run: str) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind) and fact.task == run]

    def has(self, kind: type[Fact]) -> bool:
        return any(isinstance(fact, kind) for fact in self.facts)

    def end_of(self, run: str) -> TaskStatus | None:
        return next((fact.result.status for fact in self.of(TaskEnded, run)), None)

    def latest(self, run: str) -> int:
        numbers = [fact.number for kind in (TaskStarted, AttemptAccepted, QuestionAsked) for fact in self.of(kind, run)]
        return max(numbers, default=0)

    def accepted(self, run: str) -> bool:
        return any(fact.number == self.latest(run) for fact in self.of(AttemptAccepted, run))

    def is_left(self, run: str) -> bool:
        sent_once = bool(self.of(TaskStarted, run)) and not self.tasks[task_of(run)].idempotent
        return self.end_of(run) is None and sent_once and not self.accepted(run)

    def asked(self, run: str) -> bool:
        answered = {(fact.number, fact.key) for fact in self.of(AnswerGiven, run)}
        asked = {(fact.number, fact.key) for fact in self.of(QuestionAsked, run)}
        return any(number == self.latest(run) for number, _ in asked - answered)

    def fails(self, task: str) -> bool:
        return self.end_of(task) is FAILED and self.tasks[task].on_failure is None

    def stopped(self) -> bool:
        fast = self.policy is FailurePolicy.FAIL_FAST and any(map(self.fails, self.tasks))
        return fast or self.has(ChainCancelled) or self.has(ChainStopped) or self.has(ChainEnded)

    def skipped(self, task: str) -> bool:
        awaited = self.tasks[task].depends_on
        return self.end_of(task) is None and any(
            self.fails(each) or self.end_of(each) is CANCELLED or self.skipped(each) for each in awaited
        )

    def may_begin(self, task: str) -> bool:
        is_free = all(self.end_of(each) is COMPLETED or (self.end_of(each) is FAILED and not self.fails(each))
                      for each in self.tasks[task].depends_on)  # fmt: skip
        return is_free and self.end_of(task) is None and not self.stopped()

    def ready(self) -> list[str]:
        runs = []
        for task in filter(self.may_begin, self.tasks):
            if self.is_left(task) or self.accepted(task):
                continue
            expanded = self.of(TaskExpanded, task)
            runs += [run_of(task, each) for each in range(expanded[0].count)] if expanded else [task]
        return [
            run for run in runs if self.end_of(run) is None and not self.is_left(run) and not self.accepted(run)
        ]  # fmt: skip

    def open_runs(self) -> list[str]:
        named = dict.fromkeys(fact.name.task for fact in self.facts if fact.name.task)
        return [run for run in named if self.end_of(run) is None and self.end_of(task_of(run)) is None]

    def status_of(self, task: str) -> TaskStatus:
        if (status := self.end_of(task)) is not None:
            return status
        if self.has(ChainCancelled):
            return CANCELLED
        if self.stopped() or self.skipped(task):
            return SKIPPED
        return RUNNING if any(task_of(fact.name.task) == task for fact in self.facts) else PENDING

    def phase_of(self, task: str) -> Phase | None:
        if self.end_of(task) is not None or self.stopped() or self.skipped(task):
            return None
        if not self.may_begin(task):
            return Phase.WAITING
        return Phase.INPUT_REQUIRED if self.asked(task) else Phase.ACCEPTED if self.accepted(task) else None


def random_spec(draw: random.Random, size: int) -> ChainSpec:
    tasks = []
    for number in range(size):
        awaited = draw.sample(range(number), k=min(number, draw.choice([0, 0, 1, 2])))
        default = OnFailure("else") if draw.random() < 0.3 else None
        named = tuple(f"t{each}" for each in awaited)
        tasks.append(Task(ECHO, id=f"t{number}", depends_on=named, on_failure=default, idempotent=draw.random() < 0.6))
    return ChainSpec(tuple(tasks), failure_policy=draw.choice(list(FailurePolicy)))


def random_fact(draw: random.Random, plain: Plain) -> Fact | None:
    """What an owner of the chain may record next; None at the end."""
    if plain.has(ChainEnded):
        return None
    runs = [run for run in dict.fromkeys([*plain.ready(), *plain.open_runs()]) if not plain.stopped()]
    if not runs:
        return ChainEnded("chain", COMPLETED, AT)
    if draw.random() < 0.04:
        stops: list[Fact] = [ChainCancelled("chain", AT), ChainStopped("chain", draw.choice([COMPLETED, FAILED]), AT)]
        return draw.choice(stops)
    return random_fact_of(draw, plain, draw.choice(runs))


def random_fact_of(draw: random.Random, plain: Plain, run: str) -> Fact:
    number = plain.latest(run)
    is_new = not plain.of(TaskExpanded, run) and not number and "." not in run
    choices: list[Fact] = [ended(run, draw.choices([COMPLETED, FAILED, CANCELLED], weights=[6, 2, 1])[0])]
    if not plain.of(TaskExpanded, run):
        choices += [started(run, number + 1), accepted(run, number + draw.choice([0, 1]) or 1)]
        choices += [asked(run, draw.choice("xyz"), max(1, number)), answered(run, draw.choice("xyz"), max(1, number))]
    if is_new:
        choices.append(TaskExpanded("chain", run, draw.randrange(4), AT))
    return draw.choice(choices)


def random_history(draw: random.Random, spec: ChainSpec) -> list[Fact]:
    facts: list[Fact] = []
    while (fact := random_fact(draw, Plain(spec, facts))) is not None:
        facts.append(fact)
    return facts


def standing_of(readiness: Readiness) -> dict[str, Any]:
    """All that anything outside reads of it."""
    tasks = list(readiness.graph.tasks)
    return {
        "statuses": {task: readiness.status_of(task) for task in tasks},
        "phases": {task: readiness.phase_of(task) for task in tasks},
        "ready": readiness.ready(),
        "left": sorted(readiness.left_started()),
        "attached": sorted(fact.name for fact in readiness.attached()),
        "numbers": {task: readiness.attempts_on_record(task) for task in tasks},
        "runs": {task: sorted(ended) for task, ended in readiness.ended_runs.items()},
        "items": readiness.items,
        "chain": (readiness.status_of_chain(), readiness.is_over(), readiness.verdict, readiness.end),
    }


@settings(max_examples=120, derandomize=True, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 7))
def test_any_history_agrees_with_a_plain_reading_after_every_fact(draw: random.Random, size: int) -> None:
    spec = random_spec(draw, size)
    facts = random_history(draw, spec)
    readiness = Readiness(check_chain(spec))
    for count, fact in enumerate(facts, 1):
        readiness.apply(fact)
        plain = Plain(spec, facts[:count])
        for task in plain.tasks:
            assert readiness.status_of(task) is plain.status_of(task)
            assert readiness.phase_of(task) is plain.phase_of(task)
        assert sorted(readiness.ready()) == sorted(plain.ready())
        left = [run for run in plain.open_runs() if plain.is_left(run)]
        assert sorted(readiness.left_started()) == ([] if plain.stopped() else sorted(left))
        attached = [run for run in plain.open_runs() if plain.accepted(run)]
        assert sorted(fact.task for fact in readiness.attached()) == ([] if plain.stopped() else sorted(attached))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 7))
def test_any_history_folds_the_same_after_a_crash_at_each_fact(draw: random.Random, size: int) -> None:
    """A later owner reads what is on record: some of it twice, where the answer to an append got lost."""
    spec = random_spec(draw, size)
    submitted = ChainSubmitted("chain", spec, AT)
    facts = random_history(draw, spec)
    live = Readiness(check_chain(spec))
    for count in range(1, len(facts) + 1):
        live.apply(facts[count - 1])
        twice = draw.randrange(count)
        on_record = [*facts[:count], *facts[twice:count]] if not isinstance(facts[count - 1], ChainEnded) else facts
        rows = [row.fact.encode() for row in encode_facts(on_record).facts]
        read_back = tuple(decode_facts(rows, {}))
        assert read_back == tuple(on_record)
        record = ChainRecord(submitted, read_back)
        assert standing_of(fold(record)) == standing_of(live) == standing_of(live.snapshot())
        assert [fact.name for fact in facts_once(record)][1:] == list(dict.fromkeys(f.name for f in facts[:count]))
        outlines = tuple(decode_outline(row) for row in rows)
        assert standing_of(fold(ChainRecord(submitted, outlines))) == standing_of(live)
