"""Asks agents that send no heartbeats how they are."""

import asyncio
import logging
from collections.abc import Iterator

from aicp import standstill
from aicp.model.agent import AgentProfile
from aicp.model.outcome import Outcome, Reply
from aicp.ports import Transport
from aicp.resilience.board import CircuitBoard
from aicp.routing.prober import ask
from aicp.runtime.ains import Ains
from aicp.scheduling.task_scheduler import TaskScheduler, rest_s

ASK_EVERY_S = 15.0
ASKED_AT_ONCE_MAX = 64
_ALIVE = frozenset({Outcome.SUCCESS, Outcome.OVERLOADED})
_BROKEN = frozenset({Outcome.UNAVAILABLE, Outcome.AGENT_FAULT})
_log = logging.getLogger(__name__)


class HealthWatch:
    """Asks each of them every 15 s at its `/healthz`, at most 64 together, for 5 s at most.

    One with a task in hand is not asked: how that ends says more.

    | it answers                       | then                                         |
    |----------------------------------|----------------------------------------------|
    | that it is well                  | it is heard                                  |
    | that it is full, and for how long | it is heard, and left alone for so long      |
    | that it is broken, or nothing    | that is evidence, on each of its circuits    |
    | anything else                    | nothing                                      |

    Args:
        ains: Knows them.
        transport: Carries the question.
        board: Learns of the answer.
        scheduler: Knows who has a task in hand.
    """

    def __init__(self, ains: Ains, transport: Transport, board: CircuitBoard, scheduler: TaskScheduler) -> None:
        self._ains = ains
        self._transport = transport
        self._board = board
        self._scheduler = scheduler

    async def keep_on(self) -> None:
        """Ask, for ever: at once, and then every 15 s."""
        while True:
            try:
                await self._go_round()
            except Exception:  # noqa: BLE001 - supervised: whatever it is, it is logged and the rounds go on
                _log.exception("agents without heartbeats could not be asked how they are")
            await standstill.sleep(ASK_EVERY_S)

    async def _go_round(self) -> None:
        agents = self._ains.without_heartbeats()
        in_turn = iter(agents)
        async with asyncio.TaskGroup() as asking:
            for _ in range(min(len(agents), ASKED_AT_ONCE_MAX)):
                asking.create_task(self._ask_each(in_turn))

    async def _ask_each(self, agents: Iterator[AgentProfile]) -> None:
        for agent in agents:
            if self._ains.is_current(agent) and not self._scheduler.member(agent.agent_id).taken:
                reply = await ask(self._transport, agent)
                if self._ains.is_current(agent):
                    self._learn(agent.agent_id, reply)

    def _learn(self, agent_id: str, reply: Reply) -> None:
        if reply.outcome in _ALIVE:
            self._ains.heard(agent_id)
            if reply.retry_after_s is not None:
                self._board.cool_down(agent_id, rest_s(reply.retry_after_s))
                self._scheduler.refresh(agent_id)
        elif reply.outcome in _BROKEN and reply.evidence:
            self._board.record_evidence(agent_id, self._scheduler.keys_of(agent_id))
