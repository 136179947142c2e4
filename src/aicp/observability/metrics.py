"""Metrics for Prometheus: counted from events, measured at the scrape. The names and labels are a contract.

How many series there are is bounded: the first 100 capabilities and the first 100 agents have their own, whatever comes
after them shares the label `_other`.
"""

import asyncio
import platform
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from aicp.model.duration import seconds_between
from aicp.model.event import (
    AttemptEnded,
    AttemptStarted,
    ChainEnded,
    ChainSubmitted,
    CircuitChanged,
    Event,
    JournalCommitted,
    RowDamaged,
    TaskEnded,
)
from aicp.model.task import Priority, TaskStatus

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
CAPABILITIES_MAX = 100
AGENTS_MAX = 100
OTHER = "_other"
TASK_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
CHAIN_BUCKETS_S = (0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)
COMMIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_MAJOR_ONE = "@1"
_RAN = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED})


class AgentReading(msgspec.Struct, frozen=True):
    """One agent at the moment of a scrape.

    Attributes:
        agent_id: Who.
        state: The worst of its circuits.
        slots: How many tasks it takes at once.
        inflight: How many it has.
    """

    agent_id: str
    state: str
    slots: int
    inflight: int


class Reading(msgspec.Struct, frozen=True):
    """What is measured rather than counted, at the moment of a scrape.

    Attributes:
        states: Every state that a circuit can have.
        agents: The first of the fleet, each by itself; at most `AGENTS_MAX`.
        others: How many of the other agents are in each state.
        other_slots: Of the other agents together.
        other_inflight: Of the other agents together.
        waiting: How many tasks stand in line, by capability and priority.
        rejections: What was refused since the start, by reason.
        events_dropped: Live events that slow readers missed.
        wal_bytes: Size of the write-ahead log of the record's file; None where it is not a file.
        is_damaged: True once that file was found damaged.
        defects: Exceptions out of parts of AICP that must raise none.
        clock_steps: Times that the wall clock was set while the server ran.
        standstill_s: Seconds for which this process stood still, since it serves.
    """

    states: tuple[str, ...]
    agents: tuple[AgentReading, ...]
    others: Mapping[str, int]
    other_slots: int
    other_inflight: int
    waiting: Mapping[tuple[str, Priority], int]
    rejections: Mapping[str, int]
    events_dropped: int
    standstill_s: float
    wal_bytes: int | None = None
    is_damaged: bool = False
    defects: int = 0
    clock_steps: int = 0


class Metrics:
    """Counts events, as an observer; `page` writes what was counted and what was measured.

    An event costs some microseconds, and a page at the bounds some tenths of a second of a thread.

    Args:
        submitted: What was submitted as a chain that runs; None for one that does not.
        version: Of AICP.
    """

    def __init__(self, submitted: Callable[[str], ChainSubmitted | None], version: str) -> None:
        self._submitted = submitted
        self._version = version
        self._capabilities: set[str] = set()
        self._registry = CollectorRegistry()
        self._tasks = self._counter("aicp_tasks", "Tasks that ended.", "capability", "status")
        self._attempts = self._counter("aicp_attempts", "Attempts that ended.", "capability", "outcome")
        self._failovers = self._counter("aicp_failovers", "Attempts beyond the first of their task.", "capability")
        self._transitions = self._counter(
            "aicp_circuit_transitions", "Circuits that came into a state.", "capability", "state"
        )
        self._task_s = self._histogram(
            "aicp_task_duration_seconds", "From ready to the end, of tasks that completed or failed.",
            TASK_BUCKETS_S, "capability",
        )  # fmt: skip
        self._wait_s = self._histogram(
            "aicp_queue_wait_seconds", "From when an attempt asked for an agent until it had one.",
            TASK_BUCKETS_S, "capability", "priority",
        )  # fmt: skip
        self._chain_s = self._histogram(
            "aicp_chain_duration_seconds", "From the submit to the end.", CHAIN_BUCKETS_S, "status"
        )
        self._damaged_rows = self._counter("aicp_damaged_rows", "Rows of the database found damaged.", "table")
        self._commit_s = Histogram(
            "aicp_journal_commit_seconds", "A transaction of the journal, on its disk.", buckets=COMMIT_BUCKETS_S,
            registry=self._registry,
        )  # fmt: skip
        self._count_of: dict[type, Callable[[Any], None]] = {
            AttemptStarted: self._attempt_started,
            AttemptEnded: self._attempt_ended,
            TaskEnded: self._task_ended,
            ChainEnded: self._chain_ended,
            CircuitChanged: self._circuit_changed,
            JournalCommitted: self._journal_committed,
            RowDamaged: self._row_damaged,
        }

    def notify(self, event: Event) -> None:
        """Something happened."""
        count = self._count_of.get(type(event))
        if count is not None:
            count(event)

    async def page(self, reading: Reading) -> bytes:
        """Everything, in the text format of Prometheus; it is written in a thread, since that takes a while."""
        measured = list(self._measured(reading))
        return await asyncio.to_thread(lambda: generate_latest(_Page(self._counted(), measured)))

    def _attempt_ended(self, event: AttemptEnded) -> None:
        self._attempts(self._named(event.capability), event.outcome.value).inc()

    def _circuit_changed(self, event: CircuitChanged) -> None:
        self._transitions(self._named(event.capability), event.state).inc()

    def _row_damaged(self, event: RowDamaged) -> None:
        self._damaged_rows(event.table).inc()

    def _journal_committed(self, event: JournalCommitted) -> None:
        self._commit_s.observe(event.elapsed_s)

    def _attempt_started(self, event: AttemptStarted) -> None:
        capability = self._named(event.capability)
        self._wait_s(capability, event.priority.value).observe(event.waited_s)
        if event.number > 1:
            self._failovers(capability).inc()

    def _task_ended(self, event: TaskEnded) -> None:
        result, submitted = event.result, self._submitted(event.chain_id)
        if submitted is not None and result.ended_at is not None and result.ended_at < submitted.at:
            return  # Copied from the chain that this one repeats: it was counted there.
        capability = self._named(result.capability)
        self._tasks(capability, result.status.value).inc()
        if result.status in _RAN and result.ready_at is not None and result.ended_at is not None:
            elapsed_s = seconds_between(result.ready_at, result.ended_at)
            self._task_s(capability).observe(max(0.0, elapsed_s))

    def _chain_ended(self, event: ChainEnded) -> None:
        submitted = self._submitted(event.chain_id)
        if submitted is not None:
            elapsed_s = seconds_between(submitted.at, event.at)
            self._chain_s(event.status.value).observe(max(0.0, elapsed_s))

    def _named(self, capability: str) -> str:
        """The label of a capability: its own while there is room for it."""
        key = capability.removesuffix(_MAJOR_ONE)
        if key in self._capabilities:
            return key
        if len(self._capabilities) >= CAPABILITIES_MAX:
            return OTHER
        self._capabilities.add(key)
        return key

    def _counted(self) -> Iterator[Metric]:
        """Without the times at which the library began each series: they are no part of the contract."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric

    def _measured(self, reading: Reading) -> Iterator[Metric]:
        yield self._queue_depth(reading.waiting)
        yield from _of_agents(reading)
        rejections = CounterMetricFamily("aicp_rejections", "Refused work and refused permits.", labels=["reason"])
        for reason, count in reading.rejections.items():
            rejections.add_metric([reason], count)
        yield rejections
        yield CounterMetricFamily(
            "aicp_events_dropped", "Live events that slow readers missed.", value=reading.events_dropped
        )
        if reading.wal_bytes is not None:
            yield GaugeMetricFamily(
                "aicp_database_wal_bytes", "Size of the write-ahead log of the SQLite file.", value=reading.wal_bytes
            )
            yield GaugeMetricFamily(
                "aicp_database_damaged", "1 once the SQLite file was found damaged.", value=reading.is_damaged
            )
        yield CounterMetricFamily("aicp_defects", "Exceptions inside AICP; work was retried.", reading.defects)
        yield CounterMetricFamily("aicp_wall_clock_steps", "Steps of the wall clock.", reading.clock_steps)
        yield CounterMetricFamily(
            "aicp_standstill_seconds", "Time in which this process stood still for more than 0.1 s at once.",
            value=reading.standstill_s,
        )  # fmt: skip
        build = GaugeMetricFamily("aicp_build_info", "What runs here; always 1.", labels=["version", "python"])
        build.add_metric([self._version, platform.python_version()], 1)
        yield build

    def _queue_depth(self, waiting: Mapping[tuple[str, Priority], int]) -> Metric:
        depths = Counts[tuple[str, Priority]]()
        for (capability, priority), count in waiting.items():
            depths[self._named(capability), priority] += count
        family = GaugeMetricFamily(
            "aicp_queue_depth", "Tasks that wait for an agent.", labels=["capability", "priority"]
        )
        for (capability, priority), count in depths.items():
            family.add_metric([capability, priority.value], count)
        return family

    # Each gives the series with these values of its labels. The library would look for it behind a lock, every time.

    def _counter(self, name: str, told: str, *labels: str) -> Callable[..., Counter]:
        return cache(Counter(name, told, labels, registry=self._registry).labels)

    def _histogram(self, name: str, told: str, buckets_s: Iterable[float], *labels: str) -> Callable[..., Histogram]:
        return cache(Histogram(name, told, labels, buckets=tuple(buckets_s), registry=self._registry).labels)


class _Page(CollectorRegistry):
    """What the library writes: these metrics, and nothing of its own."""

    def __init__(self, *metrics: Iterable[Metric]) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        for metrics in self._metrics:
            yield from metrics


def _of_agents(reading: Reading) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "aicp_circuit_state", "1 for the worst state of an agent's circuits.", labels=["agent_id", "state"]
    )
    slots = GaugeMetricFamily("aicp_agent_slots", "Tasks that an agent takes at once.", labels=["agent_id"])
    inflight = GaugeMetricFamily("aicp_agent_inflight", "Tasks that an agent has now.", labels=["agent_id"])
    for agent in reading.agents:
        slots.add_metric([agent.agent_id], agent.slots)
        inflight.add_metric([agent.agent_id], agent.inflight)
        for state in reading.states:
            states.add_metric([agent.agent_id, state], agent.state == state)
    if reading.others:
        slots.add_metric([OTHER], reading.other_slots)
        inflight.add_metric([OTHER], reading.other_inflight)
        for state in reading.states:
            states.add_metric([OTHER, state], reading.others.get(state, 0))
    return iter((states, slots, inflight))
