"""Who looks on at a node that serves: its metrics, its history, its live events, and its log."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable

from aicp.model.history import HistoryMetric
from aicp.model.task import Priority
from aicp.observability.feed import Feed, Reader, Wanted
from aicp.observability.history import LiveHistory
from aicp.observability.logs import EventLog, set_up_json, set_up_text
from aicp.observability.metrics import AGENTS_MAX, CONTENT_TYPE, AgentReading, Metrics, Reading
from aicp.ports import Observer, SystemClock
from aicp.resilience.circuit_breaker import CircuitState
from aicp.runtime.node import Node
from aicp.runtime.settings import LogFormat
from aicp.scheduling.slices import in_slices
from aicp.standstill import standstills_of
from aicp.version import __version__

METRICS_TYPE = CONTENT_TYPE
AGENTS_AT_ONCE = 1_000
STATES = tuple(state.value for state in CircuitState)


class Onlookers:
    """The metrics, history and live events of a node, from `begin` to `end`.

    Args:
        node: What to look at.
        log_events: True to log what fails and what changes as well.
    """

    def __init__(self, node: Node, *, log_events: bool = False) -> None:
        self._node = node
        submitted = node.coordinator.running
        self._metrics = Metrics(submitted, __version__)
        self._history = LiveHistory(submitted, SystemClock())
        self._feed = Feed(submitted, SystemClock().utcnow, relay=node.relay)
        self._observers: list[Observer] = [self._metrics, self._history, self._feed]
        if log_events:
            self._observers.append(EventLog(submitted))
        self._stops: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Look on from now."""
        self._stops = [self._node.observe(observer) for observer in self._observers]
        self._stops.append(self._node.listen(self._feed))

    def end(self) -> None:
        """Look on no more, and end everybody who reads live events."""
        self._feed.close()
        for stop in self._stops:
            stop()

    def read(
        self,
        tenant: str | None,
        *,
        chain_id: str = "",
        agent_id: str = "",
        kinds: frozenset[str] = frozenset(),
        after: str | None,
    ) -> Reader | None:
        """Begin to read live events of a tenant, or of everybody for None, as `Feed.read` does."""
        return self._feed.read(tenant, Wanted(chain_id, agent_id, kinds), after)

    async def history(
        self, tenant: str | None, capability: str | None, agent_id: str | None, metric: HistoryMetric | None
    ) -> list[bytes]:
        """The last 15 minutes, as `LiveHistory.written` tells them; other work of the loop goes on meanwhile."""
        return await in_slices(self._history.written(tenant, capability, agent_id, metric))

    async def metrics(self) -> bytes:
        """The page that Prometheus reads. It costs a look at every agent, with turns for others in between."""
        return await self._metrics.page(await self._reading())

    async def _reading(self) -> Reading:
        node = self._node
        agents: list[AgentReading] = []
        others = Counter[str]()
        other_slots = other_inflight = 0
        for index, member in enumerate(list(node.scheduler.members())):
            agent_id = member.profile.agent_id
            state = node.board.get_state(agent_id).value
            if index < AGENTS_MAX:
                agents.append(AgentReading(agent_id, state, member.slots, member.taken))
                continue
            others[state] += 1
            other_slots += member.slots
            other_inflight += member.taken
            if index % AGENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return Reading(
            states=STATES,
            agents=tuple(agents),
            others=others,
            other_slots=other_slots,
            other_inflight=other_inflight,
            waiting=self._waiting(),
            rejections=self._rejections(),
            events_dropped=self._feed.dropped,
            wal_bytes=None if node.stores.file is None else node.stores.file.wal_bytes,
            is_damaged=bool(node.damage),
            defects=node.coordinator.defects.count,
            clock_steps=node.progress.steps_seen,
            standstill_s=standstills_of(asyncio.get_running_loop()).total_s,
        )

    def _waiting(self) -> dict[tuple[str, Priority], int]:
        """How many wait for each capability that somebody ever offered."""
        scheduler = self._node.scheduler
        counts = dict[tuple[str, Priority], int]()
        for fleet in scheduler.fleets():
            line = scheduler.waiting(fleet.key)
            waiting = line.by_priority() if line is not None else {}
            counts.update({(fleet.key, priority): waiting.get(priority, 0) for priority in Priority})
        return counts

    def _rejections(self) -> dict[str, int]:
        too_late = sum(fleet.refused.total() for fleet in self._node.scheduler.fleets())
        return {
            "circuit_open": self._node.board.rejected,
            "deadline": too_late,
            "queue_full": self._node.coordinator.refused,
        }


def set_up_logs(log_format: LogFormat) -> None:
    """Let the process log to stderr."""
    if log_format is LogFormat.JSON:
        set_up_json(sys.stderr)
    else:
        set_up_text(sys.stderr)
