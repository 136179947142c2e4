"""A chain as a drawing: text that Mermaid draws, from the same view that people read as JSON.

Source: https://mermaid.js.org/syntax/flowchart.html
"""

import itertools
from collections.abc import Iterator

from aicp.model.duration import seconds_between
from aicp.model.task import Attempt, TaskStatus
from aicp.model.views import ChainView, TaskView
from aicp.scheduling.slices import Steps

ATTEMPTS_DRAWN_MAX = 5
TEXT_CHARS_MAX = 120
LINES_A_STEP = 100
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _.,-@/()")
# Dark on light and told apart by lightness and line as well as by colour.
_STYLES = {
    TaskStatus.PENDING: "fill:#f4f4f5,stroke:#71717a,color:#18181b",
    TaskStatus.RUNNING: "fill:#cffafe,stroke:#0e7490,color:#18181b,stroke-width:3px",
    TaskStatus.COMPLETED: "fill:#dcfce7,stroke:#15803d,color:#18181b",
    TaskStatus.FAILED: "fill:#fecaca,stroke:#b91c1c,color:#18181b,stroke-width:3px",
    TaskStatus.CANCELLED: "fill:#fef3c7,stroke:#b45309,color:#18181b,stroke-dasharray:6 3",
    TaskStatus.SKIPPED: "fill:#f4f4f5,stroke:#a1a1aa,color:#52525b,stroke-dasharray:2 3",
}


def mermaid(view: ChainView) -> Steps[str]:
    """A flowchart: a box for each task with its status and its last five attempts, an arrow to whoever waits for it.

    Words that people and agents chose are escaped: they can neither end their box nor steer Mermaid. Costs the chain; a
    step makes a hundred lines.
    """
    names = {task: f"t{number}" for number, task in enumerate(view.tasks)}
    lines = ["flowchart LR"]
    for line in itertools.chain(_boxes(view, names), _arrows(view, names), _classes(view, names)):
        lines.append(line)
        if not len(lines) % LINES_A_STEP:
            yield
    return "\n".join(lines) + "\n"


def _boxes(view: ChainView, names: dict[str, str]) -> Iterator[str]:
    return (f'  {names[task]}["{_label(task, of_task)}"]' for task, of_task in view.tasks.items())


def _arrows(view: ChainView, names: dict[str, str]) -> Iterator[str]:
    return (f"  {names[task]} --> {names[dependent]}" for task, dependent in view.edges)


def _label(task: str, view: TaskView) -> str:
    shown = view.attempts[-ATTEMPTS_DRAWN_MAX:]
    hidden = len(view.attempts) - len(shown)
    told = [
        task,
        view.capability,
        _status(view),
        *([f"({hidden} earlier attempts)"] if hidden else []),
        *map(_attempt, shown),
        *([view.error.code] if view.error else []),
    ]
    return "<br/>".join(map(_escaped, told))


def _status(view: TaskView) -> str:
    took_s = view.timings.total_s
    return view.status if took_s is None else f"{view.status} in {took_s:.3f} s"


def _attempt(attempt: Attempt) -> str:
    took_s = seconds_between(attempt.started_at, attempt.ended_at)
    return f"{attempt.agent_id} {attempt.outcome} {took_s:.3f} s"


def _classes(view: ChainView, names: dict[str, str]) -> Iterator[str]:
    for status, style in _STYLES.items():
        of_status = [names[task] for task, of_task in view.tasks.items() if of_task.status is status]
        if of_status:
            yield f"  classDef {status.lower()} {style}"
            yield f"  class {','.join(of_status)} {status.lower()}"


def _escaped(text: str) -> str:
    """As Mermaid writes characters that could mean something to it or to the page: by number."""
    shown = text[:TEXT_CHARS_MAX]
    return shown if _PLAIN.issuperset(shown) else "".join(map(_character, shown))


def _character(char: str) -> str:
    if char in _PLAIN:
        return char
    return f"#{ord(char)};" if char.isprintable() else "#65533;"
