"""What happened in the last 15 minutes is counted for each tenant, told as rates, bounded, and forgotten."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from aicp.model.event import AttemptStarted
from aicp.model.history import History, HistoryMetric
from aicp.model.outcome import Outcome
from aicp.model.task import TaskStatus
from aicp.observability import history as module
from aicp.observability.history import BUCKETS, OTHER, OTHERS_MAX, SERIES_MAX, LiveHistory
from tests.unit.onlooker_kit import AT, CHAIN, ECHO, attempted, ended, submitted


class Time:
    """A clock that is set by hand; it began some time ago."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def utcnow(self) -> Any:
        return AT + timedelta(seconds=self.now - 1_000.0)


class Stage(LiveHistory):
    def __init__(self) -> None:
        self.time = Time()
        super().__init__({CHAIN: submitted(), "of-b": submitted("of-b", "b")}.get, self.time)

    def read(self, tenant: str | None = "default", **wanted: Any) -> History:
        steps = self.written(
            tenant, wanted.get("capability"), wanted.get("agent_id"), wanted.get("metric")
        )  # fmt: skip
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return msgspec.json.decode(b"".join(done.value), type=History)

    def values(self, metric: HistoryMetric, tenant: str | None = "default", **wanted: Any) -> list[float | None]:
        (series,) = self.read(tenant, metric=metric, **wanted).series
        return series.values[metric]


def test_what_happened_is_told_as_rates_of_the_capability_and_of_the_agent() -> None:
    stage = Stage()
    for event in (
        AttemptStarted(f"{CHAIN}.a", ECHO, "echo-1", 2, AT), attempted(Outcome.AGENT_FAULT), attempted(), attempted(),
        attempted(Outcome.CANCELLED), ended(), ended(status=TaskStatus.FAILED), ended(status=TaskStatus.CANCELLED),
    ):  # fmt: skip
        stage.notify(event)
    assert stage.read().since == AT
    stage.time.now += 5
    read = stage.read()
    assert [(series.capability, series.agent_id) for series in read.series] == [(ECHO, None), (None, "echo-1")]
    assert (read.since, read.bucket_s) == (AT, 5.0)
    for series in read.series:
        assert series.values == {
            "completed_per_s": [0.2],
            "failed_per_s": [0.2],
            "attempts_per_s": [0.6],
            "failures_per_s": [0.2],
            "failovers_per_s": [0.2],
            "mean_s": [0.5],
            "p50_s": [0.375],
            "p99_s": [0.4975],
        }


def test_bucket_under_way_is_not_told_and_quiet_ones_are_empty() -> None:
    stage = Stage()
    stage.notify(attempted())
    assert stage.values(HistoryMetric.ATTEMPTS, capability=ECHO) == []
    stage.time.now += 15
    stage.notify(attempted())
    assert stage.values(HistoryMetric.ATTEMPTS, capability=ECHO) == [0.2, 0.0, 0.0]
    assert stage.values(HistoryMetric.P99, agent_id="echo-1")[1:] == [None, None]


def test_buckets_are_forgotten_after_fifteen_minutes_and_series_with_them() -> None:
    stage = Stage()
    stage.notify(attempted())
    stage.time.now += 5.0 * BUCKETS
    stage.notify(attempted(Outcome.AGENT_FAULT))
    assert stage.values(HistoryMetric.ATTEMPTS, capability=ECHO) == [0.2, *[0.0] * (BUCKETS - 1)]
    stage.time.now += 5
    assert stage.values(HistoryMetric.ATTEMPTS, capability=ECHO) == [*[0.0] * (BUCKETS - 1), 0.2]
    assert stage.read().since == AT + timedelta(seconds=5)
    stage.time.now += 5.0 * BUCKETS
    assert stage.read().series == []
    assert not stage._rings


def test_ring_that_turns_many_times_counts_each_bucket_anew() -> None:
    stage = Stage()
    for _ in range(3 * BUCKETS):
        stage.notify(attempted())
        stage.time.now += 5
    assert stage.values(HistoryMetric.ATTEMPTS, capability=ECHO) == [0.2] * BUCKETS
    assert stage.values(HistoryMetric.MEAN, capability=ECHO) == [0.5] * BUCKETS


def test_tenants_see_their_own_and_all_of_them_add_up() -> None:
    stage = Stage()
    stage.notify(ended())
    stage.notify(ended(chain_id="of-b"))
    stage.notify(ended(chain_id="nobody's"))
    stage.time.now += 5
    wanted = {"capability": f"{ECHO}@1"}
    assert stage.values(HistoryMetric.COMPLETED, "default", **wanted) == [0.2]
    assert stage.values(HistoryMetric.COMPLETED, "b", **wanted) == [0.2]
    assert stage.values(HistoryMetric.COMPLETED, None, **wanted) == [0.4]
    assert stage.read("c").series == []


def test_result_that_was_copied_from_another_chain_is_counted_there() -> None:
    stage = Stage()
    stage.notify(ended(elapsed_s=-5.0))
    assert stage.read().series == []


def test_series_beyond_the_bound_are_summed_and_bounded_too() -> None:
    stage = Stage()
    for number in range(SERIES_MAX + 3):
        stage.notify(msgspec.structs.replace(attempted(capability=f"c{number}"), agent_id=""))
    stage.time.now += 5
    assert stage.values(HistoryMetric.ATTEMPTS, capability=OTHER) == [0.6]
    for number in range(OTHERS_MAX + 3):
        stage.notify(msgspec.structs.replace(attempted(), agent_id="", tenant=f"t{number}"))
    assert len(stage._rings) == SERIES_MAX + OTHERS_MAX
    stage.time.now += 5.0 * (BUCKETS + 1)
    stage.notify(attempted())
    assert len(stage._rings) == 2


@pytest.mark.parametrize(("elapsed_s", "told_s"), [(0.0, 0.0025), (0.5, 0.375), (299.0, 180.0), (10_000.0, 300.0)])
def test_quantiles_lie_within_their_bin(elapsed_s: float, told_s: float) -> None:
    stage = Stage()
    stage.notify(msgspec.structs.replace(attempted(), elapsed_s=elapsed_s))
    stage.time.now += 5
    assert stage.values(HistoryMetric.P50, capability=ECHO) == [told_s]


def test_every_metric_is_computed() -> None:
    assert module._VALUE_OF.keys() == set(HistoryMetric)
