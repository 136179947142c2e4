"""Bodies and headers between AICP and an agent: one definition for the SDK that serves and the transport that calls."""

from typing import Any

import msgspec

from aicp.model.agent import Capability
from aicp.model.outcome import TaskError

ANSWER_BYTES_MAX = 16 * 1024 * 1024
PARAMS_BYTES_MAX = 16 * 1024 * 1024
ERROR_CODE_CHARS_MAX = 200
ERROR_MESSAGE_CHARS_MAX = 4_000
KEY_HEADER = "Idempotency-Key"
DEADLINE_HEADER = "X-AICP-Deadline-Ms"
FENCING_HEADER = "X-AICP-Fencing-Token"
TRACE_HEADER = "traceparent"
STALE_TOKEN = "stale_token"  # noqa: S105 - an error code


class Invocation(msgspec.Struct, frozen=True):
    """Body of `POST /invoke`.

    Attributes:
        task_id: Global task id; also the idempotency key.
        capability: As the agent declares it, `name` or `name@major`.
        params: JSON object.
        attempt: Rises from 1.
    """

    task_id: str
    capability: str
    params: dict[str, Any]
    attempt: int = 1


class AgentError(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an agent says no.

    Attributes:
        code: The agent's own, stable.
        message: For a person.
        retryable: True when another agent may well succeed.
    """

    code: str
    message: str = ""
    retryable: bool = False

    def as_task_error(self) -> TaskError:
        """The part that a task remembers: at most 200 characters of the code, and 4,000 of the message.

        It stands in every view and list of its task, where a result of any size does not.
        """
        return TaskError(_at_most(self.code, ERROR_CODE_CHARS_MAX), _at_most(self.message, ERROR_MESSAGE_CHARS_MAX))


class TaskFailed(Exception):
    """Raised by a handler to say no: this task cannot be done, and the agent is not at fault.

    The same for a function of a node (`aicp.TaskFailed`) and for an agent in its own process (`aicp.agent`).

    Attributes:
        code: Stable, lower case with underscores, the agent's own (`no_face_found`).
        message: A sentence for a person.
        retryable: True when another agent may well succeed: AICP then fails over, and it does count against this one.
    """

    def __init__(self, code: str, message: str = "", *, retryable: bool = False) -> None:
        super().__init__(code, message)
        self.code = str(code)
        self.message = str(message)
        self.retryable = bool(retryable)

    @property
    def error(self) -> AgentError:
        """As it goes to the caller."""
        return AgentError(self.code, self.message, self.retryable)


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of a 200: a result or an error, for the task that was asked.

    Attributes:
        task_id: Echo of the invocation's.
        result: JSON; `msgspec.UNSET` when there is none.
        error: Why there is none.
    """

    task_id: str
    result: Any = msgspec.UNSET
    error: AgentError | msgspec.UnsetType = msgspec.UNSET


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of a 409, 429 or 503.

    Attributes:
        error: What is wrong.
        retry_after_ms: When to come again, milliseconds.
    """

    error: AgentError | msgspec.UnsetType = msgspec.UNSET
    retry_after_ms: int | msgspec.UnsetType = msgspec.UNSET


class AgentDescription(msgspec.Struct, frozen=True):
    """Body of `GET /describe`.

    Attributes:
        agent_id: Who it is.
        capabilities: What it can do.
        instance_id: Changes with every start of its process.
        max_concurrent_tasks: Its slots.
    """

    agent_id: str
    capabilities: tuple[Capability, ...]
    instance_id: str = ""
    max_concurrent_tasks: int = 1


class _DescribedCapability(Capability, frozen=True, forbid_unknown_fields=False):
    """A capability as an agent describes it: an agent newer than this code may say more of it."""


class _Description(AgentDescription, frozen=True):
    capabilities: tuple[_DescribedCapability, ...]


_descriptions = msgspec.json.Decoder(_Description)


def read_description(body: bytes) -> AgentDescription:
    """The body of `GET /describe`; fields that are not known here are ignored.

    Raises:
        ValueError: The body is not a description; says why.
        RecursionError: The body is nested too deep.
    """
    described = _descriptions.decode(body)
    capabilities = tuple(Capability(*msgspec.structs.astuple(each)) for each in described.capabilities)
    return AgentDescription(described.agent_id, capabilities, described.instance_id, described.max_concurrent_tasks)


def _at_most(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"
