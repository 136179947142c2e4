"""Tasks, their attempts and their results.

What is made anew for each attempt holds JSON and nothing that could lead back to it, so the garbage collector need not
look at it (`gc=False`): with thousands of tasks on their way that is a fifth of the processor's time.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from aicp.model.json_fields import always_written
from aicp.model.outcome import Outcome, TaskError
from aicp.model.trace import task_traceparent

DEFAULT_ATTEMPT_TIMEOUT_S = 60.0
DEFAULT_TASK_DEADLINE_S = 600.0
DEADLINE_S_MAX = 366 * 86_400.0


class TaskStatus(StrEnum):
    """Where a task or chain stands; the last four are terminal and never change."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"

    @property
    def is_terminal(self) -> bool:
        """True when nothing will change it any more."""
        return self in _TERMINAL


_TERMINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.SKIPPED})


class TaskKind(StrEnum):
    """What carries a task out.

    `agent`: an agent, all tasks of this version. `each`: its items. `repeat`: its rounds. `wait`: time, or an answer.
    `compute`: an expression. `end`: it ends its chain. `chain`: a chain that it starts.
    """

    AGENT = "agent"
    EACH = "each"
    REPEAT = "repeat"
    WAIT = "wait"
    COMPUTE = "compute"
    END = "end"
    CHAIN = "chain"


class Phase(StrEnum):
    """What a task that has not ended is waiting for.

    `waiting`: for other tasks. `sleeping`: for a time. `input_required`: for an answer. `child`: for a chain that it
    started. `accepted`: an agent goes on with it, whichever server runs the chain. `in_line`: for an agent. `at_agent`:
    an agent has it. All but the last two follow from the record; those two only the server that runs the chain has.
    """

    WAITING = "waiting"
    SLEEPING = "sleeping"
    INPUT_REQUIRED = "input_required"
    CHILD = "child"
    ACCEPTED = "accepted"
    IN_LINE = "in_line"
    AT_AGENT = "at_agent"


class Priority(StrEnum):
    """Which share of an agent's time goes to a task's queue where others wait as well: 64 : 8 : 1."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class OnFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What dependents read when the task fails.

    Attributes:
        continue_with: The default in place of the result; in JSON it is called `continue`.
    """

    continue_with: Any = msgspec.field(name="continue")


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What somebody wants done.

    Attributes:
        capability: `name` or `name@major`.
        params: JSON object for the agent; inside a chain it may hold references `{"$result": …}`.
        id: Local id inside its chain, `[A-Za-z0-9_-]{1,64}`; empty for a task on its own.
        depends_on: Local ids that must have ended before it starts, besides those its params refer to.
        on_failure: None to let a failure fail the chain, or the default that dependents read instead.
        priority: Place in line.
        timeout_s: Longest single attempt, seconds; None for the agent's own, else 60.
        deadline_s: Seconds from ready to the end; None for 600.
        idempotent: False when doing it twice would harm: then it is sent at most once.
        labels: Only agents that carry all of these.
        agents: Only these agents; empty for any.
        exclude_agents: Never these.
    """

    capability: str
    params: dict[str, Any] = {}
    id: str = ""
    depends_on: tuple[str, ...] = ()
    on_failure: OnFailure | None = None
    priority: Priority = Priority.NORMAL
    timeout_s: float | None = None
    deadline_s: float | None = None
    idempotent: bool = True
    labels: dict[str, str] = {}
    agents: tuple[str, ...] = ()
    exclude_agents: tuple[str, ...] = ()


class Call(msgspec.Struct, frozen=True, gc=False):
    """One attempt as it is handed to a transport.

    Attributes:
        task_id: Global id, `<chain_id>.<local id>`; the agent's idempotency key.
        capability: As the agent declares it, `name` or `name@major`.
        params: Resolved JSON params.
        attempt: Rises with every dispatch of the task, from 1.
        epoch: Rises with every change of the chain's owner; `<epoch>.<attempt>` is the fencing token.
        timeout_s: How long the transport may wait, seconds.
        remaining_s: What is left of the task's deadline, seconds.
        idempotent: False when the work must not be sent twice.
        parent: Trace context of whoever submitted it, as `parse_traceparent` gives it; None for the chain's own trace.
        on_fresh_connection: True when a kept connection has just died under the attempt before: none is used again.
    """

    task_id: str
    capability: str
    params: dict[str, Any]
    attempt: int = 1
    epoch: int = 1
    timeout_s: float = DEFAULT_ATTEMPT_TIMEOUT_S
    remaining_s: float = DEFAULT_TASK_DEADLINE_S
    idempotent: bool = True
    parent: str | None = None
    on_fresh_connection: bool = False

    @property
    def traceparent(self) -> str:
        """The W3C trace context that goes with it; made when asked for."""
        return task_traceparent(self.task_id, self.parent)

    @property
    def fencing_token(self) -> str:
        """`<epoch>.<attempt>`, decimal; compared epoch first."""
        return f"{self.epoch}.{self.attempt}"


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One guarded call, as it is remembered.

    Attributes:
        agent_id: Who was tried.
        number: Rises from 1.
        outcome: How it ended.
        reason: Why, in a short sentence; empty on SUCCESS.
        started_at: UTC.
        ended_at: UTC.
    """

    agent_id: str
    number: int
    outcome: Outcome
    reason: str
    started_at: datetime
    ended_at: datetime


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What one attempt at a task cost.

    Attributes:
        agent_id: The agent that is paid.
        number: Of the attempt.
        kind: `success`, `use` or `assumed`.
        usage: Units that the agent reported, by name.
        amount: In the smallest unit of the asset.
        price: Digest of the price.
    """

    agent_id: str
    number: int
    kind: str
    usage: dict[str, int]
    amount: int
    price: str


class TaskResult(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How a task ended.

    The fields from `by` on are read by this version, and not written yet.

    Attributes:
        task_id: Global id.
        capability: What was asked for.
        status: COMPLETED, FAILED, CANCELLED or SKIPPED.
        result: The agent's JSON on COMPLETED.
        error: Why there is none.
        agent_id: The agent that answered last; None when none was tried.
        attempts: What was tried, in order; the last 30.
        ready_at: UTC; when it could first have run.
        started_at: UTC; when the first attempt began.
        ended_at: UTC.
        by: Id of the API key that answered the wait; empty for none.
        charges: What its attempts cost.
    """

    task_id: str
    capability: str
    status: TaskStatus
    result: Any = always_written(None)
    error: TaskError | None = always_written(None)
    agent_id: str | None = always_written(None)
    attempts: tuple[Attempt, ...] = always_written(())
    ready_at: datetime | None = always_written(None)
    started_at: datetime | None = always_written(None)
    ended_at: datetime | None = always_written(None)
    by: str = ""
    charges: tuple[Charge, ...] = ()
