"""Tells of the demo's chain as its node sees it, while it runs."""

from collections.abc import Callable

from aicp.demo.progress import AgentRegistered, AttemptFailed, Progress, StepEnded, StepStarted
from aicp.model.event import AgentChanged, AttemptEnded, AttemptStarted, Event, TaskEnded
from aicp.model.outcome import Outcome
from aicp.model.run_id import run_in_chain


class Watch:
    """Observes a node; what concerns the story is told on.

    Args:
        tell: Called with each progress, in the node's loop.
    """

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self._tell = tell

    def notify(self, event: Event) -> None:
        """As an observer: something happened."""
        progress = _progress_of(event)
        if progress is not None:
            self._tell(progress)


def _progress_of(event: Event) -> Progress | None:
    match event:
        case AgentChanged(agent_id=agent_id, change="registered"):
            return AgentRegistered(agent_id)
        case AttemptStarted():
            return StepStarted(step_of(event.task_id), event.agent_id, event.number)
        case AttemptEnded() if event.outcome is not Outcome.SUCCESS:
            return AttemptFailed(step_of(event.task_id), event.agent_id, event.reason)
        case TaskEnded():
            return StepEnded(event.task, event.result.status, event.result.agent_id or "")
        case _:
            return None


def step_of(task_id: str) -> str:
    """A task's id inside its chain."""
    return run_in_chain(task_id)
