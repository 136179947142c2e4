"""How long an agent usually takes for a capability, and the log-spaced speed bucket that puts it in."""

import math

WEIGHT_MIN = 0.05
TIMEOUT_WEIGHT = 0.3
SLOWER_MAX = 64.0
UNKNOWN_S = 1.0
SAMPLES_MAX = 20
POOL_SAMPLES_MAX = 500
BUCKETS = 64
LAST_RESORT = BUCKETS - 1
FADES_AFTER_S = 10.0
HALF_LIFE_S = 60.0
_SHORTEST_S = 1e-4
_BUCKETS_PER_DOUBLING = 2
_WEIGHTS = [max(WEIGHT_MIN, 1.0 / (samples + 1)) for samples in range(POOL_SAMPLES_MAX + 1)]


def smoothed(latency_s: float, elapsed_s: float, samples: int) -> float:
    """The exponentially weighted geometric mean after one more success; 0 means unmeasured.

    Of logarithms, since tasks differ in size by orders of magnitude: an arithmetic mean follows the few largest, and
    would take whoever had one for slow. The first twenty count alike, then each new one a twentieth.
    """
    elapsed_s = max(elapsed_s, _SHORTEST_S)
    if not latency_s:
        return elapsed_s
    return latency_s * math.pow(elapsed_s / latency_s, _WEIGHTS[samples])


def with_timeout(latency_s: float, timeout_s: float) -> float:
    """The mean after an attempt that had no answer for so long; a timeout below the mean says nothing."""
    return latency_s * math.pow(timeout_s / latency_s, TIMEOUT_WEIGHT) if timeout_s > latency_s else latency_s


def averaged(mean_s: float, elapsed_s: float, samples: int) -> float:
    """The arithmetic mean after one more success; with `samples` capped, an exponentially weighted one."""
    return mean_s + (elapsed_s - mean_s) / (samples + 1)


def faded(latency_s: float, idle_s: float, typical_s: float) -> float:
    """What a measurement still says after `idle_s` unused: after 10 s half of it is forgotten every minute.

    Args:
        latency_s: As measured, 0 while unmeasured.
        idle_s: Since the last measurement.
        typical_s: How long others take, which is what to expect of whom nobody knows.
    """
    if not latency_s:
        return typical_s
    if idle_s <= FADES_AFTER_S:
        return latency_s
    return typical_s + (latency_s - typical_s) * math.exp2((FADES_AFTER_S - idle_s) / HALF_LIFE_S)


def bucket_of(latency_s: float) -> int:
    """The speed bucket: half-doublings from 0.1 ms; the last bucket is kept for last resorts."""
    if latency_s <= _SHORTEST_S:
        return 0
    return min(LAST_RESORT - 1, int(math.log2(latency_s / _SHORTEST_S) * _BUCKETS_PER_DOUBLING))


def latency_of(bucket: int) -> float:
    """Seconds in the middle of a speed bucket."""
    return float(_SHORTEST_S * 2 ** ((bucket + 0.5) / _BUCKETS_PER_DOUBLING))
