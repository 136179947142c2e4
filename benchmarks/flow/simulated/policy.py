"""What a policy is, and how all of them retry."""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from benchmarks.flow.simulated.fleet import NOTHING_EXECUTED, Agent, End
from benchmarks.flow.simulated.workload import Job

REAL_ATTEMPTS_MAX = 6
ROUND_WAIT_S = 1.0


class Stage(NamedTuple):
    """Where a policy plays.

    Attributes:
        agents: The fleet.
        timeout_s: How long one attempt may take.
        rng: Chance, for the policy alone.
    """

    agents: Sequence[Agent]
    timeout_s: float
    rng: random.Random


class Policy(Protocol):
    """Sends tasks to agents."""

    async def carry(self, job: Job) -> bool:
        """Carry a task to its end, by its deadline: True when it was done."""

    async def open(self) -> None:
        """Start what runs beside."""

    async def close(self) -> None:
        """Stop what runs beside."""


class Tries:
    """What the simple policies know of one task: they try again as AICP does.

    At once, at an agent not yet tried; when all were, 1 s x1.5 later all may be tried again. Six attempts that may have
    executed something are the end of it; those that surely did not are free.
    """

    __slots__ = ("_rounds", "real", "tried")

    def __init__(self) -> None:
        self.tried: set[int] = set()
        self.real = 0
        self._rounds = 0

    @property
    def are_over(self) -> bool:
        """True when it may not be tried again."""
        return self.real >= REAL_ATTEMPTS_MAX

    def note(self, place: int, end: End) -> None:
        """It was tried at the agent in that place."""
        self.tried.add(place)
        self.real += end not in NOTHING_EXECUTED

    def next_round_s(self) -> float:
        """All were tried: seconds until they may be tried again."""
        self.tried.clear()
        self._rounds += 1
        return ROUND_WAIT_S * math.pow(1.5, self._rounds - 1)
