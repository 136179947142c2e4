"""What is asked for: tasks with heavy-tailed sizes, arriving one by one whatever becomes of those before them."""

import math
import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from aicp.model.agent import DEFAULT_TENANT
from aicp.model.task import Priority

ALL_NORMAL = {Priority.NORMAL: 1.0}
BODY_MEDIAN_S = 0.16
BODY_SIGMA = 0.7
TAIL_SHARE = 0.1
TAIL_FROM_S = 0.3
TAIL_ALPHA = 1.3
SIZE_S_MAX = 20.0


class Job(NamedTuple):
    """One task.

    Attributes:
        number: From 0, in the order of arrival.
        arrives_s: Seconds after the start.
        size_s: How long an agent of speed 1 works on it.
        deadline_s: Seconds from arrival after which nobody wants it any more.
        priority: Of the task.
        tenant: Whose it is.
    """

    number: int
    arrives_s: float
    size_s: float
    deadline_s: float
    priority: Priority = Priority.NORMAL
    tenant: str = DEFAULT_TENANT

    @property
    def deadline_at_s(self) -> float:
        """Seconds after the start when nobody wants it any more."""
        return self.arrives_s + self.deadline_s


class Stream(NamedTuple):
    """Tasks of one tenant that keep coming, their gaps exponentially distributed.

    Attributes:
        work_per_s: How much work comes each second, in seconds of an agent of speed 1.
        duration_s: For how long.
        deadline_s: Of each task.
        priorities: The share of each.
        tenant: Whose they are.
        size_s_max: None is larger.
    """

    work_per_s: float
    duration_s: float
    deadline_s: float
    priorities: Mapping[Priority, float] = ALL_NORMAL
    tenant: str = DEFAULT_TENANT
    size_s_max: float = SIZE_S_MAX


def draw_size_s(rng: random.Random, size_s_max: float = SIZE_S_MAX) -> float:
    """Nine in ten lognormal, one in ten Pareto: with 20 s at most the mean is 0.29 s and the squared variation 5."""
    if rng.random() < TAIL_SHARE:
        return min(size_s_max, TAIL_FROM_S * rng.paretovariate(TAIL_ALPHA))
    return min(size_s_max, rng.lognormvariate(math.log(BODY_MEDIAN_S), BODY_SIGMA))


def mean_size_s(size_s_max: float, samples: int = 100_000) -> float:
    """The mean of many draws, always the same ones."""
    rng = random.Random("sizes")
    return sum(draw_size_s(rng, size_s_max) for _ in range(samples)) / samples


def jobs_of(streams: tuple[Stream, ...], seed: int) -> list[Job]:
    """The tasks of all streams in the order they arrive."""
    jobs = [job for stream in streams for job in _arrivals(stream, random.Random(f"{seed} {stream.tenant}"))]
    jobs.sort(key=lambda job: job.arrives_s)
    return [job._replace(number=number) for number, job in enumerate(jobs)]


def _arrivals(stream: Stream, rng: random.Random) -> Iterator[Job]:
    priorities, shares = list(stream.priorities), list(stream.priorities.values())
    rate_per_s = stream.work_per_s / mean_size_s(stream.size_s_max)
    at_s = rng.expovariate(rate_per_s)
    while at_s < stream.duration_s:
        (priority,) = rng.choices(priorities, shares)
        yield Job(0, at_s, draw_size_s(rng, stream.size_s_max), stream.deadline_s, priority, stream.tenant)
        at_s += rng.expovariate(rate_per_s)
