"""What `aicp top` draws."""

import io
from datetime import UTC, datetime

from rich.console import Console

from aicp.cli.snapshots import Snapshot
from aicp.cli.top_screen import Screen
from aicp.model.task import TaskStatus
from aicp.model.views import CapabilityStatus, FleetHealth, Info, ListedChain, SchedulerStatus

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def drawn(count: int) -> list[str]:
    """The screen of a server that has as many of everything."""
    line = CapabilityStatus(count, count, 0, 0, count, {}, 2.0, 0.0, 0)
    screen = Screen()
    screen.show(
        Snapshot(
            NOW, "http://h", Info("aicp", "1", durable=True, unfinished_tasks=count),
            SchedulerStatus(count, count, count, 100.0, count, 2.0, {"text.echo": line}),
            FleetHealth(count, count, count, count, [], {}),
            [ListedChain("c", "steps", TaskStatus.RUNNING, count, NOW, None, None)],
        )
    )  # fmt: skip
    told = io.StringIO()
    Console(file=told, width=200, height=40).print(screen)
    return [" ".join(line.split()) for line in told.getvalue().splitlines()]


def test_one_is_told_as_one_and_two_as_two() -> None:
    one, two = drawn(1), drawn(2)
    assert "1 circuit open" in one[0]
    assert "2 circuits open" in two[0]
    assert "text.echo: 1 in line, the first for 2.0 s, 1 agent" in one
    assert "text.echo: 2 in line, the first for 2.0 s, 2 agents" in two
    assert any(line.endswith("c 1 task steps") for line in one)
    assert any(line.endswith("c 2 tasks steps") for line in two)
