"""Sums up a race: quantiles, success and wasted work; and where the slowest tasks spent their time."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from aicp.model.task import Priority
from benchmarks.flow.simulated.fleet import Attempt, End
from benchmarks.flow.simulated.race import Record
from benchmarks.measure import quantile

TAIL_SHARE = 0.01
ROUNDED_TO = 6


class Tail(NamedTuple):
    """Where the slowest 1 % of the tasks spent their time: means, in seconds.

    Attributes:
        in_line_s: Neither at an agent nor in an agent's queue.
        lost_s: On attempts that did not give the result.
        queued_s: In the queue of the agent that did it.
        worked_s: In its slot.
        size_s: What an agent of speed 1 would have needed.
        speed: Of the agents that did it.
        ends: How attempts that did not give the result ended, and how often.
    """

    in_line_s: float
    lost_s: float
    queued_s: float
    worked_s: float
    size_s: float
    speed: float
    ends: str


class Figures(NamedTuple):
    """One policy in one scenario. Latencies are from arrival to the result, or the deadline when there was none.

    Attributes:
        tasks: How many count.
        p50_s: Half were faster.
        p99_s: 99 of 100 were.
        p999_s: 999 of 1,000 were.
        failed: Tasks without a result in time.
        success: Share of those with one.
        high_success: The same, of those with high priority; NaN when there were none.
        high_p99_s: Their 99 % quantile.
        wasted_s: Agent-seconds on attempts that did not give the result.
        tail: Of the slowest 1 %.
    """

    tasks: int
    p50_s: float
    p99_s: float
    p999_s: float
    failed: int
    success: float
    high_success: float
    high_p99_s: float
    wasted_s: float
    tail: Tail


def sum_up(records: Sequence[Record]) -> Figures:
    """The figures of one race."""
    latencies = [record.latency_s for record in records]
    urgent = [record for record in records if record.job.priority is Priority.HIGH]
    return Figures(
        tasks=len(records),
        p50_s=quantile(latencies, 0.5),
        p99_s=quantile(latencies, 0.99),
        p999_s=quantile(latencies, 0.999),
        failed=sum(not record.is_done for record in records),
        success=_success(records),
        high_success=_success(urgent),
        high_p99_s=quantile([record.latency_s for record in urgent], 0.99) if urgent else math.nan,
        wasted_s=sum(record.wasted_s for record in records),
        tail=_tail(worst(records, max(1, int(TAIL_SHARE * len(records))))),
    )


def worst(records: Sequence[Record], count: int) -> list[Record]:
    """The slowest ones, slowest first."""
    return sorted(records, key=lambda record: -record.latency_s)[:count]


def story(record: Record) -> str:
    """What happened to one task, in one line."""
    job = record.job
    tried = "; ".join(_told(attempt, job.arrives_s) for attempt in record.attempts) or "never sent"
    ended = "done" if record.is_done else "FAILED"
    asked = f"#{job.number} {job.priority} {job.tenant}, size {job.size_s:.3f}, at {job.arrives_s:.3f}"
    return f"{asked}: {ended} after {record.latency_s:.3f} s; {tried}"


def _told(attempt: Attempt, since_s: float) -> str:
    asked_s, took_s = attempt.asked_s - since_s, attempt.ended_s - attempt.asked_s
    return f"+{asked_s:.3f} {attempt.agent.name} (x{attempt.agent.speed:.2f}) {attempt.end.value} in {took_s:.3f}"


def _success(records: Sequence[Record]) -> float:
    return sum(record.is_done for record in records) / len(records) if records else math.nan


def _tail(records: Sequence[Record]) -> Tail:
    attempts = [attempt for record in records for attempt in record.attempts]
    done = [attempt for attempt in attempts if attempt.end is End.DONE]
    lost = [attempt for attempt in attempts if attempt.end is not End.DONE]
    at_agents_s = sum(attempt.ended_s - attempt.asked_s for attempt in attempts)
    count = len(records)
    return Tail(
        in_line_s=round((sum(record.latency_s for record in records) - at_agents_s) / count, ROUNDED_TO),
        lost_s=sum(attempt.ended_s - attempt.asked_s for attempt in lost) / count,
        queued_s=sum(attempt.began_s - attempt.asked_s for attempt in done) / count,
        worked_s=sum(attempt.worked_s for attempt in done) / count,
        size_s=statistics.fmean(record.job.size_s for record in records),
        speed=statistics.fmean(attempt.agent.speed for attempt in done) if done else math.nan,
        ends=", ".join(f"{count} {end}" for end, count in Counter(attempt.end.value for attempt in lost).most_common()),
    )
