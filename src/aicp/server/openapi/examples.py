"""One example of each body and answer: the picture that is fetched, and then looked at by two agents."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from aicp.model import views
from aicp.model.access import (
    ApiKey,
    AuditPage,
    AuditRecord,
    CurrentKey,
    KeyLimits,
    KeyList,
    KeyMade,
    Scope,
    SessionCode,
    SessionMade,
)
from aicp.model.agent import Capability
from aicp.model.history import History, HistoryMetric, HistorySeries
from aicp.model.outcome import Outcome
from aicp.model.task import Attempt, TaskStatus

CHAIN_ID = "019abc3f2e8d4f6a1b2c3d4e5f607182"
TASK_ID = f"{CHAIN_ID}.label"
AGENT_ID = "eyes-1"
KEY_ID = "9f86d081884c"
CURSOR = CHAIN_ID
IDEMPOTENCY_KEY = "order-4711"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

PARAMETERS: dict[str, Any] = {
    "task_id": TASK_ID,
    "chain_id": CHAIN_ID,
    "agent_id": AGENT_ID,
    "key_id": KEY_ID,
    "capability": "image.label",
    "wait_s": 30,
    "status": "FAILED",
    "phase": "in_line",
    "name": "image",
    "from": "2026-01-02T00:00:00Z",
    "to": "2026-01-03T00:00:00Z",
    "limit": 50,
    "metric": "completed_per_s",
    "kind": ["task_ended", "chain_ended"],
    "Idempotency-Key": IDEMPOTENCY_KEY,
    "traceparent": TRACEPARENT,
    "Last-Event-ID": "5f3a91c2-1041",
}

_URL = "https://example.org/holiday.jpg"
_ATTEMPT_OF_TASK = {"capability": "image.label", "params": {"url": _URL}}
BODIES: dict[str, Any] = {
    "Task": {**_ATTEMPT_OF_TASK, "priority": "high", "deadline_s": 60},
    "ParallelTasks": {"tasks": [_ATTEMPT_OF_TASK, {"capability": "text.extract", "params": {"url": _URL}}]},
    "ChainSpec": {
        "name": "look at a picture",
        "tasks": [
            {"id": "fetch", "capability": "image.fetch", "params": {"url": _URL}},
            {"id": "label", "capability": "image.label", "params": {"image": {"$result": "fetch", "path": "/image"}}},
        ],
    },
    "Registration": {
        "endpoint": "http://127.0.0.1:9001",
        "agent_id": AGENT_ID,
        "instance_id": "7d1f",
        "capabilities": [{"name": "image.label", "timeout_s": 20}],
        "max_concurrent_tasks": 4,
    },
    "Heartbeat": {"instance_id": "7d1f"},
    "Drain": {"instance_id": "7d1f"},
    "KeyRequest": {
        "name": "billing",
        "tenant": "acme",
        "scopes": ["tasks:submit", "tasks:read"],
        "expires_in_s": 7_776_000,
        "limits": {"rate_per_s": 50},
    },
    "SessionRequest": {"code": "Qw3rT9uIoP1aSdF5gHjK2A"},
}

_BEGAN = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
_ENDED = _BEGAN + timedelta(seconds=1.5)
_ATTEMPTS = (
    Attempt("eyes-2", 1, Outcome.UNAVAILABLE, "connection refused", _BEGAN, _BEGAN + timedelta(milliseconds=2)),
    Attempt(AGENT_ID, 2, Outcome.SUCCESS, "", _BEGAN + timedelta(milliseconds=3), _ENDED),
)
_TIMINGS = views.Timings(0.001, 1.5, 1.501)
_TASK = views.TaskView(
    TASK_ID,
    "image.label",
    TaskStatus.COMPLETED,
    {"faces": 2},
    None,
    AGENT_ID,
    _ATTEMPTS,
    _TIMINGS,
    _BEGAN,
    _BEGAN,
    _ENDED,
)
_SHORT = views.ShortTask(
    TASK_ID, "image.label", TaskStatus.COMPLETED, None, AGENT_ID, _ATTEMPTS, _TIMINGS, _BEGAN, _BEGAN, _ENDED
)
_LISTED = views.ListedTask(
    TASK_ID, CHAIN_ID, "image.label", TaskStatus.COMPLETED, None, AGENT_ID, _ATTEMPTS[1:], _TIMINGS,
    _BEGAN, _BEGAN, _BEGAN, _ENDED,
)  # fmt: skip
_AGENT = views.AgentView(
    agent_id=AGENT_ID,
    name="",
    endpoint="http://127.0.0.1:9001",
    instance_id="7d1f",
    capabilities=(Capability("image.label", timeout_s=20.0),),
    max_concurrent_tasks=4,
    taken=1,
    labels={},
    shared=False,
    liveness="HEARD",
    state="CLOSED",
    draining=False,
    registered_at=_BEGAN,
    tenant="default",
    owner=KEY_ID,
)
_KEY = ApiKey(
    KEY_ID, "billing", "acme", (Scope.TASKS_READ, Scope.TASKS_SUBMIT), _BEGAN, _BEGAN + timedelta(days=90),
    limits=KeyLimits(rate_per_s=50.0),
)  # fmt: skip
_LEASE = views.LeaseTerms(15.0, 5.0)
_HEALTH = views.FleetHealth(
    2, 1, 1, 0, [],
    {
        "eyes-2": views.AgentHealth(
            "OPEN", "HEARD", 5, 120, 17, 2.1, 2.25, 180.0, 0.96, 4, 0, False,  # noqa: FBT003 - in the order of its fields
            {"image.label": views.CapabilityHealth("OPEN", "circuit open", 2.1, 180.0)},
        )
    },
)  # fmt: skip
_EXPLANATION = views.Explanation(
    TASK_ID, "image.label", "normal", TaskStatus.COMPLETED,
    (views.Choice(2, AGENT_ID, False, 0.0, 0.2, 0, 1, 2),),  # noqa: FBT003 - in the order of its fields
    _ATTEMPTS,
    views.Outlook(2, 1, 1, (views.Candidate(AGENT_ID, "free", "", 0.2, True, 4, 1, None, False),), None),  # noqa: FBT003
)  # fmt: skip

_ANSWERS: tuple[Any, ...] = (
    views.TaskStanding(TASK_ID, TaskStatus.PENDING),
    views.ChainStanding(CHAIN_ID, TaskStatus.PENDING),
    views.ParallelAccepted(CHAIN_ID, [f"{CHAIN_ID}.task-1", f"{CHAIN_ID}.task-2"]),
    _TASK,
    views.TaskPage([_LISTED], None),
    views.ChainView(
        CHAIN_ID, "look at a picture", TaskStatus.COMPLETED, 1, 1, {"label": _TASK}, [], None, _BEGAN, _ENDED
    ),
    views.ChainChanges(
        CHAIN_ID, "look at a picture", TaskStatus.COMPLETED, 1, 1, {"label": _SHORT}, None, _BEGAN, _ENDED, None, "3"
    ),
    views.ChainPage(
        [views.ListedChain(CHAIN_ID, "look at a picture", TaskStatus.COMPLETED, 1, _BEGAN, _ENDED, None)], CURSOR
    ),
    _EXPLANATION,
    views.Registered(AGENT_ID, _LEASE),
    views.Heard(_LEASE),
    _AGENT,
    views.AgentPage([_AGENT], None),
    _HEALTH,
    views.Failure("a.b", "eyes-2", "image.label", Outcome.UNAVAILABLE, "connection refused", _BEGAN),
    views.AgentState("eyes-2", "CLOSED"),
    views.SchedulerStatus(
        2, 8, 1, 12.5, 0, 0.0, {"image.label": views.CapabilityStatus(2, 1, 1, 3, 0, {}, 0.0, 0.0, 0)}
    ),
    History(_BEGAN, 5.0, [HistorySeries({HistoryMetric.COMPLETED: [0.2, 1.4]}, capability="image.label")]),
    KeyMade(_KEY, "aicp_5zXo0N8hPnQ2c1bWmKk7vYtR3sLdJgFaEiUuOqHxTyA"),
    KeyList([_KEY]),
    CurrentKey(KEY_ID, "acme", (Scope.TASKS_READ, Scope.TASKS_SUBMIT), _ENDED),
    SessionCode("Qw3rT9uIoP1aSdF5gHjK2A", _BEGAN + timedelta(seconds=60)),
    SessionMade("aicp_Zx1Cv2Bn3Mq4We5Rt6Yu7Io8Pa9Sd0FgHjKlQaWsEdR", _BEGAN + timedelta(hours=12)),
    _KEY,
    AuditPage([AuditRecord(_BEGAN, KEY_ID, "acme", "submit_task", TASK_ID, 202, number=4711)], None),
    views.Info("aicp", "0.1.0", True, 3, "sqlite"),  # noqa: FBT003 - in the order of its fields
)
_ANSWER_OF = {type(answer): answer for answer in _ANSWERS}


def example_of(kind: Any) -> Any:
    """An example of an answer of this type, as JSON; None when there is none."""
    answer = _ANSWER_OF.get(kind)
    return None if answer is None else msgspec.to_builtins(answer)
