"""One event of every kind, and a node's worth of measurements."""

from datetime import UTC, datetime, timedelta

from aicp.model.chain import ChainSpec
from aicp.model.event import (
    AgentChanged,
    AttemptEnded,
    AttemptStarted,
    CapabilityChanged,
    ChainCancelled,
    ChainEnded,
    ChainSubmitted,
    ChainWarned,
    CircuitChanged,
    Event,
    JournalCommitted,
    RowDamaged,
    TaskEnded,
    TaskStarted,
)
from aicp.model.outcome import Outcome, TaskError
from aicp.model.task import Priority, Task, TaskResult, TaskStatus
from aicp.observability.metrics import AgentReading, Metrics, Reading

CHAIN = "01a203b73805f762df5cb0f33cde6c1d"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ECHO = "text.echo"
FAILED = TaskError("no_text", "there is no text in it")


def later(elapsed_s: float) -> datetime:
    return AT + timedelta(seconds=elapsed_s)


def submitted(chain_id: str = CHAIN, tenant: str = "default") -> ChainSubmitted:
    return ChainSubmitted(chain_id, ChainSpec((Task(ECHO, {"secret": 1}, id="a"),), name="a chain"), AT, tenant)


def ended(
    capability: str = ECHO,
    status: TaskStatus = TaskStatus.COMPLETED,
    elapsed_s: float = 2.0,
    chain_id: str = CHAIN,
    error: TaskError | None = None,
) -> TaskEnded:
    result = TaskResult(
        f"{chain_id}.a", capability, status, {"secret": 2}, error, "echo-1", ready_at=AT, ended_at=later(elapsed_s)
    )
    return TaskEnded(chain_id, "a", result)


def attempted(outcome: Outcome = Outcome.SUCCESS, number: int = 1, capability: str = ECHO) -> AttemptEnded:
    return AttemptEnded(f"{CHAIN}.a", capability, "echo-1", number, outcome, "broke", 0.5, later(1))


def every_event() -> list[Event]:
    return [
        submitted(),
        ChainWarned(CHAIN, 1_500.0, "takes long", AT),
        TaskStarted(CHAIN, "a", AT),
        AttemptStarted(f"{CHAIN}.a", ECHO, "echo-1", 2, AT, Priority.HIGH, 0.2),
        attempted(Outcome.AGENT_FAULT),
        CircuitChanged("echo-1", ECHO, "OPEN", 5.0, AT),
        AgentChanged("echo-1", "registered", AT),
        CapabilityChanged(ECHO, is_out=True, at=AT),
        ended(),
        ChainCancelled(CHAIN, AT),
        ChainEnded(CHAIN, TaskStatus.FAILED, later(3), FAILED),
        JournalCommitted(0.002, 3),
        RowDamaged("facts", "c1/1", "its checksum is another"),
    ]


def reading(agents: int = 1, others: int = 0) -> Reading:
    first = tuple(AgentReading(f"echo-{number}", "CLOSED", 4, 3) for number in range(1, agents + 1))
    return Reading(
        states=("CLOSED", "OPEN"),
        agents=first,
        others={"OPEN": others} if others else {},
        other_slots=4 * others,
        other_inflight=0,
        waiting={(ECHO, Priority.LOW): 7},
        rejections={"queue_full": 2},
        events_dropped=9,
        wal_bytes=4_096,
        defects=4,
        clock_steps=5,
        standstill_s=12.5,
    )


async def busy_page() -> str:
    """The metrics after one event of every kind."""
    metrics = Metrics(lambda _: submitted(), "1.2.3")
    for event in every_event():
        metrics.notify(event)
    return (await metrics.page(reading())).decode()
