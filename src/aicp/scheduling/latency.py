"""How long an agent usually takes for a capability, and the log-spaced speed bucket that puts it in."""

import math

WEIGHT = 0.2
BUCKETS = 64
LAST_RESORT = BUCKETS - 1
_SHORTEST_S = 1e-4
_BUCKETS_PER_DOUBLING = 2


def smoothed(latency_s: float, elapsed_s: float) -> float:
    """The exponentially weighted mean after one more success; 0 means unmeasured."""
    return latency_s + WEIGHT * (elapsed_s - latency_s) if latency_s else max(elapsed_s, _SHORTEST_S)


def bucket_of(latency_s: float) -> int:
    """The speed bucket: half-doublings from 0.1 ms; the last bucket is kept for last resorts."""
    if latency_s <= _SHORTEST_S:
        return 0
    return min(LAST_RESORT - 1, int(math.log2(latency_s / _SHORTEST_S) * _BUCKETS_PER_DOUBLING))
