"""Waits until every agent has registered, or says which one did not, and what it said last."""

import asyncio
from collections.abc import Iterable, Mapping

from aicp.demo.processes import AgentProcess
from aicp.errors import AicpError
from aicp.model.event import AgentChanged, Event

REGISTRATION_S_MAX = 60.0


class AgentMissing(AicpError):
    """An agent did not come up."""


class RollCall:
    """Observes a node until everybody was heard.

    Args:
        expected: Ids of the agents that shall register.
    """

    def __init__(self, expected: Iterable[str]) -> None:
        self._missing = set(expected)
        self._complete = asyncio.Event()

    def notify(self, event: Event) -> None:
        """As an observer: somebody has registered."""
        if isinstance(event, AgentChanged) and event.change == "registered":
            self._missing.discard(event.agent_id)
            if not self._missing:
                self._complete.set()

    async def complete(self, agents: Mapping[str, AgentProcess]) -> None:
        """Wait until everybody has registered, at most a minute.

        Raises:
            AgentMissing: A process has ended before, or the minute is over.
        """
        complete = asyncio.ensure_future(self._complete.wait())
        ends = {asyncio.ensure_future(agent.ended()): agent for agent in agents.values()}
        try:
            await asyncio.wait({complete, *ends}, timeout=REGISTRATION_S_MAX, return_when=asyncio.FIRST_COMPLETED)
            if not self._complete.is_set():
                died = [(agent, end.result()) for end, agent in ends.items() if end.done()]
                raise AgentMissing(_told_death(*died[0]) if died else self._told_delay(agents))
        finally:
            complete.cancel()
            for end in ends:
                end.cancel()
            await asyncio.gather(complete, *ends, return_exceptions=True)

    def _told_delay(self, agents: Mapping[str, AgentProcess]) -> str:
        late = sorted(self._missing)
        return (
            f"{', '.join(late)} did not register within {REGISTRATION_S_MAX:.0f} s, the machine may be too busy; "
            f"the last that {late[0]} wrote: {agents[late[0]].last_words()}"
        )


def _told_death(agent: AgentProcess, code: int) -> str:
    return (
        f"{agent.agent_id} (pid {agent.pid}) ended with code {code} before it had registered; "
        f"the last it wrote: {agent.last_words()}"
    )
