"""Asks agents whose circuits wait at the gate whether they live, so that no user's task has to find out."""

import asyncio
import logging

from aicp import standstill
from aicp.model.agent import AgentProfile
from aicp.model.outcome import Outcome, Reply
from aicp.ports import Transport
from aicp.resilience.board import CircuitBoard
from aicp.scheduling.fleet import Pool
from aicp.scheduling.task_scheduler import TaskScheduler, rest_s

PROBES_IN_FLIGHT_MAX = 64
WAIT_S_MAX_WHILE_OUT = 5.0
PROBE_TIMEOUT_S = 5.0
AFTER_DEFECT_S = 1.0
"""How long after an exception inside AICP the agent is probed again."""
_log = logging.getLogger(__name__)


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
        self._again: dict[str, asyncio.TimerHandle] = {}
        self._is_closed = False

    def probe_soon(self, agent: AgentProfile) -> None:
        """Probe the agent, unless a probe of it is under way."""
        if agent.agent_id not in self._probes and not self._is_closed:
            probe = asyncio.create_task(self._probe(agent), name=f"probe {agent.agent_id}")
            self._probes[agent.agent_id] = probe
            probe.add_done_callback(lambda ended: self._has_ended(agent, ended))

    def pool_changed(self, pool: Pool, *, is_out: bool) -> None:
        """While all circuits of a capability are out, none waits longer than 5 s for its next probe."""
        if is_out:
            agents = [seat.agent_id for seat in pool.seats]
            self._board.cap_waits(agents, pool.key, WAIT_S_MAX_WHILE_OUT)
            for agent_id in agents:
                self._scheduler.refresh(agent_id)

    def circuit_opened(self, agent_id: str, key: str) -> None:
        """The same for one that opens while its capability is out already: a failed probe must not lengthen that."""
        if self._scheduler.is_out(agent_id, key):
            self._board.cap_waits([agent_id], key, WAIT_S_MAX_WHILE_OUT)
            self._scheduler.refresh(agent_id)

    async def close(self) -> None:
        """Stop every probe, and begin no more."""
        self._is_closed = True
        for timer in self._again.values():
            timer.cancel()
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    async def _probe(self, agent: AgentProfile) -> None:
        async with self._places:
            reply = await ask(self._transport, agent)
        self._learn(agent, reply)
        self._scheduler.refresh(agent.agent_id)

    def _has_ended(self, agent: AgentProfile, probe: asyncio.Task[None]) -> None:
        """After an exception nothing else would look at the agent again."""
        self._probes.pop(agent.agent_id, None)
        error = None if probe.cancelled() else probe.exception()
        if error is None or self._is_closed:
            return
        told = "probe of agent %s: defect, probing again in %s s"
        _log.error(told, agent.agent_id, AFTER_DEFECT_S, exc_info=error, extra={"agent_id": agent.agent_id})
        loop = asyncio.get_running_loop()
        self._again[agent.agent_id] = loop.call_later(AFTER_DEFECT_S, self._probe_again, agent)

    def _probe_again(self, agent: AgentProfile) -> None:
        del self._again[agent.agent_id]
        self.probe_soon(agent)

    def _learn(self, agent: AgentProfile, reply: Reply) -> None:
        waiting = [key for key in self._scheduler.keys_of(agent.agent_id) if self._is_due(agent.agent_id, key)]
        if reply.outcome is Outcome.SUCCESS:
            self._board.admit_probe(agent.agent_id, waiting)
            return
        if reply.outcome is Outcome.OVERLOADED and reply.retry_after_s is not None:
            self._board.cool_down(agent.agent_id, rest_s(reply.retry_after_s))
            return
        self._board.probe_failed(agent.agent_id, waiting)
        for key in waiting:
            if self._scheduler.is_out(agent.agent_id, key):
                self._board.cap_waits([agent.agent_id], key, WAIT_S_MAX_WHILE_OUT)

    def _is_due(self, agent_id: str, key: str) -> bool:
        return self._board.needs_probe(agent_id, key) and not self._board.ready_in_s(agent_id, key)


async def ask(transport: Transport, agent: AgentProfile) -> Reply:
    """What an agent says at its `/healthz` within 5 s; from a transport that hangs or raises comes no answer."""
    try:
        async with standstill.timeout(PROBE_TIMEOUT_S):
            return await transport.probe(agent)
    except TimeoutError:
        return Reply(Outcome.AGENT_FAULT, reason="no answer to the probe", timed_out=True)
    except Exception as error:  # noqa: BLE001 - one agent's probe is not the others' trouble
        _log.exception("the transport failed to probe agent %s", agent.agent_id)
        return Reply(Outcome.AGENT_FAULT, reason=f"transport: {type(error).__name__}", evidence=False)
