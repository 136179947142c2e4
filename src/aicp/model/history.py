"""What happened lately, as rates over time: made by the server, read by the client."""

from datetime import datetime
from enum import StrEnum

import msgspec


class HistoryMetric(StrEnum):
    """What is told of each bucket.

    Per second: tasks that completed, tasks that failed, attempts that ended without being cancelled, those of them that
    failed, and attempts beyond the first of their task. In seconds, of attempts that succeeded: the mean, the median
    and the 99th percentile, the latter two estimated from a histogram.
    """

    COMPLETED = "completed_per_s"
    FAILED = "failed_per_s"
    ATTEMPTS = "attempts_per_s"
    FAILURES = "failures_per_s"
    FAILOVERS = "failovers_per_s"
    MEAN = "mean_s"
    P50 = "p50_s"
    P99 = "p99_s"


class HistorySeries(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one capability, or of one agent.

    Attributes:
        values: By metric, one for each bucket, oldest first; None where nothing succeeded whose duration could be told.
        capability: Whose; `_other` for all those that found no room. Left out for an agent.
        agent_id: Whose; `_other` for all those that found no room. Left out for a capability.
    """

    values: dict[str, list[float | None]]
    capability: str | None = None
    agent_id: str | None = None


class History(msgspec.Struct, frozen=True):
    """The last 15 minutes of this server; of as much of them as it has run.

    Attributes:
        since: UTC; when the first bucket began.
        bucket_s: How long a bucket is, seconds.
        series: Of capabilities and agents with which anything happened.
    """

    since: datetime
    bucket_s: float
    series: list[HistorySeries]
