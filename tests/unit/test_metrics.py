"""Metrics say what happened, under the names of the contract, in a bounded number of series."""

import asyncio
import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aicp.model.event import AttemptStarted, ChainEnded, Event
from aicp.model.outcome import Outcome
from aicp.model.task import Priority, TaskStatus
from aicp.observability.metrics import AGENTS_MAX, CAPABILITIES_MAX, Metrics
from aicp.runtime.node import Node
from aicp.runtime.onlookers import Onlookers
from tests.unit.onlooker_kit import AT, CHAIN, ECHO, attempted, busy_page, ended, every_event, later, reading, submitted

NAMES = {
    "aicp_damaged_rows_total",
    "aicp_tasks_total",
    "aicp_attempts_total",
    "aicp_task_duration_seconds",
    "aicp_queue_wait_seconds",
    "aicp_queue_depth",
    "aicp_circuit_state",
    "aicp_circuit_transitions_total",
    "aicp_failovers_total",
    "aicp_rejections_total",
    "aicp_agent_inflight",
    "aicp_agent_slots",
    "aicp_chain_duration_seconds",
    "aicp_journal_commit_seconds",
    "aicp_events_dropped_total",
    "aicp_defects_total",
    "aicp_wall_clock_steps_total",
    "aicp_standstill_seconds_total",
    "aicp_build_info",
    "aicp_database_wal_bytes",
    "aicp_database_damaged",
}
OF_A_FILE = {"aicp_database_wal_bytes", "aicp_database_damaged"}
MICROSECONDS_MAX = 100


def samples_of(page: str) -> dict[str, float]:
    """Every sample by its name and labels, as the page has them."""
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def counting() -> Metrics:
    return Metrics(lambda _: submitted(), "1.2.3")


def page_of(metrics: Metrics, **sizes: int) -> dict[str, float]:
    return samples_of(asyncio.run(metrics.page(reading(**sizes))).decode())


def test_page_has_the_names_of_the_contract_and_no_other() -> None:
    page = asyncio.run(busy_page())
    assert set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)) == NAMES
    families = list(text_string_to_metric_families(page))
    assert all(family.samples for family in families)
    assert not [name for name in samples_of(page) if "_created" in name]


def test_page_of_a_server_that_did_nothing_names_every_metric() -> None:
    page = asyncio.run(Onlookers(Node()).metrics()).decode()
    assert set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)) == NAMES - OF_A_FILE


def test_each_event_is_counted_where_it_belongs() -> None:
    found = samples_of(asyncio.run(busy_page()))
    assert found['aicp_tasks_total{capability="text.echo",status="COMPLETED"}'] == 1
    assert found['aicp_attempts_total{capability="text.echo",outcome="AGENT_FAULT"}'] == 1
    assert found['aicp_failovers_total{capability="text.echo"}'] == 1
    assert found['aicp_circuit_transitions_total{capability="text.echo",state="OPEN"}'] == 1
    assert found['aicp_task_duration_seconds_sum{capability="text.echo"}'] == 2.0
    assert found['aicp_queue_wait_seconds_sum{capability="text.echo",priority="high"}'] == 0.2
    assert found['aicp_chain_duration_seconds_sum{status="FAILED"}'] == 3.0
    assert found["aicp_journal_commit_seconds_sum"] == 0.002
    assert found['aicp_queue_depth{capability="text.echo",priority="low"}'] == 7
    assert found['aicp_circuit_state{agent_id="echo-1",state="CLOSED"}'] == 1
    assert found['aicp_circuit_state{agent_id="echo-1",state="OPEN"}'] == 0
    assert found['aicp_agent_slots{agent_id="echo-1"}'] == 4
    assert found['aicp_agent_inflight{agent_id="echo-1"}'] == 3
    assert found['aicp_rejections_total{reason="queue_full"}'] == 2
    assert found["aicp_events_dropped_total"] == 9
    assert found["aicp_defects_total"] == 4
    assert found["aicp_wall_clock_steps_total"] == 5
    assert found["aicp_standstill_seconds_total"] == 12.5


def test_first_attempt_is_no_failover() -> None:
    metrics = counting()
    metrics.notify(AttemptStarted(f"{CHAIN}.a", ECHO, "echo-1", 1, AT, Priority.NORMAL, 0.0))
    assert not [name for name in page_of(metrics) if name.startswith("aicp_failovers")]


def test_result_that_a_retry_copied_is_not_counted_again() -> None:
    metrics = counting()
    metrics.notify(ended(elapsed_s=-5.0))
    assert not [name for name in page_of(metrics) if name.startswith("aicp_tasks_total")]


def test_task_that_was_cut_off_is_counted_but_not_timed() -> None:
    metrics = counting()
    metrics.notify(ended(status=TaskStatus.CANCELLED))
    found = page_of(metrics)
    assert found['aicp_tasks_total{capability="text.echo",status="CANCELLED"}'] == 1
    assert not [name for name in found if name.startswith("aicp_task_duration")]


def test_end_of_a_chain_that_ran_elsewhere_is_not_timed() -> None:
    metrics = Metrics(lambda _: None, "1.2.3")
    metrics.notify(ChainEnded(CHAIN, TaskStatus.COMPLETED, later(3)))
    assert not [name for name in page_of(metrics) if name.startswith("aicp_chain_duration")]


def test_major_one_is_the_bare_name() -> None:
    metrics = counting()
    for capability in (ECHO, f"{ECHO}@1", f"{ECHO}@2"):
        metrics.notify(attempted(capability=capability))
    found = page_of(metrics)
    assert found['aicp_attempts_total{capability="text.echo",outcome="SUCCESS"}'] == 2
    assert found['aicp_attempts_total{capability="text.echo@2",outcome="SUCCESS"}'] == 1


def test_capabilities_beyond_the_first_hundred_share_a_label() -> None:
    metrics = counting()
    for number in range(CAPABILITIES_MAX + 50):
        metrics.notify(attempted(Outcome.SUCCESS, capability=f"text.echo{number}"))
    found = {name: value for name, value in page_of(metrics).items() if name.startswith("aicp_attempts_total")}
    assert len(found) == CAPABILITIES_MAX + 1
    assert found['aicp_attempts_total{capability="_other",outcome="SUCCESS"}'] == 50


def test_agents_beyond_the_first_hundred_share_a_label() -> None:
    async def main() -> dict[str, float]:
        async with Node() as node:
            for number in range(AGENTS_MAX + 30):
                await node.add_agent(f"echo-{number}", {ECHO: dict}, max_concurrent_tasks=2)
            return samples_of((await Onlookers(node).metrics()).decode())

    found = asyncio.run(main())
    assert len([name for name in found if name.startswith("aicp_agent_slots")]) == AGENTS_MAX + 1
    assert found['aicp_agent_slots{agent_id="_other"}'] == 60
    assert found['aicp_circuit_state{agent_id="_other",state="CLOSED"}'] == 30


def test_metrics_of_two_nodes_do_not_mix() -> None:
    one, other = counting(), counting()
    one.notify(ended())
    assert not [name for name in page_of(other) if name.startswith("aicp_tasks_total")]


@pytest.mark.parametrize("event", every_event(), ids=lambda event: type(event).__name__)
def test_event_costs_microseconds(event: Event) -> None:
    metrics = counting()
    best_s = 1.0
    for _ in range(5):
        began = time.thread_time()
        for _ in range(200):
            metrics.notify(event)
        best_s = min(best_s, (time.thread_time() - began) / 200)
    assert best_s * 1e6 < MICROSECONDS_MAX
