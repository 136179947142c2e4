"""The comparison of circuit breakers measures what it says, and its experiments can say no."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.micro import all_dead
from benchmarks.peers.breakers import experiments
from benchmarks.peers.breakers.by_aicp import Aicp, TimedAicp
from benchmarks.peers.breakers.costs import Bare, bytes_per_breaker, bytes_per_rejection, costs
from benchmarks.peers.breakers.experiments import EXPERIMENTS, Finding, find_out
from benchmarks.peers.breakers.peer import THRESHOLD, Call, Case, Peer

Experiment = Callable[[Peer[Any]], Awaitable[Finding]]


class RefusedError(Exception):
    """A toy breaker refuses."""


class Toy:
    """What a breaker is in an afternoon: on the wall clock, without generations, half open to all or jammed by one."""

    def __init__(self, wait_s: float, *, jams: bool) -> None:
        self.wait_s = wait_s
        self.jams = jams
        self.failures = 0
        self.opened_at = 0.0
        self.is_probing = False

    def admit(self) -> None:
        if self.failures < THRESHOLD:
            return
        if self.is_probing or time.time() < self.opened_at + self.wait_s:
            raise RefusedError
        self.is_probing = self.jams

    def fail(self) -> None:
        self.failures += 1
        self.opened_at = time.time()

    def succeed(self) -> None:
        self.failures = 0
        self.is_probing = False


class ToyPeer(Peer[Toy]):
    """A toy that lets everybody through half open and takes whatever happens for a verdict."""

    name = "toy"
    package = ""
    modules = __name__
    refusal = RefusedError
    failure: type[BaseException] = BaseException
    jams = False

    async def new(self, _name: str, wait_s: float) -> Toy:
        return Toy(wait_s, jams=self.jams)

    def guard(self, breaker: Toy, call: Call) -> Call:
        async def guarded(number: int) -> int:
            breaker.admit()
            try:
                result = await call(number)
            except self.failure:
                breaker.fail()
                raise
            breaker.succeed()
            return result

        return guarded


class JammedPeer(ToyPeer):
    """A toy that lets one probe through, and waits for it for ever."""

    failure = Exception
    jams = True


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_our_breaker_is_right(experiment: Experiment) -> None:
    finding = asyncio.run(find_out(experiment, Aicp()))
    assert finding.right, finding.seen


@pytest.mark.parametrize(
    ("experiment", "peer"),
    [
        (experiments.stampede, ToyPeer()),
        (experiments.hung_probe, JammedPeer()),
        (experiments.cancelled_probe, JammedPeer()),
        (experiments.cancellation_as_verdict, ToyPeer()),
        (experiments.late_success, ToyPeer()),
        (experiments.clock_set_back, ToyPeer()),
    ],
    ids=EXPERIMENTS,
)
def test_a_toy_breaker_is_found_out(experiment: Experiment, peer: Peer[Any]) -> None:
    finding = asyncio.run(find_out(experiment, peer))
    assert not finding.right, finding.seen


def test_the_wall_clock_is_an_hour_back_only_within() -> None:
    began = time.time()
    with experiments.wall_clock_an_hour_back(__name__):
        assert 3_590 < began - time.time() <= 3_600
        assert 3_590 < began - datetime.now(UTC).timestamp() <= 3_600
    assert time.time() >= began
    assert datetime.now(UTC).timestamp() >= began


@pytest.mark.parametrize("case", [case for case in Case if case is not Case.BYTES])
def test_every_case_is_measured_beside_a_bare_await(case: Case) -> None:
    measured = costs(case, [Aicp(), TimedAicp()], rounds=1, calls=1_000)
    assert set(measured) == {Bare.name, "AICP", "AICP, timed"}
    assert measured[Bare.name].times_bare == 1.0
    assert all(cost.ns > 0 for cost in measured.values())


def test_a_breaker_weighs_something_and_a_rejection_nothing() -> None:
    assert 0 < bytes_per_breaker(Aicp(), breakers=100) < 1_536
    assert bytes_per_rejection(Aicp(), calls=1_000) == 0


def test_dead_fleets_refuse_by_both_ways() -> None:
    refusals = asyncio.run(all_dead.measure((2, 9), rounds=2, calls=3))
    assert set(refusals) == {(path, size) for path in ("route_task", "schedule_task") for size in (2, 9)}
    assert all(len(measured.calls_us) == 6 and min(measured.calls_us) > 0 for measured in refusals.values())
