"""Asks agents whose circuits wait at the gate whether they live, so that no user's task has to find out."""

import asyncio

from aicp.model.agent import AgentProfile
from aicp.model.outcome import Outcome, Reply
from aicp.ports import Transport
from aicp.resilience.board import CircuitBoard
from aicp.scheduling.task_scheduler import TaskScheduler

PROBES_IN_FLIGHT_MAX = 64
WAIT_S_MAX_WHILE_OUT = 5.0


class Prober:
    """Probes one agent at a time each, at most 64 together.

    Args:
        transport: Carries the probe.
        board: Learns of its end.
        scheduler: Looks at the agent again after it.
    """

    def __init__(self, transport: Transport, board: CircuitBoard, scheduler: TaskScheduler) -> None:
        self._transport = transport
        self._board = board
        self._scheduler = scheduler
        self._places = asyncio.Semaphore(PROBES_IN_FLIGHT_MAX)
        self._probes: dict[str, asyncio.Task[None]] = {}

    def probe_soon(self, agent: AgentProfile) -> None:
        """Probe the agent, unless a probe of it is under way."""
        if agent.agent_id not in self._probes:
            probe = asyncio.create_task(self._probe(agent), name=f"probe {agent.agent_id}")
            self._probes[agent.agent_id] = probe
            probe.add_done_callback(lambda _: self._probes.pop(agent.agent_id, None))

    def capability_changed(self, key: str, *, is_out: bool) -> None:
        """While all circuits of a capability are out, none waits longer than 5 s for its next probe."""
        if is_out:
            agents = self._scheduler.agents_of(key)
            self._board.cap_waits(agents, key, WAIT_S_MAX_WHILE_OUT)
            for agent_id in agents:
                self._scheduler.refresh(agent_id)

    async def close(self) -> None:
        """Stop every probe."""
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    async def _probe(self, agent: AgentProfile) -> None:
        async with self._places:
            reply = await self._transport.probe(agent)
        self._learn(agent, reply)
        self._scheduler.refresh(agent.agent_id)

    def _learn(self, agent: AgentProfile, reply: Reply) -> None:
        waiting = [
            key for key in self._scheduler.keys_of(agent.agent_id) if self._board.needs_probe(agent.agent_id, key)
        ]
        if reply.outcome is Outcome.SUCCESS:
            self._board.admit_probe(agent.agent_id, waiting)
            return
        self._board.probe_failed(agent.agent_id, waiting)
        for key in waiting:
            if self._scheduler.is_out(key):
                self._board.cap_waits([agent.agent_id], key, WAIT_S_MAX_WHILE_OUT)
        if reply.outcome is Outcome.OVERLOADED and reply.retry_after_s is not None:
            self._board.cool_down(agent.agent_id, reply.retry_after_s)
