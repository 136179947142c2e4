"""Every error AICP raises on purpose, in one tree.

    AicpError
    ├── InvalidInput            422  what was given cannot be used; `faults` says where and why, all at once
    │   ├── InvalidTask
    │   ├── InvalidChain
    │   └── InvalidAgent
    ├── NotFound                404
    │   ├── TaskNotFound
    │   ├── ChainNotFound
    │   ├── AgentNotFound
    │   └── KeyNotFound
    ├── Conflict                409
    │   ├── IdempotencyConflict      same key, another body
    │   └── AgentReplaced            a newer instance took the agent's place
    ├── AccessDenied            401  no valid key was shown
    │   └── Forbidden           403  the key is good, but not for this
    │       └── CapabilityRefused    it may not submit tasks or register agents for the capability
    ├── RoutingError                 the public edge of a route that did not end in an answer
    │   ├── NoCapableAgent      422  nobody registered has ever offered the capability
    │   ├── NoAgentAvailable    503  every capable agent is out
    │   ├── AllAgentsFailed     502  tried, and failed everywhere
    │   │   └── AttemptTimedOut      the work seems to need longer than its capability's timeout
    │   ├── DeadlineExceeded    504
    │   └── QueueFull           429
    ├── CircuitBreakerOpen      503
    ├── OwnershipLost           503  another owner has claimed the chain
    ├── NewerVersion            503  the chain has facts of a newer version of AICP
    ├── StorageError            503
    │   └── RecordDamaged       500  a row of the database is not what was written
    ├── ForkedProcess                an object of the parent process was used in a forked child
    └── SettingsError           what the process was started with cannot be used

A class carries a stable `code`; its first docstring line is the default message. Expected refusals on the hot path
are return values: none of these is raised between a submit and its result.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import msgspec

REASONS_MAX = 8
FAULTS_SHOWN_MAX = 5


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong with an input.

    Attributes:
        place: Where, as a JSON pointer into what was given (`/tasks/3/params/image`); empty for the whole.
        message: What is wrong and what to do, one sentence.
    """

    place: str
    message: str


class AttemptSummary(Protocol):
    """What an error tells of an attempt; `aicp.Attempt` is one."""

    @property
    def agent_id(self) -> str:
        """The agent that was tried."""

    @property
    def outcome(self) -> str:
        """How it ended."""

    @property
    def reason(self) -> str:
        """Why, in a sentence."""


class AicpError(Exception):
    """AICP could not do what was asked."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.default_message())

    @classmethod
    def default_message(cls) -> str:
        """The first line of the class's docstring."""
        return (cls.__doc__ or cls.__name__).splitlines()[0]

    @property
    def message(self) -> str:
        """The sentence a person reads."""
        return str(self.args[0])


class InvalidInput(AicpError):
    """The input cannot be used."""

    code = "invalid_input"

    def __init__(self, faults: Sequence[Fault] | str) -> None:
        self.faults: tuple[Fault, ...] = (Fault("", faults),) if isinstance(faults, str) else tuple(faults)
        super().__init__(_told_together(self.default_message(), self.faults))


class InvalidTask(InvalidInput):
    """The task cannot be used."""

    code = "invalid_task"


class InvalidChain(InvalidInput):
    """The chain cannot be used."""

    code = "invalid_chain"


class InvalidAgent(InvalidInput):
    """The agent cannot be registered."""

    code = "invalid_agent"


class NotFound(AicpError):
    """There is no such thing."""

    code = "not_found"


class TaskNotFound(NotFound):
    """There is no such task."""

    code = "task_not_found"


class ChainNotFound(NotFound):
    """There is no such chain."""

    code = "chain_not_found"


class AgentNotFound(NotFound):
    """There is no such agent."""

    code = "agent_not_found"


class KeyNotFound(NotFound):
    """There is no such API key."""

    code = "key_not_found"


class Conflict(AicpError):
    """This contradicts what is already recorded."""

    code = "conflict"


class IdempotencyConflict(Conflict):
    """This idempotency key was used before with another body; send a new key."""

    code = "idempotency_conflict"


class AgentReplaced(Conflict):
    """Another instance has registered under this agent id."""

    code = "agent_replaced"


class AccessDenied(AicpError):
    """A valid key is needed: send `Authorization: Bearer <key>`."""

    code = "access_denied"


class Forbidden(AccessDenied):
    """The key is valid, but not for this."""

    code = "forbidden"


class CapabilityRefused(Forbidden):
    """The key may not submit tasks, or register agents, for this capability.

    Attributes:
        capability: Which.
    """

    code = "capability_refused"

    def __init__(self, capability: str, may_not: str = "submit tasks") -> None:
        self.capability = capability
        super().__init__(f"This key may not {may_not} for '{capability[:160]}'.")


class RoutingError(AicpError):
    """The task found no agent that could answer it."""

    code = "routing_error"


class NoCapableAgent(RoutingError):
    """No agent has ever offered this capability.

    Attributes:
        capability: The capability of the task.
    """

    code = "no_capable_agent"

    def __init__(self, capability: str, similar: str = "", *, message: str = "") -> None:
        self.capability = capability
        advice = f"did you mean '{similar}'?" if similar else "register one that does, or check the name."
        super().__init__(message or f"No agent has ever offered '{capability}'; {advice}")


class NoAgentAvailable(RoutingError):
    """Every capable agent is out.

    Attributes:
        capability: What was asked for.
        retry_after_s: Seconds until the earliest agent may be tried again.
        reasons: At most eight sentences, `<agent>: <why>`.
    """

    code = "no_agent_available"
    retryable = True

    def __init__(self, capability: str, retry_after_s: float, reasons: Sequence[str] = ()) -> None:
        self.capability = capability
        self.retry_after_s = retry_after_s
        self.reasons = tuple(reasons[:REASONS_MAX])
        Exception.__init__(self, capability, retry_after_s, self.reasons)

    @property
    def message(self) -> str:
        """Told only when somebody reads it: refusing stays cheap."""
        told = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"No agent for '{self.capability}' is available{told}; retry after {self.retry_after_s:.1f} s."

    def __str__(self) -> str:
        return self.message


class AllAgentsFailed(RoutingError):
    """Every agent that was tried failed.

    Attributes:
        task_id: The global id of the task.
        attempts: What was tried, in order.
    """

    code = "all_agents_failed"
    retryable = True

    def __init__(self, task_id: str, attempts: Sequence[AttemptSummary], message: str = "") -> None:
        self.task_id = task_id
        self.attempts = tuple(attempts)
        super().__init__(message or self._sentence())

    def _sentence(self) -> str:
        reasons = "; ".join(f"{a.agent_id}: {a.outcome} {a.reason}".strip() for a in self.attempts[-REASONS_MAX:])
        tried = "1 attempt" if len(self.attempts) == 1 else f"{len(self.attempts)} attempts"
        return f"Task {self.task_id} failed at every agent tried, {tried} ({reasons})."


class AttemptTimedOut(AllAgentsFailed):
    """The work ran into its capability's timeout twice; declare a larger `timeout_s` with the capability."""

    code = "attempt_timed_out"
    retryable = False


class DeadlineExceeded(RoutingError):
    """The task's time ran out."""

    code = "deadline_exceeded"


class QueueFull(RoutingError):
    """Too much accepted work is unfinished.

    Attributes:
        retry_after_s: Seconds after which a new submit has a chance.
    """

    code = "queue_full"
    retryable = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class CircuitBreakerOpen(AicpError):
    """The circuit is open: the call was not made.

    Attributes:
        name: The circuit's name.
        retry_after_s: Seconds until it may admit a probe.
    """

    code = "circuit_open"
    retryable = True

    def __init__(self, name: str, retry_after_s: float) -> None:
        self.name = name
        self.retry_after_s = retry_after_s
        Exception.__init__(self, name, retry_after_s)

    @property
    def message(self) -> str:
        """Told only when somebody reads it: raising stays cheap."""
        return f"Circuit '{self.name}' is open; retry after {self.retry_after_s:.2f} s."

    def __str__(self) -> str:
        return self.message


class OwnershipLost(AicpError):
    """Another owner has claimed the chain; drop it here, nothing was recorded."""

    code = "ownership_lost"
    retryable = True


class NewerVersion(AicpError):
    """The chain has facts that only a newer version of AICP reads; a server of that version shows and runs it."""

    code = "newer_version"
    retryable = True


class StorageError(AicpError):
    """The journal could not be read or written."""

    code = "storage_error"
    retryable = True


class RecordDamaged(StorageError):
    """A row of the database is damaged, and is not used.

    Attributes:
        table: Of the row.
        row: The row's key, for people; of a fact its chain and its place in it.
        why: What is wrong with it.
    """

    code = "record_damaged"
    retryable = False

    def __init__(self, table: str, row: str, why: str) -> None:
        self.table = table
        self.row = row
        self.why = why
        super().__init__(
            f"Row {row} of table {table} is damaged and is not used: {why}. Check the database with `aicp db check`, "
            "and restore a backup with `aicp db restore`."
        )


class ForkedProcess(AicpError):
    """An object of the parent process cannot be used in a forked child."""

    code = "forked_process"


class SettingsError(AicpError):
    """AICP was started with something it cannot use."""

    code = "settings_error"


def _told_together(title: str, faults: Sequence[Fault]) -> str:
    told = "; ".join(
        f"{fault.place}: {fault.message}" if fault.place else fault.message for fault in faults[:FAULTS_SHOWN_MAX]
    )
    more = f" (and {len(faults) - FAULTS_SHOWN_MAX} more)" if len(faults) > FAULTS_SHOWN_MAX else ""
    return f"{title.rstrip('.')}: {told}{more}"
