"""Agents in memory that fail as they are told; they wait with `asyncio.sleep`, so they live on virtual time as well.

transport = ScriptedTransport(
ScriptedAgent("a", [ok(), crash()]),
ScriptedAgent("b", latency_s=0.2),
)
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from aicp import standstill
from aicp.model.agent import AgentProfile, Capability
from aicp.model.outcome import Outcome, Reply, TaskError
from aicp.model.task import Call
from aicp.testing.gauge import Gauge

LATENCY_S = 0.01
CALLS_KEPT_MAX = 100_000

Step = Callable[["ScriptedAgent", Call], Awaitable[Reply]]
"""How an agent behaves in one call."""


class RecordedCall(msgspec.Struct, frozen=True):
    """A call that reached an agent.

    Attributes:
        agent_id: Which.
        call: As it was handed over.
        began_at: The loop's time, seconds.
    """

    agent_id: str
    call: Call
    began_at: float


def ok(after_s: float | None = None, *, result: Any = None) -> Step:
    """Succeed.

    Args:
        after_s: How long it takes; None for the agent's latency.
        result: None to answer with the params.
    """
    reply = None if result is None else Reply(Outcome.SUCCESS, result)

    async def step(agent: "ScriptedAgent", call: Call) -> Reply:
        await asyncio.sleep(agent.latency_s if after_s is None else after_s)
        return reply or Reply(Outcome.SUCCESS, call.params)

    return step


def slow(factor: float) -> Step:
    """Succeed, taking so many times the agent's latency."""

    async def step(agent: "ScriptedAgent", call: Call) -> Reply:
        await asyncio.sleep(agent.latency_s * factor)
        return Reply(Outcome.SUCCESS, call.params)

    return step


def hang() -> Step:
    """Never answer; the call ends when its time is over."""

    async def step(_agent: "ScriptedAgent", call: Call) -> Reply:
        await asyncio.get_running_loop().create_future()
        return _no_answer(call)

    return step


def crash(after_s: float = 0.0) -> Step:
    """Die at it, with every other call under way; be refused from then on, until `revive`."""

    async def step(agent: "ScriptedAgent", _call: Call) -> Reply:
        await asyncio.sleep(after_s)
        agent.kill()
        return _CONNECTION_LOST

    return step


def fault(reason: str = "answer is not JSON", *, after_s: float | None = None) -> Step:
    """AGENT_FAULT, beyond doubt: the task cannot be the cause."""
    return replies(Reply(Outcome.AGENT_FAULT, reason=reason), after_s=after_s)


def server_error(status: int = 500, *, after_s: float | None = None) -> Step:
    """AGENT_FAULT of a living agent, which answers a 5xx in time: the task may be the cause."""
    transient = status in {502, 503, 504}
    reply = Reply(Outcome.AGENT_FAULT, reason=f"answered {status}", symptom=str(status), transient=transient)
    return replies(reply, after_s=after_s)


def retryable_error(code: str = "busy_elsewhere", *, after_s: float | None = None) -> Step:
    """AGENT_FAULT by the agent's own word, repeatable even if the task is not idempotent."""
    error = TaskError(code, code)
    reply = Reply(
        Outcome.AGENT_FAULT, error=error, reason=code, repeatable=True, symptom=f"error {code}", transient=True
    )
    return replies(reply, after_s=after_s)


def task_failed(code: str = "no_face", message: str = "", *, after_s: float | None = None) -> Step:
    """TASK_FAILED: the agent says no."""
    reply = Reply(Outcome.TASK_FAILED, error=TaskError(code, message), reason=message or code)
    return replies(reply, after_s=after_s)


def caller_fault(reason: str = "answered 400", *, after_s: float | None = None) -> Step:
    """CALLER_FAULT."""
    return replies(Reply(Outcome.CALLER_FAULT, reason=reason), after_s=after_s)


def overloaded(retry_after_s: float | None = None) -> Step:
    """OVERLOADED, at once."""
    reply = Reply(
        Outcome.OVERLOADED, reason="answered 429", retry_after_s=retry_after_s, repeatable=True, whole_agent=True
    )
    return replies(reply, after_s=0.0)


def unavailable() -> Step:
    """UNAVAILABLE, at once: not reached."""
    return replies(_REFUSED, after_s=0.0)


def local_trouble() -> Step:
    """UNAVAILABLE for a reason of our own, at once."""
    return replies(_SHUT_DOWN, after_s=0.0)


def misconfigured(*, whole_agent: bool = True) -> Step:
    """MISCONFIGURED, at once: 401, or 404 for the capability alone."""
    reason = "answered 401" if whole_agent else "answered 404"
    reply = Reply(Outcome.MISCONFIGURED, reason=reason, repeatable=True, whole_agent=whole_agent)
    return replies(reply, after_s=0.0)


def stale() -> Step:
    """CANCELLED, at once: the agent knows a newer fencing token."""
    return replies(Reply(Outcome.CANCELLED, reason="answered 409", stale=True), after_s=0.0)


def replies(reply: Reply, *, after_s: float | None = None) -> Step:
    """Any reply; after the agent's latency when no time is given."""

    async def step(agent: "ScriptedAgent", _call: Call) -> Reply:
        await asyncio.sleep(agent.latency_s if after_s is None else after_s)
        return reply

    return step


class ScriptedAgent:
    """An agent that does one step of its script for each call.

    Args:
        agent_id: Its name.
        script: What it does in its first calls, in order of their arrival.
        otherwise: What it does when the script is over.
        latency_s: What it usually takes.
        capabilities: Names it offers.
        max_concurrent_tasks: Its slots.

    Attributes:
        latency_s: May be changed at any time.
        calls: What reached it, in order; the last 100,000.
        under_way: How many calls it has now.
        probes: How often it was asked whether it is alive.
    """

    def __init__(
        self,
        agent_id: str,
        script: Iterable[Step] = (),
        *,
        otherwise: Step | None = None,
        latency_s: float = LATENCY_S,
        capabilities: Iterable[str] = ("test.echo",),
        max_concurrent_tasks: int = 1,
    ) -> None:
        self.profile = AgentProfile(
            agent_id, tuple(Capability(name) for name in capabilities), max_concurrent_tasks=max_concurrent_tasks
        )
        self.latency_s = latency_s
        self.calls: deque[RecordedCall] = deque(maxlen=CALLS_KEPT_MAX)
        self.under_way = Gauge()
        self.probes = 0
        self._script = iter(script)
        self._otherwise = otherwise or ok()
        self._is_alive = True
        self._scopes: dict[standstill.Timeout, None] = {}

    @property
    def is_alive(self) -> bool:
        """False from `kill` to `revive`."""
        return self._is_alive

    def kill(self) -> None:
        """Die: calls under way lose their connection, later ones are refused."""
        self._is_alive = False
        self.cut_off()

    def revive(self) -> None:
        """Live again, and go on with the script."""
        self._is_alive = True

    def cut_off(self) -> None:
        """End every call under way now."""
        for scope in self._scopes:
            scope.expire()

    async def invoke(self, call: Call) -> Reply:
        """Do the next step, for at most `call.timeout_s`."""
        if not self._is_alive:
            return _REFUSED
        self.calls.append(RecordedCall(self.profile.agent_id, call, asyncio.get_running_loop().time()))
        step = next(self._script, self._otherwise)
        scope = standstill.timeout(call.timeout_s)
        self._scopes[scope] = None
        try:
            with self.under_way.one_more():
                async with scope:
                    return await step(self, call)
        except TimeoutError:
            return _no_answer(call) if self._is_alive else _CONNECTION_LOST
        finally:
            del self._scopes[scope]

    async def probe(self) -> Reply:
        """SUCCESS while it lives."""
        self.probes += 1
        return Reply(Outcome.SUCCESS) if self._is_alive else _REFUSED


class ScriptedTransport:
    """A transport to scripted agents.

    Args:
        *agents: Whom it reaches.
    """

    def __init__(self, *agents: ScriptedAgent) -> None:
        self._agents = {agent.profile.agent_id: agent for agent in agents}
        self._is_closed = False

    @property
    def calls(self) -> list[RecordedCall]:
        """What reached the agents, all together, by time."""
        return sorted((call for agent in self._agents.values() for call in agent.calls), key=lambda c: c.began_at)

    def add(self, agent: ScriptedAgent) -> None:
        """One more agent, or another under the same name."""
        self._agents[agent.profile.agent_id] = agent

    async def invoke(self, agent: AgentProfile, call: Call) -> Reply:
        """Hand the call to the agent of that name."""
        if self._is_closed:
            return _SHUT_DOWN
        scripted = self._agents.get(agent.agent_id)
        reply = _REFUSED if scripted is None else await scripted.invoke(call)
        return _SHUT_DOWN if self._was_cut_off(reply) else reply

    async def probe(self, agent: AgentProfile) -> Reply:
        """Ask the agent of that name."""
        if self._is_closed:
            return _SHUT_DOWN
        scripted = self._agents.get(agent.agent_id)
        return _REFUSED if scripted is None else await scripted.probe()

    async def close(self) -> None:
        """End calls under way as local trouble."""
        self._is_closed = True
        for agent in self._agents.values():
            agent.cut_off()

    def _was_cut_off(self, reply: Reply) -> bool:
        return self._is_closed and reply.outcome is Outcome.AGENT_FAULT


_REFUSED = Reply(Outcome.UNAVAILABLE, reason="connection refused", repeatable=True, whole_agent=True)
_CONNECTION_LOST = Reply(Outcome.AGENT_FAULT, reason="connection closed before the answer")
_SHUT_DOWN = Reply(Outcome.UNAVAILABLE, reason="this node is shutting down", repeatable=True, evidence=False)


def _no_answer(call: Call) -> Reply:
    return Reply(Outcome.AGENT_FAULT, reason=f"no answer within {call.timeout_s:.3g} s", timed_out=True)
