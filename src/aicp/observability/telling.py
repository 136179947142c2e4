"""What a live event tells of an event, and who may hear it: params and results stay where they are."""

import math
from collections.abc import Callable
from typing import Any

import msgspec

from aicp.model.event import (
    AgentChanged,
    AttemptEnded,
    AttemptStarted,
    CapabilityChanged,
    ChainCancelled,
    ChainEnded,
    ChainSubmitted,
    ChainWarned,
    CircuitChanged,
    Event,
    TaskEnded,
    TaskStarted,
)
from aicp.model.live import LiveEvent
from aicp.model.outcome import TaskError
from aicp.model.run_id import chain_of, global_id

TEXT_CHARS_MAX = 500

Submitted = Callable[[str], ChainSubmitted | None]
"""What was submitted as a chain that runs; None for one that does not."""


class Told(msgspec.Struct, frozen=True, gc=False):
    """A live event and who may hear it.

    Attributes:
        event: What is told.
        tenant: Whose it is; None for every tenant's.
    """

    event: LiveEvent
    tenant: str | None


def tell(event: Event, submitted: Submitted) -> Told | None:
    """The live event of an event; None when nobody is told, or nobody knows whose it is."""
    telling = _TELLING.get(type(event))
    return telling(event, submitted) if telling is not None else None


def _chain_submitted(event: ChainSubmitted, _submitted: Submitted) -> Told:
    spec = event.spec
    live = LiveEvent(
        "chain_submitted", event.at, chain_id=event.chain_id, name=spec.name[:TEXT_CHARS_MAX] or None,
        total_tasks=len(spec.tasks), retry_of=event.retry_of,
    )  # fmt: skip
    return Told(live, event.tenant)


def _chain_warned(event: ChainWarned, _submitted: Submitted) -> Told:
    live = LiveEvent(
        "chain_warned", event.at, chain_id=event.chain_id, expected_s=event.expected_s,
        warning=event.warning[:TEXT_CHARS_MAX],
    )  # fmt: skip
    return Told(live, event.tenant)


def _task_started(event: TaskStarted, submitted: Submitted) -> Told | None:
    live = LiveEvent(
        "task_started", event.at, chain_id=event.chain_id, task_id=global_id(event.chain_id, event.task),
        agent_id=event.agent_id or None, attempt=event.number,
    )  # fmt: skip
    return _of_chain(live, submitted)


def _task_ended(event: TaskEnded, submitted: Submitted) -> Told | None:
    result = event.result
    if result.ended_at is None:
        return None
    live = LiveEvent(
        "task_ended", result.ended_at, chain_id=event.chain_id, task_id=result.task_id, capability=result.capability,
        agent_id=result.agent_id, status=result.status, error=_shortened(result.error),
    )  # fmt: skip
    return _of_chain(live, submitted)


def _chain_cancelled(event: ChainCancelled, submitted: Submitted) -> Told | None:
    return _of_chain(LiveEvent("chain_cancelled", event.at, chain_id=event.chain_id), submitted)


def _chain_ended(event: ChainEnded, submitted: Submitted) -> Told | None:
    live = LiveEvent(
        "chain_ended", event.at, chain_id=event.chain_id, status=event.status, error=_shortened(event.error)
    )
    return _of_chain(live, submitted)


def _attempt_started(event: AttemptStarted, _submitted: Submitted) -> Told:
    live = LiveEvent(
        "attempt_started", event.at, chain_id=chain_of(event.task_id), task_id=event.task_id,
        capability=event.capability, agent_id=event.agent_id, attempt=event.number, waited_s=round(event.waited_s, 6),
    )  # fmt: skip
    return Told(live, event.tenant)


def _attempt_ended(event: AttemptEnded, _submitted: Submitted) -> Told:
    live = LiveEvent(
        "attempt_ended", event.at, chain_id=chain_of(event.task_id), task_id=event.task_id,
        capability=event.capability, agent_id=event.agent_id, attempt=event.number, outcome=event.outcome,
        reason=event.reason[:TEXT_CHARS_MAX] or None, elapsed_s=round(event.elapsed_s, 6),
    )  # fmt: skip
    return Told(live, event.tenant)


def _circuit_changed(event: CircuitChanged, _submitted: Submitted) -> Told:
    retry_after_s = round(event.retry_after_s, 3) if event.retry_after_s < math.inf else None
    live = LiveEvent(
        "circuit_changed", event.at, agent_id=event.agent_id, capability=event.capability, state=str(event.state),
        retry_after_s=retry_after_s,
    )  # fmt: skip
    return Told(live, event.tenant)


def _agent_changed(event: AgentChanged, _submitted: Submitted) -> Told:
    live = LiveEvent(
        "agent_changed", event.at, agent_id=event.agent_id, change=event.change, capability=event.capability or None,
        reason=event.reason[:TEXT_CHARS_MAX] or None,
    )  # fmt: skip
    return Told(live, event.tenant)


def _capability_changed(event: CapabilityChanged, _submitted: Submitted) -> Told:
    live = LiveEvent("capability_changed", event.at, capability=event.capability, is_out=event.is_out)
    return Told(live, event.tenant)


def _of_chain(live: LiveEvent, submitted: Submitted) -> Told | None:
    """Whose chain it is, this knows best; an event of a chain that does not run here is nobody's."""
    chain = submitted(live.chain_id or "")
    return None if chain is None else Told(live, chain.tenant)


def _shortened(error: TaskError | None) -> TaskError | None:
    if error is None:
        return None
    return TaskError(error.code[:TEXT_CHARS_MAX], error.message[:TEXT_CHARS_MAX])


_TELLING: dict[type, Callable[[Any, Submitted], Told | None]] = {
    ChainSubmitted: _chain_submitted,
    ChainWarned: _chain_warned,
    TaskStarted: _task_started,
    TaskEnded: _task_ended,
    ChainCancelled: _chain_cancelled,
    ChainEnded: _chain_ended,
    AttemptStarted: _attempt_started,
    AttemptEnded: _attempt_ended,
    CircuitChanged: _circuit_changed,
    AgentChanged: _agent_changed,
    CapabilityChanged: _capability_changed,
}
