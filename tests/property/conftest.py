"""How long the state machines run, and from which seed: `pytest tests/property --steps=1000000 --seed=7`."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

STEPS = 12_000
SEED = 20_260_101
FAULTS = 120
STEPS_PER_RUN = 100
RUNS_PER_ROUND = 40
TIMEOUT_S = 900


def pytest_addoption(parser: pytest.Parser) -> None:
    options = parser.getgroup("property", "state machines")
    options.addoption("--steps", type=int, default=STEPS, help=f"steps of each state machine, {STEPS:,} by default")
    options.addoption("--faults", type=int, default=FAULTS, help=f"faults in a SQLite file, {FAULTS} by default")
    options.addoption("--seed", type=int, default=SEED, help="where they begin; the same seed, the same steps")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a busy machine a state machine takes minutes; more steps or faults than usual take as long as they take."""
    if _option(config, "--steps", STEPS) > STEPS:
        _without_timeout(items, "run_machine")
    if _option(config, "--faults", FAULTS) > FAULTS:
        _without_timeout(items, "faults")
    # The first marker counts.
    for item in items:
        if "/tests/property/" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def _without_timeout(items: list[pytest.Item], fixture: str) -> None:
    for item in items:
        if fixture in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(0))


@dataclass
class Marathon:
    """Many short rounds instead of one long one: what hypothesis remembers of a round goes with it."""

    steps: int
    first_seed: int

    def run(self, machine: type[RuleBasedStateMachine], steps_taken: Callable[[], int]) -> None:
        """Run rounds, each from the seed after the one before, until so many steps were taken."""
        begun_at, round_seed = steps_taken(), self.first_seed
        while steps_taken() - begun_at < self.steps:
            print(f"{machine.__name__}: seed {round_seed}, {steps_taken() - begun_at} steps so far")  # noqa: T201
            run_state_machine_as_test(seed(round_seed)(_fresh(machine)), settings=_SETTINGS)
            round_seed += 1


_SETTINGS = settings(
    max_examples=RUNS_PER_ROUND,
    stateful_step_count=STEPS_PER_RUN,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def _fresh(machine: type[RuleBasedStateMachine]) -> type[RuleBasedStateMachine]:
    """A subclass of its own for each round: hypothesis keeps what it learned about a class on the class."""
    return type(machine.__name__, (machine,), {})


def _option(config: pytest.Config, name: str, default: int) -> int:
    """An option; where this file was found too late for the command line, its default."""
    return int(config.getoption(name, default=default))


@pytest.fixture
def run_machine(request: pytest.FixtureRequest) -> Marathon:
    steps = _option(request.config, "--steps", STEPS)
    return Marathon(steps, _option(request.config, "--seed", SEED))


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> int:
    """How many faults a test tries."""
    return _option(request.config, "--faults", FAULTS)


@pytest.fixture
def first_seed(request: pytest.FixtureRequest) -> int:
    """Where chance begins."""
    return _option(request.config, "--seed", SEED)
