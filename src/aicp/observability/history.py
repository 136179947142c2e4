"""The last 15 minutes in buckets of 5 s: counted as it happens, told as rates.

    event -> (tenant, capability) and (tenant, agent) -> a ring of buckets, each a row of counts -> rates

Rows of the same bucket add up: those of all tenants for whoever sees them all, and of series that found no room.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Any

import msgspec

from aicp.model.event import AttemptEnded, AttemptStarted, ChainSubmitted, Event, TaskEnded
from aicp.model.history import HistoryMetric, HistorySeries
from aicp.model.outcome import Outcome
from aicp.model.task import TaskStatus
from aicp.ports import Clock

BUCKET_S = 5.0
BUCKETS = 180
SERIES_MAX = 4_000
OTHERS_MAX = 200
OTHER = "_other"
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram of durations; what is longer falls into one more."""

_COMPLETED, _FAILED, _ATTEMPTS, _FAILURES, _FAILOVERS = range(5)
_DURATIONS = 5
_COLUMNS = _DURATIONS + len(BOUNDS_S) + 1
_KEPT = BUCKETS + 1
"""The bucket under way is kept, too."""
_MAJOR_ONE = "@1"
_encode = msgspec.json.Encoder().encode

Row = Sequence[int]
"""Counts of one bucket: of tasks and attempts, then the histogram of durations."""


class _Ring:
    """The latest buckets of one series."""

    __slots__ = ("_counts", "_sums_s", "newest")

    def __init__(self, bucket: int) -> None:
        self.newest = bucket
        self._counts = array("I", bytes(_KEPT * _COLUMNS * array("I").itemsize))
        self._sums_s = array("d", bytes(_KEPT * array("d").itemsize))

    def count(self, bucket: int, column: int) -> None:
        if bucket > self.newest:
            self._turn_to(bucket)
        self._counts[bucket % _KEPT * _COLUMNS + column] += 1

    def took(self, bucket: int, elapsed_s: float) -> None:
        self.count(bucket, _DURATIONS + bisect_left(BOUNDS_S, elapsed_s))
        self._sums_s[bucket % _KEPT] += elapsed_s

    def row(self, bucket: int) -> Row:
        """Counts of a bucket that is at most `BUCKETS` before now."""
        at = bucket % _KEPT * _COLUMNS
        return self._counts[at : at + _COLUMNS] if bucket <= self.newest else _NOTHING

    def sum_s(self, bucket: int) -> float:
        """How long what succeeded in a bucket took together, seconds."""
        return self._sums_s[bucket % _KEPT] if bucket <= self.newest else 0.0

    def _turn_to(self, bucket: int) -> None:
        for each in range(max(self.newest, bucket - _KEPT) + 1, bucket + 1):
            at = each % _KEPT
            self._counts[at * _COLUMNS : (at + 1) * _COLUMNS] = _NOTHING
            self._sums_s[at] = 0.0
            self.newest = each


_NOTHING = array("I", bytes(_COLUMNS * array("I").itemsize))


class LiveHistory:
    """Counts what becomes of each tenant's tasks, as an observer. For one event loop.

    At most 4,000 series are kept, some 70 MB; what finds no room is counted together, for each tenant. One without a
    count for 15 minutes leaves.

    Args:
        submitted: What was submitted as a chain that runs; None for one that does not.
        clock: The time.
    """

    def __init__(self, submitted: Callable[[str], ChainSubmitted | None], clock: Clock) -> None:
        self._submitted = submitted
        self._clock = clock
        self._first = self._bucket()
        self._swept = self._first
        self._rings: dict[tuple[str, bool, str], _Ring] = {}
        self._count_of: dict[type, Callable[[Any], None]] = {
            AttemptStarted: self._attempt_started,
            AttemptEnded: self._attempt_ended,
            TaskEnded: self._task_ended,
        }

    def notify(self, event: Event) -> None:
        """Something happened."""
        count = self._count_of.get(type(event))
        if count is not None:
            count(event)

    def written(
        self, tenant: str | None, capability: str | None, agent_id: str | None, metric: HistoryMetric | None
    ) -> Generator[None, None, list[bytes]]:
        """A `History` of the buckets that ended, as JSON in pieces; each step makes one series.

        Args:
            tenant: Whose; None for all tenants together.
            capability: Only of this one; None, without `agent_id`, for everything.
            agent_id: Only of this agent; None, without `capability`, for everything.
            metric: Only this one; None for all.
        """
        now = self._bucket()
        first = max(self._first, now - BUCKETS)
        since = self._clock.utcnow() - timedelta(seconds=self._clock.monotonic() - first * BUCKET_S)
        metrics = [metric] if metric is not None else list(HistoryMetric)
        pieces = [b'{"since":%b,"bucket_s":%b,"series":[' % (_encode(since), _encode(BUCKET_S))]
        together = self._together(tenant, None if capability is None else capability.removesuffix(_MAJOR_ONE), agent_id)
        for index, ((is_agent, name), rings) in enumerate(sorted(together.items())):
            values = _values(rings, range(first, now), metrics)
            series = HistorySeries(values, agent_id=name) if is_agent else HistorySeries(values, capability=name)
            pieces.append((b"," if index else b"") + _encode(series))
            yield
        return [*pieces, b"]}"]

    def _together(
        self, tenant: str | None, capability: str | None, agent_id: str | None
    ) -> dict[tuple[bool, str], list[_Ring]]:
        """The rings of each series that is asked for; several where all tenants are seen together."""
        self._let_the_quiet_leave()
        wanted = {(False, capability), (True, agent_id)} if capability or agent_id else None
        found: dict[tuple[bool, str], list[_Ring]] = {}
        for (whose, is_agent, name), ring in self._rings.items():
            if tenant in {None, whose} and (wanted is None or (is_agent, name) in wanted):
                found.setdefault((is_agent, name), []).append(ring)
        return found

    def _attempt_started(self, event: AttemptStarted) -> None:
        if event.number > 1:
            bucket = self._bucket()
            for ring in self._rings_of(event.tenant, event.capability, event.agent_id, bucket):
                ring.count(bucket, _FAILOVERS)

    def _attempt_ended(self, event: AttemptEnded) -> None:
        if event.outcome is Outcome.CANCELLED:
            return
        bucket = self._bucket()
        for ring in self._rings_of(event.tenant, event.capability, event.agent_id, bucket):
            ring.count(bucket, _ATTEMPTS)
            if event.outcome is Outcome.SUCCESS:
                ring.took(bucket, event.elapsed_s)
            else:
                ring.count(bucket, _FAILURES)

    def _task_ended(self, event: TaskEnded) -> None:
        result, submitted = event.result, self._submitted(event.chain_id)
        column = _COLUMN_OF.get(result.status)
        if column is None or submitted is None or result.ended_at is None or result.ended_at < submitted.at:
            return  # Nobody's, or copied from the chain that this one repeats: it was counted there.
        bucket = self._bucket()
        for ring in self._rings_of(submitted.tenant, result.capability, result.agent_id, bucket):
            ring.count(bucket, column)

    def _rings_of(self, tenant: str, capability: str, agent_id: str | None, bucket: int) -> list[_Ring]:
        keys = [(tenant, False, capability.removesuffix(_MAJOR_ONE))]
        if agent_id:
            keys.append((tenant, True, agent_id))
        return [ring for key in keys if (ring := self._rings.get(key) or self._new_ring(key, bucket)) is not None]

    def _new_ring(self, key: tuple[str, bool, str], bucket: int) -> _Ring | None:
        """A ring for one that had none: its own, or that of the others; None when even those are too many."""
        if len(self._rings) >= SERIES_MAX and self._swept < bucket:
            self._let_the_quiet_leave()
        if len(self._rings) >= SERIES_MAX:
            tenant, is_agent, _ = key
            key = (tenant, is_agent, OTHER)
        if key not in self._rings and len(self._rings) < SERIES_MAX + OTHERS_MAX:
            self._rings[key] = _Ring(bucket)
        return self._rings.get(key)

    def _let_the_quiet_leave(self) -> None:
        self._swept = self._bucket()
        oldest = self._swept - BUCKETS
        self._rings = {key: ring for key, ring in self._rings.items() if ring.newest >= oldest}

    def _bucket(self) -> int:
        return int(self._clock.monotonic() // BUCKET_S)


_COLUMN_OF = {TaskStatus.COMPLETED: _COMPLETED, TaskStatus.FAILED: _FAILED}


def _values(
    rings: Sequence[_Ring], buckets: Iterable[int], metrics: Iterable[HistoryMetric]
) -> dict[str, list[float | None]]:
    rows = [
        ([sum(column) for column in zip(*(ring.row(bucket) for ring in rings), strict=True)],
         sum(ring.sum_s(bucket) for ring in rings))
        for bucket in buckets
    ]  # fmt: skip
    return {metric.value: [_VALUE_OF[metric](row, sum_s) for row, sum_s in rows] for metric in metrics}


def _rate(column: int) -> Callable[[Row, float], float | None]:
    return lambda row, _sum_s: row[column] / BUCKET_S


def _mean(row: Row, sum_s: float) -> float | None:
    count = sum(row[_DURATIONS:])
    return round(sum_s / count, 6) if count else None


def _quantile(share: float) -> Callable[[Row, float], float | None]:
    def quantile(row: Row, _sum_s: float) -> float | None:
        """Within its bin the durations are taken as evenly spread; those beyond the last bound as that bound."""
        counts = row[_DURATIONS:]
        rank = share * sum(counts)
        if not rank:
            return None
        sums = list(accumulate(counts))
        found = bisect_left(sums, rank)
        if found >= len(BOUNDS_S):
            return BOUNDS_S[-1]
        low_s = BOUNDS_S[found - 1] if found else 0.0
        part = (rank - (sums[found] - counts[found])) / counts[found]
        return round(low_s + part * (BOUNDS_S[found] - low_s), 6)

    return quantile


_VALUE_OF: dict[HistoryMetric, Callable[[Row, float], float | None]] = {
    HistoryMetric.COMPLETED: _rate(_COMPLETED),
    HistoryMetric.FAILED: _rate(_FAILED),
    HistoryMetric.ATTEMPTS: _rate(_ATTEMPTS),
    HistoryMetric.FAILURES: _rate(_FAILURES),
    HistoryMetric.FAILOVERS: _rate(_FAILOVERS),
    HistoryMetric.MEAN: _mean,
    HistoryMetric.P50: _quantile(0.5),
    HistoryMetric.P99: _quantile(0.99),
}
