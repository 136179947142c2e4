"""Kills an agent at its work."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

from aicp.demo.processes import AgentProcess
from aicp.demo.progress import AgentKilled, Progress
from aicp.demo.receipts import Receipt


class Killed(msgspec.Struct, frozen=True):
    """A process that was killed.

    Attributes:
        step: What it worked on.
        agent_id: Which agent it was.
        pid: Its id.
        at: When, UTC.
    """

    step: str
    agent_id: str
    pid: int
    at: datetime


class Killing:
    """Sends SIGKILL to the first agent that says that it works on a step.

    The agent waits with its answer until its receipt was heard, which is when this has returned: so it dies between the
    beginning of its work and its answer, however fast or slow the machine is.

    Args:
        step: The step; None to kill nobody.
        agents: The processes by agent.
        tell: Told of the death.

    Attributes:
        killed: Who died; None while nobody did.
    """

    def __init__(self, step: str | None, agents: Mapping[str, AgentProcess], tell: Callable[[Progress], None]) -> None:
        self.killed: Killed | None = None
        self._step = step
        self._agents = agents
        self._tell = tell

    def on_receipt(self, receipt: Receipt) -> None:
        """An agent has begun to work."""
        agent = self._agents.get(receipt.agent_id)
        if self.killed is not None or agent is None or receipt.step != self._step:
            return
        agent.kill()
        self.killed = Killed(receipt.step, agent.agent_id, agent.pid, datetime.now(UTC))
        self._tell(AgentKilled(receipt.step, agent.agent_id, agent.pid))
