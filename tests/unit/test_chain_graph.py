"""A chain drawn for Mermaid, and its timeline: both from the view that people read."""

import re
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicp.coordination import chain_graph
from aicp.coordination.chain_graph import ATTEMPTS_DRAWN_MAX, LINES_A_STEP
from aicp.coordination.chain_graph import mermaid as mermaid_steps
from aicp.coordination.timeline import timeline
from aicp.model.outcome import Outcome, TaskError
from aicp.model.task import Attempt, TaskStatus
from aicp.model.views import ChainView, TaskView, Timings
from aicp.scheduling.slices import at_once

AT = datetime(2026, 1, 1, tzinfo=UTC)
BOX = re.compile(r'  t\d+\["(?:[A-Za-z0-9 _.,\-@/()]|#\d+;|<br/>)*"\]')
ARROW = re.compile(r"  t\d+ --> t\d+")
CLASS = re.compile(r"  (classDef [a-z]+ [a-z0-9#:, -]+|class t\d+(,t\d+)* [a-z]+)")
NASTY = (
    '"]', "]", "end", "%%{init: {}}%%", "`**b**`", "<script>alert(1)</script>", "a;b", "\n click t0 x", "#quot;",
    "&lt;", "\x00\u202e", "漢🙂", "o]( {{}}", "%% comment", ":::failed", "x" * 1_000,
)  # fmt: skip


def attempt(agent_id: str = "eyes-1", outcome: Outcome = Outcome.SUCCESS, *, after_s: float = 0.0) -> Attempt:
    start = AT + timedelta(seconds=after_s)
    return Attempt(agent_id, 1, outcome, "", start, start + timedelta(seconds=0.25))


def task(
    status: TaskStatus = TaskStatus.COMPLETED,
    *attempts: Attempt,
    capability: str = "image.label",
    error: TaskError | None = None,
) -> TaskView:
    return TaskView("c.t", capability, status, None, error, None, attempts, Timings(total_s=1.5), None, None, None)


def view(tasks: dict[str, TaskView], *edges: tuple[str, str]) -> ChainView:
    return ChainView("c", "a chain", TaskStatus.RUNNING, len(tasks), 0, tasks, list(edges), None, AT, None)


def mermaid(drawn: ChainView) -> str:
    return at_once(mermaid_steps(drawn))


def assert_is_flowchart(text: str, *, boxes: int, arrows: int) -> None:
    """Every line is a box, an arrow or a class, and nothing else."""
    first, *lines = text.splitlines()
    assert first == "flowchart LR"
    found = [[bool(form.fullmatch(line)) for form in (BOX, ARROW, CLASS)] for line in lines]
    assert all(sum(each) == 1 for each in found), lines
    assert [sum(kinds) for kinds in zip(*found, strict=True)][:2] == [boxes, arrows]


class TestMermaid:
    def test_a_large_chain_is_drawn_in_small_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        labels, most = 0, 0
        label = chain_graph._label

        def counted(*arguments: Any) -> str:
            nonlocal labels
            labels += 1
            return label(*arguments)

        monkeypatch.setattr(chain_graph, "_label", counted)
        tasks = {f"t-{number}": task() for number in range(1_000)}
        edges = [(f"t-{number}", f"t-{number + 1}") for number in range(999)]
        steps, text = mermaid_steps(view(tasks, *edges)), ""
        while not text:
            labels = 0
            try:
                next(steps)
            except StopIteration as done:
                text = done.value
            most = max(most, labels)
        assert_is_flowchart(text, boxes=1_000, arrows=999)
        assert most <= LINES_A_STEP

    def test_every_task_is_a_box_with_status_time_and_attempts(self) -> None:
        fetch = task(TaskStatus.COMPLETED, attempt("eyes-1", Outcome.AGENT_FAULT), attempt("eyes-2"))
        tried = "eyes-1 AGENT_FAULT 0.250 s", "eyes-2 SUCCESS 0.250 s"
        drawn = mermaid(view({"fetch": fetch, "label": task(TaskStatus.RUNNING)}, ("fetch", "label")))
        assert drawn.splitlines() == [
            "flowchart LR",
            f'  t0["fetch<br/>image.label<br/>COMPLETED in 1.500 s<br/>{"<br/>".join(tried)}"]',
            '  t1["label<br/>image.label<br/>RUNNING in 1.500 s"]',
            "  t0 --> t1",
            "  classDef running fill:#cffafe,stroke:#0e7490,color:#18181b,stroke-width:3px",
            "  class t1 running",
            "  classDef completed fill:#dcfce7,stroke:#15803d,color:#18181b",
            "  class t0 completed",
        ]

    @pytest.mark.parametrize("status", TaskStatus)
    def test_every_status_has_a_class(self, status: TaskStatus) -> None:
        lines = mermaid(view({"a": task(status), "b": task(status)})).splitlines()
        assert lines[-1] == f"  class t0,t1 {status.lower()}"

    def test_why_a_task_failed_is_told_by_its_code(self) -> None:
        failed = task(TaskStatus.FAILED, error=TaskError("no_face", "There is no face."))
        assert mermaid(view({"a": failed})).splitlines()[1].endswith('<br/>no_face"]')

    def test_only_the_last_attempts_are_drawn_and_the_others_counted(self) -> None:
        attempts = [attempt(f"eyes-{number}") for number in range(ATTEMPTS_DRAWN_MAX + 3)]
        box = mermaid(view({"a": task(TaskStatus.COMPLETED, *attempts)})).splitlines()[1]
        assert "(3 earlier attempts)" in box
        assert [f"eyes-{number} " in box for number in range(ATTEMPTS_DRAWN_MAX + 3)] == [False] * 3 + [True] * 5

    @pytest.mark.parametrize("words", NASTY)
    def test_words_of_others_neither_end_a_box_nor_steer_the_drawing(self, words: str) -> None:
        nasty = task(TaskStatus.FAILED, attempt(words), capability=words, error=TaskError(words, words))
        assert_is_flowchart(mermaid(view({words: nasty, "b": task()}, (words, "b"))), boxes=2, arrows=1)

    @given(st.text(), st.text())
    def test_any_words_make_a_flowchart(self, name: str, code: str) -> None:
        drawn = mermaid(view({name: task(TaskStatus.FAILED, error=TaskError(code, ""))}))
        assert_is_flowchart(drawn, boxes=1, arrows=0)

    def test_ten_thousand_tasks_are_drawn(self) -> None:
        tasks = {f"t-{number}": task(TaskStatus.COMPLETED, *[attempt()] * 30) for number in range(10_000)}
        edges = [(f"t-{number}", f"t-{number + 1}") for number in range(9_999)]
        drawn = mermaid(view(tasks, *edges))
        assert drawn.count("-->") == 9_999
        assert len(drawn) < 5_000_000


class TestTimeline:
    def test_attempts_of_all_tasks_stand_by_their_start(self) -> None:
        label = task(TaskStatus.COMPLETED, attempt("b", Outcome.OVERLOADED, after_s=2.0), attempt("c", after_s=4.0))
        found = timeline(view({"label": label, "fetch": task(TaskStatus.COMPLETED, attempt("a", after_s=1.0))}))
        assert [(each.task, each.agent_id, each.outcome, each.begins_s) for each in found] == [
            ("fetch", "a", Outcome.SUCCESS, 1.0),
            ("label", "b", Outcome.OVERLOADED, 2.0),
            ("label", "c", Outcome.SUCCESS, 4.0),
        ]
        assert [(each.takes_s, each.ended_at - each.started_at) for each in found] == [(0.25, timedelta(0, 0.25))] * 3

    def test_attempts_of_copied_results_lie_before_the_chain(self) -> None:
        (entry,) = timeline(view({"a": task(TaskStatus.COMPLETED, attempt(after_s=-60.0))}))
        assert entry.begins_s == -60.0

    def test_chain_that_tried_nobody_has_none(self) -> None:
        assert timeline(view({"a": task(TaskStatus.PENDING), "b": task(TaskStatus.SKIPPED)})) == []

    def test_same_moment_is_told_in_one_order_whatever_the_order_of_tasks(self) -> None:
        tasks = {name: task(TaskStatus.COMPLETED, attempt()) for name in ("a", "b", "c")}
        for order in product(tasks, repeat=3):
            found = timeline(view({name: tasks[name] for name in dict.fromkeys(order)}))
            assert [each.task for each in found] == sorted(set(order))
