"""AICP itself: a whole node, with nothing scripted but the wire to the agents."""

from aicp import Node
from aicp.errors import RoutingError
from aicp.model.agent import AgentAuth, AgentProfile, Capability
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, Task, TaskStatus
from aicp.model.wire import AgentDescription
from aicp.testing import VirtualClock
from benchmarks.flow.simulated.fleet import Agent, End
from benchmarks.flow.simulated.policy import Stage
from benchmarks.flow.simulated.workload import Job

CAPABILITY = "work"

_REPLIES = {
    End.DONE: Reply(Outcome.SUCCESS, result={}),
    End.REFUSED: Reply(Outcome.UNAVAILABLE, reason="connection refused", repeatable=True, whole_agent=True),
    End.UNREACHABLE: Reply(Outcome.UNAVAILABLE, reason="no connection", repeatable=True, whole_agent=True),
    End.RESET: Reply(Outcome.AGENT_FAULT, reason="connection closed before the answer"),
    End.TIMEOUT: Reply(Outcome.AGENT_FAULT, reason="no answer in time", timed_out=True),
}


class Wire:
    """The transport to simulated agents: `params["number"]` says which job a call is about."""

    def __init__(self, agents: dict[str, Agent], jobs: dict[int, Job]) -> None:
        self._agents = agents
        self._jobs = jobs

    async def invoke(self, agent: AgentProfile, call: Call) -> Reply:
        """Let the agent work."""
        job = self._jobs[call.params["number"]]
        return _REPLIES[await self._agents[agent.agent_id].serve(job, call.timeout_s)]

    async def probe(self, agent: AgentProfile) -> Reply:
        """Ask the agent how it is."""
        is_well = await self._agents[agent.agent_id].is_well()
        return Reply(Outcome.SUCCESS) if is_well else _REPLIES[End.UNREACHABLE]

    async def check(self, endpoint_url: str) -> None:
        """Agents may live anywhere."""

    async def describe(self, endpoint_url: str, auth: AgentAuth | None = None) -> AgentDescription:
        """Nobody asks."""
        raise NotImplementedError(f"simulated agents are registered whole, {endpoint_url} too, auth {auth}")

    async def close(self) -> None:
        """Nothing is held."""


class ThroughAicp:
    """Routes every task through a node, and waits for it."""

    def __init__(self, stage: Stage) -> None:
        self._jobs: dict[int, Job] = {}
        wire = Wire({agent.model.name: agent for agent in stage.agents}, self._jobs)
        self._node = Node(clock=VirtualClock(), seed=stage.rng.getrandbits(32), make_remote=lambda: wire)
        capability = Capability(CAPABILITY, timeout_s=stage.timeout_s)
        for port, agent in enumerate(stage.agents, start=10_000):
            model = agent.model
            self._node.ains.put(
                AgentProfile(model.name, (capability,), model.slots, endpoint=f"http://127.0.0.1:{port}")
            )

    async def carry(self, job: Job) -> bool:
        """Route it."""
        self._jobs[job.number] = job
        task = Task(CAPABILITY, {"number": job.number}, priority=job.priority, deadline_s=job.deadline_s)
        try:
            result = await self._node.router.route_task(task, wait=True)
        except RoutingError:
            return False
        finally:
            del self._jobs[job.number]
        return result.status is TaskStatus.COMPLETED

    async def open(self) -> None:
        """Start the node."""
        await self._node.__aenter__()

    async def close(self) -> None:
        """Stop the node."""
        await self._node.__aexit__(None, None, None)
