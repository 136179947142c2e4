"""The log says what failed, with the ids of what it is about."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from aicp.model.agent import Capability, Registration
from aicp.model.event import AgentChanged, ChainEnded, CircuitChanged, Event
from aicp.model.outcome import Outcome
from aicp.model.task import Task, TaskStatus
from aicp.model.trace import Subject, subject
from aicp.observability.logs import LINES_A_SECOND_MAX, EventLog, json_formatter
from aicp.registry.leases import LEASE_TTL_S
from aicp.runtime.node import Node
from aicp.testing import VirtualClock, run
from tests.unit.onlooker_kit import AT, CHAIN, FAILED, attempted, ended, every_event, later, submitted

Lines = list[dict[str, Any]]


class Log:
    """Everything that AICP logs, as JSON."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(json_formatter())

    @property
    def lines(self) -> Lines:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    log, logger = Log(), logging.getLogger("aicp")
    logger.addHandler(log.handler)
    logger.setLevel(logging.INFO)
    yield log
    logger.removeHandler(log.handler)
    logger.setLevel(logging.NOTSET)


def tell(*events: Event, clock: float = 0.0) -> None:
    event_log = EventLog(lambda _: submitted(), clock=lambda: clock)
    for event in events:
        event_log.notify(event)


def test_attempt_that_failed_is_a_line_with_every_id(log: Log) -> None:
    tell(attempted(Outcome.AGENT_FAULT, number=2))
    (line,) = log.lines
    assert (line["event"], line["level"], line["logger"]) == (
        "attempt 2 ended AGENT_FAULT: broke",
        "info",
        "aicp.events",
    )
    assert (line["task_id"], line["chain_id"], line["agent_id"]) == (f"{CHAIN}.a", CHAIN, "echo-1")
    assert line["trace_id"] == CHAIN
    assert line["timestamp"].endswith("Z")
    assert (line["kind"], line["outcome"], line["elapsed_s"]) == ("attempt_ended", "AGENT_FAULT", 0.5)


def test_what_succeeds_is_not_logged(log: Log) -> None:
    tell(submitted(), attempted(), ended(), ChainEnded(CHAIN, TaskStatus.COMPLETED, later(1)))
    assert log.lines == []


def test_failures_of_tasks_and_chains_say_why(log: Log) -> None:
    failed = ended(status=TaskStatus.FAILED, error=FAILED)
    tell(failed, ChainEnded(CHAIN, TaskStatus.FAILED, later(1), FAILED))
    assert [line["event"] for line in log.lines] == [
        "the task failed: there is no text in it",
        "the chain failed: there is no text in it",
    ]


def test_open_circuit_is_a_warning(log: Log) -> None:
    for state in ("OPEN", "CLOSED"):
        tell(CircuitChanged("echo-1", "text.echo", state, 1.0, AT))
    assert [(line["level"], line["state"]) for line in log.lines] == [("warning", "OPEN"), ("info", "CLOSED")]


def test_agent_that_is_heard_again_is_not_worth_a_line(log: Log) -> None:
    tell(*(AgentChanged("echo-1", change, AT) for change in ("heard", "registered", "removed")))
    assert [line["change"] for line in log.lines] == ["registered", "removed"]


def test_agent_that_falls_silent_or_is_set_aside_is_one_warning_with_its_id(log: Log) -> None:
    async def main() -> None:
        async with Node(clock=VirtualClock()) as node:
            node.observe(EventLog(node.coordinator.running))
            far = Registration("http://127.0.0.1:9", "far", "i1", capabilities=(Capability("text.far"),))
            await node.ains.register(msgspec.structs.replace(far, max_concurrent_tasks=1))
            for after_s in (LEASE_TTL_S, 2 * LEASE_TTL_S):
                await asyncio.sleep(after_s + 1.0)
            node.ains.set_aside(node.ains.get("far"), "text.far", "answered 401")

    run(main())
    about_far = [line for line in log.lines if line["event"].startswith("agent far")]
    assert [(line["event"], line["level"], line["agent_id"], line["change"]) for line in about_far] == [
        ("agent far is registered", "info", "far", "registered"),
        ("agent far is unheard", "warning", "far", "unheard"),
        ("agent far is offline", "warning", "far", "offline"),
        ("agent far is set aside: text.far answered 401", "warning", "far", "set_aside"),
    ]


def test_line_about_another_agent_keeps_its_own_id_during_an_attempt(log: Log) -> None:
    token = subject.set(Subject(CHAIN, f"{CHAIN}.a", "slow"))
    logging.getLogger("aicp.x").warning("it is gone", extra={"agent_id": "other"})
    subject.reset(token)
    (line,) = log.lines
    assert (line["agent_id"], line["task_id"], line["chain_id"]) == ("other", f"{CHAIN}.a", CHAIN)


def test_every_event_can_be_logged_without_params_or_results(log: Log) -> None:
    tell(*every_event())
    assert "secret" not in log.stream.getvalue()
    assert log.lines


def test_flood_is_cut_and_says_how_much_was_left_out(log: Log) -> None:
    times = iter([0.0] * 150 + [1.0] * 10)
    event_log = EventLog(lambda _: submitted(), clock=lambda: next(times))
    for _ in range(151):
        event_log.notify(attempted(Outcome.AGENT_FAULT))
    assert len(log.lines) == LINES_A_SECOND_MAX + 2
    assert log.lines[-2]["event"] == "50 lines on events were left out in one second"


def test_line_written_during_an_attempt_says_whose_it_is(log: Log) -> None:
    async def complain(params: dict[str, Any]) -> dict[str, Any]:
        logging.getLogger("aicp.agents").warning("this takes long")
        return params

    async def main() -> None:
        async with Node() as node:
            await node.add_agent("slow", {"text.echo": complain})
            await node.coordinator.execute_parallel_tasks([Task("text.echo", id="t")])

    run(main())
    (line,) = log.lines
    assert line["task_id"] == f"{line['chain_id']}.t"
    assert (line["agent_id"], line["trace_id"]) == ("slow", line["chain_id"])


def test_subject_ends_with_its_attempt() -> None:
    async def main() -> None:
        async with Node() as node:
            await node.add_agent("echo", {"text.echo": dict})
            await node.router.route_task(Task("text.echo"))
            assert subject.get() is None

    run(main())


def test_trace_is_the_submitters_when_there_is_one() -> None:
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert Subject(CHAIN, f"{CHAIN}.a", traceparent=parent).trace_id == "a" * 32
    assert Subject(CHAIN).trace_id == CHAIN


def test_exception_is_part_of_its_line(log: Log) -> None:
    try:
        1 / 0  # noqa: B018 - it is here to fail
    except ZeroDivisionError:
        logging.getLogger("aicp.x").exception("it broke")
    (line,) = log.lines
    assert "ZeroDivisionError: division by zero" in line["exception"]
