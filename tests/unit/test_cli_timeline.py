"""The timeline of a chain as `aicp chain show` draws it: bars that say when each attempt ran."""

import io
import sys
from datetime import UTC, datetime, timedelta

import pytest

from aicp.cli.steps import BAR_CHARS, write_timeline
from aicp.model.outcome import Outcome
from aicp.model.task import Attempt, TaskStatus
from aicp.model.views import ChainView, TaskView, Timings

AT = datetime(2026, 1, 1, tzinfo=UTC)
FULL, EMPTY = "\N{FULL BLOCK}", "\N{MIDDLE DOT}"


def chain(*spans: tuple[float, float]) -> ChainView:
    """A chain with one attempt for each span, in seconds from its submit."""
    tasks = {}
    for number, (begins_s, ends_s) in enumerate(spans):
        times = (AT + timedelta(seconds=each) for each in (begins_s, ends_s))
        attempts = (Attempt("eyes", 1, Outcome.SUCCESS, "", *times),)
        name, completed = f"t{number}", TaskStatus.COMPLETED
        tasks[name] = TaskView(f"c.{name}", "x.y", completed, 1, None, "eyes", attempts, Timings(), None, None, None)
    return ChainView("c", "", TaskStatus.COMPLETED, len(tasks), len(tasks), tasks, [], None, AT, AT)


def drawn(view: ChainView, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    write_timeline(view)
    return [line.split() for line in capsys.readouterr().out.splitlines()[3:]]


def test_bars_stand_where_the_attempts_ran(capsys: pytest.CaptureFixture[str]) -> None:
    rows = drawn(chain((0, 5), (5, 10), (0, 10)), capsys)
    half = BAR_CHARS // 2
    bars = {row[4]: row[-1] for row in rows}
    assert bars == {"t0": FULL * half + EMPTY * half, "t1": EMPTY * half + FULL * half, "t2": FULL * BAR_CHARS}
    assert [row[:4] for row in rows] == [
        ["0.000", "s", "5.000", "s"], ["0.000", "s", "10.000", "s"], ["5.000", "s", "5.000", "s"],
    ]  # fmt: skip


@pytest.mark.parametrize("span", [(0.0, 0.0), (7.0, 7.0), (9.999, 10.0), (0.0, 0.001), (-0.5, 0.001)])
def test_shortest_attempt_is_seen_and_no_bar_is_too_long(
    span: tuple[float, float], capsys: pytest.CaptureFixture[str]
) -> None:
    for spans in ([span], [span, (0.0, 10.0)]):
        for row in drawn(chain(*spans), capsys):
            assert len(row[-1]) == BAR_CHARS
            assert FULL in row[-1]


def test_attempt_whose_result_a_retry_copied_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    (copied, own) = drawn(chain((-60.0, -50.0), (0.0, 1.0)), capsys)
    assert copied == ["before", "10.000", "s", "t0", "1", "eyes", "SUCCESS", "-"]
    assert own[-1] == FULL * BAR_CHARS


def test_chain_that_tried_nobody_has_no_timeline(capsys: pytest.CaptureFixture[str]) -> None:
    assert drawn(chain(), capsys) == []


def test_bars_are_plain_where_the_terminal_knows_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    write_timeline(chain((0, 1), (1, 2)))
    out.seek(0)
    assert ("#" * 20 + "." * 20) in out.read()
