"""What happened in the demo: who did what, how long it took, what failed over. Pure: told from what was recorded."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from aicp.demo.killing import Killed
from aicp.model.duration import seconds_between
from aicp.model.outcome import Outcome
from aicp.model.task import Attempt, TaskStatus
from aicp.model.views import ChainView, TaskView


class AttemptTold(msgspec.Struct, frozen=True):
    """One try at a step.

    Attributes:
        agent_id: Who tried.
        pid: Its process.
        outcome: How it ended.
        reason: Why; empty on SUCCESS.
        began_s: Seconds from the chain's submit.
        ended_s: Likewise.
    """

    agent_id: str
    pid: int | None
    outcome: Outcome
    reason: str
    began_s: float
    ended_s: float


class Step(msgspec.Struct, frozen=True):
    """One step of the chain.

    Attributes:
        step: Its name.
        capability: What it asked for.
        status: How it ended.
        agent_id: Who had it last.
        pid: The process of that agent.
        attempts: Every try, in order.
        time_s: From the first try's beginning to the end, seconds.
        found: What came of it, in a few words.
    """

    step: str
    capability: str
    status: TaskStatus
    agent_id: str | None
    pid: int | None
    attempts: tuple[AttemptTold, ...]
    time_s: float
    found: str


class Failover(msgspec.Struct, frozen=True):
    """An agent died at its work, and another did it.

    Attributes:
        step: What it worked on.
        dead_agent: Who died.
        dead_pid: Its process.
        signal: How.
        killed_s: When, seconds from the chain's submit.
        rescuing_agent: Who took over.
        rescuing_pid: Its process.
        noticed_as: What AICP saw of the death.
        took_over_ms: From the kill to the beginning of the rescuer's try, milliseconds.
        sentence: All that for a person.
    """

    step: str
    dead_agent: str
    dead_pid: int
    signal: str
    killed_s: float
    rescuing_agent: str
    rescuing_pid: int | None
    noticed_as: str
    took_over_ms: float
    sentence: str


class Timings(msgspec.Struct, frozen=True):
    """Where the time went, seconds.

    Attributes:
        startup_s: From the start until every agent had registered.
        wall_s: From the chain's submit to its end.
        sequential_s: What the steps took, added up: as long as one after the other, failover included.
    """

    startup_s: float
    wall_s: float
    sequential_s: float


class Story(msgspec.Struct, frozen=True):
    """A run of the demo that succeeded.

    Attributes:
        chain_id: Its chain.
        steps: In the order of the chain.
        failover: Who died and who took over; None when nobody did.
        failover_sentence: The same for a person, or why there is none.
        timings: Where the time went.
    """

    chain_id: str
    steps: tuple[Step, ...]
    failover: Failover | None
    failover_sentence: str
    timings: Timings


def tell_story(view: ChainView, pids: Mapping[str, int], killed: Killed | None, startup_s: float) -> Story:
    """Tell a chain that is COMPLETED.

    Args:
        view: As the server tells it.
        pids: The agents' processes.
        killed: Who was killed; None when nobody was.
        startup_s: How long the agents took to come up, seconds.
    """
    steps = tuple(_step(name, task, view.started_at, pids) for name, task in view.tasks.items())
    failover = _failover(view, pids, killed) if killed else None
    return Story(view.chain_id, steps, failover, _sentence(failover, killed), _timings(view, steps, startup_s))


def _step(name: str, task: TaskView, start: datetime, pids: Mapping[str, int]) -> Step:
    return Step(
        step=name,
        capability=task.capability,
        status=task.status,
        agent_id=task.agent_id,
        pid=pids.get(task.agent_id or ""),
        attempts=tuple(_attempt(attempt, start, pids) for attempt in task.attempts),
        time_s=task.timings.running_s or 0.0,
        found=_found(task.result),
    )


def _attempt(attempt: Attempt, start: datetime, pids: Mapping[str, int]) -> AttemptTold:
    return AttemptTold(
        attempt.agent_id,
        pids.get(attempt.agent_id),
        attempt.outcome,
        attempt.reason,
        _seconds(start, attempt.started_at),
        _seconds(start, attempt.ended_at),
    )


def _found(result: Any) -> str:
    match result:
        case {"original": {"format": kind, "width": width, "height": height, "size_bytes": size}}:
            return f"{kind}, {width} x {height}, {size / 1024:.0f} KiB"
        case {"faces": faces, "regions": regions}:
            return f"{_counted(faces, 'face')}, {_counted(regions, 'region')}"
        case {"lines": lines}:
            return f"{_counted(lines, 'line')} of text"
        case {"colors": colors}:
            return _counted(colors, "colour")
        case {"report": _}:
            return "report, annotated picture"
        case _:
            return ""


def _counted(found: list[Any], noun: str) -> str:
    return f"{len(found) or 'no'} {noun}{'' if len(found) == 1 else 's'}"


def _failover(view: ChainView, pids: Mapping[str, int], killed: Killed) -> Failover | None:
    """None when the victim's answer was taken all the same."""
    tries = view.tasks[killed.step].attempts
    lost = next((number for number, attempt in enumerate(tries) if attempt.agent_id == killed.agent_id), None)
    if lost is None or tries[lost].outcome is Outcome.SUCCESS or lost + 1 == len(tries):
        return None
    rescue = tries[-1]
    took_over_ms = round(max(0.0, _seconds(killed.at, tries[lost + 1].started_at)) * 1000, 1)
    pid = pids.get(rescue.agent_id)
    return Failover(
        step=killed.step,
        dead_agent=killed.agent_id,
        dead_pid=killed.pid,
        signal="SIGKILL",
        killed_s=_seconds(view.started_at, killed.at),
        rescuing_agent=rescue.agent_id,
        rescuing_pid=pid,
        noticed_as=f"{tries[lost].outcome}: {tries[lost].reason}",
        took_over_ms=took_over_ms,
        sentence=(
            f"{killed.agent_id} (pid {killed.pid}) was killed with SIGKILL while it worked on {killed.step.upper()}; "
            f"{rescue.agent_id} (pid {pid}) took over {took_over_ms:.0f} ms later, and the job succeeded."
        ),
    )


def _sentence(failover: Failover | None, killed: Killed | None) -> str:
    if failover is not None:
        return failover.sentence
    if killed is None:
        return "No agent was killed."
    return (
        f"{killed.agent_id} (pid {killed.pid}) was killed with SIGKILL, but only after its answer to "
        f"{killed.step.upper()}: nothing had to fail over."
    )


def _timings(view: ChainView, steps: tuple[Step, ...], startup_s: float) -> Timings:
    wall_s = _seconds(view.started_at, view.ended_at or view.started_at)
    return Timings(round(startup_s, 3), wall_s, round(sum(step.time_s for step in steps), 6))


def _seconds(start: datetime, end: datetime) -> float:
    return round(seconds_between(start, end), 6)
