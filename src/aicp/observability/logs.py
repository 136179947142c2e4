"""The log of a server: text for people, or a JSON object a line with the ids of what it is about, for machines."""

import logging
import time
from collections.abc import Callable
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from aicp.model.event import Event
from aicp.model.live import LiveEvent
from aicp.model.outcome import Outcome
from aicp.model.task import TaskStatus
from aicp.model.trace import Subject, subject
from aicp.observability.telling import Submitted, tell

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LINES_A_SECOND_MAX = 100
_OPEN = frozenset({"OPEN", "FORCED_OPEN"})
_OFTEN = frozenset({"heard", "updated"})
_TOLD_BY_AINS = frozenset({"unheard", "offline", "set_aside"})
"""What the registry warns of itself, so that it is in the log of a program that has no `EventLog` too."""
_log = logging.getLogger("aicp.events")


def set_up_text(stream: TextIO) -> None:
    """Log warnings and worse, a line each, unless the process logs elsewhere already."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(TEXT_FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def set_up_json(stream: TextIO) -> None:
    """Log what AICP tells, and others' warnings, as JSON objects, unless the process logs elsewhere already.

    Each has `timestamp`, `level`, `logger` and `event`; what is about a task has its `task_id`, `chain_id`, `agent_id`
    and `trace_id`, what is about an agent its `agent_id`; what an exception caused has it under `exception`.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(json_formatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("aicp").setLevel(logging.INFO)


def json_formatter() -> logging.Formatter:
    """Writes a record as a JSON object."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.ExtraAdder(),
            add_subject,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )


def add_subject(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Say what is being worked on where a line is written, unless the line itself says so."""
    if (about := subject.get()) is not None and "chain_id" not in line:
        for name, value in _ids_of(about).items():
            line.setdefault(name, value)
    return line


class EventLog:
    """Logs what failed and what changed, as an observer; successes are counted by the metrics.

    At most 100 lines a second: how many were left out is said in the next second.

    Args:
        submitted: What was submitted as a chain that runs; None for one that does not.
        clock: Monotonic seconds.
    """

    def __init__(self, submitted: Submitted, clock: Callable[[], float] = time.monotonic) -> None:
        self._submitted = submitted
        self._clock = clock
        self._second = 0
        self._lines = 0

    def notify(self, event: Event) -> None:
        """Something happened."""
        told = tell(event, self._submitted)
        if told is None or (level := _level_of(told.event)) is None or not self._has_room():
            return
        fields = {name: value for name, value in msgspec.to_builtins(told.event).items() if name != "at"}
        _log.log(level, _sentence(told.event), extra={**fields, **self._trace_of(told.event)})

    def _has_room(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            left_out = self._lines - LINES_A_SECOND_MAX
            self._second, self._lines = second, 0
            if left_out > 0:
                _log.warning("%d lines on events were left out in one second", left_out)
        self._lines += 1
        return self._lines <= LINES_A_SECOND_MAX

    def _trace_of(self, event: LiveEvent) -> dict[str, str]:
        if event.chain_id is None:
            return {}
        chain = self._submitted(event.chain_id)
        about = Subject(event.chain_id, event.task_id or "", traceparent=chain.traceparent if chain else None)
        return {"trace_id": about.trace_id}


def _ids_of(about: Subject) -> dict[str, Any]:
    ids = {"chain_id": about.chain_id, "task_id": about.task_id, "agent_id": about.agent_id, "trace_id": about.trace_id}
    return {name: value for name, value in ids.items() if value}


def _level_of(event: LiveEvent) -> int | None:
    """How much it matters; None when it is not worth a line."""
    if event.kind == "circuit_changed":
        return logging.WARNING if event.state in _OPEN else logging.INFO
    failed = event.status is TaskStatus.FAILED or event.outcome not in {None, Outcome.SUCCESS}
    changed = event.change is not None and event.change not in _OFTEN | _TOLD_BY_AINS
    return logging.INFO if failed or changed or event.kind == "chain_cancelled" else None


def _sentence(event: LiveEvent) -> str:
    match event.kind:
        case "attempt_ended":
            return f"attempt {event.attempt} ended {event.outcome}: {event.reason}"
        case "circuit_changed":
            return f"the circuit of agent {event.agent_id} for {event.capability} is {event.state}"
        case "agent_changed":
            return f"agent {event.agent_id} is {(event.change or '').replace('_', ' ')}"
        case "chain_cancelled":
            return "the chain was cancelled"
        case _:
            what = "task" if event.task_id else "chain"
            return f"the {what} failed: {event.error.message if event.error else 'no reason was given'}"
