"""What happens in the demo, as it happens: values for whoever draws them."""

import msgspec

from aicp.model.task import TaskStatus


class AgentStarted(msgspec.Struct, frozen=True):
    """A process was started.

    Attributes:
        agent_id: Which agent it will be.
        pid: Its id.
    """

    agent_id: str
    pid: int


class AgentRegistered(msgspec.Struct, frozen=True):
    """An agent made itself known through AINS.

    Attributes:
        agent_id: Who.
    """

    agent_id: str


class StepStarted(msgspec.Struct, frozen=True):
    """A step was handed to an agent.

    Attributes:
        step: Which.
        agent_id: To whom.
        attempt: Rises from 1.
    """

    step: str
    agent_id: str
    attempt: int


class AgentKilled(msgspec.Struct, frozen=True):
    """A process got SIGKILL while it worked.

    Attributes:
        step: On what.
        agent_id: Which agent it was.
        pid: Its id.
    """

    step: str
    agent_id: str
    pid: int


class AttemptFailed(msgspec.Struct, frozen=True):
    """An attempt failed.

    Attributes:
        step: Which.
        agent_id: Who had it.
        reason: Why it failed.
    """

    step: str
    agent_id: str
    reason: str


class StepEnded(msgspec.Struct, frozen=True):
    """A step reached its end.

    Attributes:
        step: Which.
        status: How.
        agent_id: Who had it last; empty when nobody had it.
    """

    step: str
    status: TaskStatus
    agent_id: str


Progress = AgentStarted | AgentRegistered | StepStarted | AgentKilled | AttemptFailed | StepEnded
