"""What AICP is to reach in these races, and whether it did."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.flow.simulated.figures import Figures
from benchmarks.flow.simulated.race import AICP, FIFO, ORACLE, P2C
from benchmarks.flow.simulated.scenarios import FLAPPING_SEEDS

Table = Mapping[tuple[str, str], Figures]


class Aim(NamedTuple):
    """One aim.

    Attributes:
        told: What it is about.
        measure: Its figure; a KeyError says that the races it needs were not run.
        bound: What it is compared with.
        is_least: True when the figure is to be at least that, else at most.
    """

    told: str
    measure: Callable[[Table], float]
    bound: float
    is_least: bool = False

    def row(self, table: Table) -> list[object] | None:
        """Told, figure, bound and verdict; None when it was not measured."""
        try:
            figure = self.measure(table)
        except KeyError:
            return None
        reached = figure >= self.bound if self.is_least else figure <= self.bound
        shown = f"{figure:.4%}" if self.is_least else f"{figure:.2f}x"
        bound = f">= {self.bound:.4%}" if self.is_least else f"<= {self.bound:g}x"
        return [self.told, shown, bound, "reached" if reached else "MISSED"]


def aims() -> list[Aim]:
    """All of them."""
    return [
        Aim("steady: p99 of the oracle's", _p99_of("steady", "steady", ORACLE), 1.30),
        Aim("steady: p99 of P2C + EWMA's", _p99_of("steady", "steady", P2C), 0.65),
        Aim("steady: p99 of its own when unloaded", _p99_of("steady", "unloaded", AICP), 2.0),
        Aim("one agent 10x slow: p99.9 of the oracle's", _p999_of_oracle("one agent 10x slow"), 1.8),
        Aim("one agent 10x slow: p99 of the oracle's", _p99_of_oracle("one agent 10x slow"), 1.40),
        Aim("a tenth hung: p99 of the oracle's", _p99_of_oracle("three hang"), 1.45),
        Aim("a tenth hung: p99.9 of the oracle's", _p999_of_oracle("three hang"), 3.0),
        *_survives("third dead, refusing"),
        *_survives("third dead, silent"),
        *(_succeeds(f"third flapping, seed {seed}") for seed in FLAPPING_SEEDS),
        Aim("overload: success of high priority", _high_success("overload 130 %"), 1.0, is_least=True),
        Aim("overload: p99 of high priority, of late FIFO's", _high_p99_of_fifo("overload 130 %"), 0.75),
    ]


def _survives(scenario: str) -> list[Aim]:
    urgent = Aim(f"{scenario}: success of high priority", _high_success(scenario), 1.0, is_least=True)
    return [_succeeds(scenario), urgent]


def _succeeds(scenario: str) -> Aim:
    return Aim(f"{scenario}: success", lambda table: table[scenario, AICP].success, 0.9999, is_least=True)


def _high_success(scenario: str) -> Callable[[Table], float]:
    return lambda table: table[scenario, AICP].high_success


def _p99_of(scenario: str, other_scenario: str, other: str) -> Callable[[Table], float]:
    return lambda table: table[scenario, AICP].p99_s / table[other_scenario, other].p99_s


def _p99_of_oracle(scenario: str) -> Callable[[Table], float]:
    return _p99_of(scenario, scenario, ORACLE)


def _p999_of_oracle(scenario: str) -> Callable[[Table], float]:
    return lambda table: table[scenario, AICP].p999_s / table[scenario, ORACLE].p999_s


def _high_p99_of_fifo(scenario: str) -> Callable[[Table], float]:
    return lambda table: table[scenario, AICP].high_p99_s / table[scenario, FIFO].high_p99_s
