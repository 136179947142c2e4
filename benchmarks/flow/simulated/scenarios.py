"""What happens to the fleet while the policies race."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aicp.model.task import Priority
from benchmarks.flow.simulated.fleet import Fault, FaultKind, Model, make_models
from benchmarks.flow.simulated.workload import ALL_NORMAL, SIZE_S_MAX, Stream

SEED = 1
WARM_UP_S = 5.0
LOAD = 0.8
OVERLOAD = 1.3
PATIENT_S = 600.0
DEADLINE_S = 10.0
SIZE_S_MAX_IN_TIME = 2.4
LONG_TIMEOUT_S = 60.0
TIMEOUT_S = 3.0
STEADY_S = 50.0
RACE_S = 60.0
FAULT_FROM_S = 10.0
OUTAGE_S = 30.0
FLAPPING_FROM_S = 20.0
FLAPPING_UNTIL_S = 50.0
FLAP_MEAN_S = 2.0
FLAPPING_SEEDS = (1, 2, 3, 4)
MIXED = {Priority.HIGH: 0.2, Priority.NORMAL: 0.4, Priority.LOW: 0.4}
MODEST_TENANTS = 4


class Scenario(NamedTuple):
    """One race.

    Attributes:
        name: Short.
        models: The fleet, with its faults.
        streams: What is asked for.
        timeout_s: How long one attempt may take.
        seed: Of arrivals, sizes and faults.
        from_s: Tasks that arrive earlier are not counted: nobody knows the agents yet.
    """

    name: str
    models: tuple[Model, ...]
    streams: tuple[Stream, ...]
    timeout_s: float
    seed: int = SEED
    from_s: float = WARM_UP_S


Make = Callable[[int], Scenario]


def scenarios() -> dict[str, Make]:
    """By name; each is made for a number of agents."""
    flapping = {f"third flapping, seed {seed}": _flapping(seed) for seed in FLAPPING_SEEDS}
    return {
        "unloaded": unloaded,
        "steady": steady,
        "one agent 10x slow": gray_failure,
        "third dead, refusing": lambda agents: third_dead("third dead, refusing", FaultKind.CRASHED, agents),
        "third dead, silent": lambda agents: third_dead("third dead, silent", FaultKind.VANISHED, agents),
        **flapping,
        "overload 130 %": overload,
        "three hang": three_hang,
        "greedy tenant": greedy_tenant,
    }


def unloaded(agents: int) -> Scenario:
    """A twentieth of what the fleet can do."""
    models = make_models(agents, SEED)
    return Scenario("unloaded", tuple(models), (_stream(models, 0.05, 400.0, PATIENT_S),), LONG_TIMEOUT_S)


def steady(agents: int) -> Scenario:
    """Four fifths of what the fleet can do."""
    models = make_models(agents, SEED)
    return Scenario("steady", tuple(models), (_stream(models, LOAD, STEADY_S, PATIENT_S),), LONG_TIMEOUT_S)


def gray_failure(agents: int) -> Scenario:
    """The same, and the fastest agent becomes ten times slower without ever failing."""
    models = make_models(agents, SEED)
    slow = Fault(FAULT_FROM_S, PATIENT_S, FaultKind.SLOW)
    models[-1] = models[-1]._replace(faults=(slow,))
    return Scenario("one agent 10x slow", tuple(models), (_stream(models, LOAD, STEADY_S, PATIENT_S),), LONG_TIMEOUT_S)


def third_dead(name: str, kind: FaultKind, agents: int) -> Scenario:
    """Four fifths of what the full fleet can do, while every third agent is dead for half a minute."""
    models = make_models(agents, SEED)
    outage = Fault(FAULT_FROM_S, FAULT_FROM_S + OUTAGE_S, kind)
    stream = _stream(models, LOAD, RACE_S, DEADLINE_S, mixed=True)
    return Scenario(name, tuple(_with_third(models, lambda _: (outage,))), (stream,), TIMEOUT_S)


def third_flapping(seed: int, agents: int) -> Scenario:
    """Four fifths of what two thirds of the fleet can do; the others are dead, and then come and go as they please."""
    models = make_models(agents, seed)
    survivors = [model for number, model in enumerate(models) if not _is_of_third(number)]
    stream = _stream(survivors, LOAD, RACE_S, DEADLINE_S, mixed=True)
    flapping = _with_third(models, lambda number: tuple(_flaps(random.Random(f"{seed} flaps {number}"))))
    return Scenario(f"third flapping, seed {seed}", tuple(flapping), (stream,), TIMEOUT_S, seed)


def overload(agents: int) -> Scenario:
    """Thirteen tenths of what the fleet can do, in three priorities."""
    models = make_models(agents, SEED)
    return Scenario(
        "overload 130 %", tuple(models), (_stream(models, OVERLOAD, RACE_S, DEADLINE_S, mixed=True),), TIMEOUT_S
    )


def three_hang(agents: int) -> Scenario:
    """Four fifths of what the fleet can do, while one agent in ten takes tasks, does nothing, and says it is well."""
    models = make_models(agents, SEED)
    hang = Fault(FAULT_FROM_S, FAULT_FROM_S + OUTAGE_S, FaultKind.HANGING)
    hanging = [model._replace(faults=(hang,)) if number % 10 == 6 else model for number, model in enumerate(models)]
    return Scenario("three hang", tuple(hanging), (_stream(models, LOAD, RACE_S, DEADLINE_S, mixed=True),), TIMEOUT_S)


def greedy_tenant(agents: int) -> Scenario:
    """One tenant asks for all that the fleet can do, four others for a twentieth each."""
    models = make_models(agents, SEED)
    greedy = _stream(models, 1.0, RACE_S, DEADLINE_S)._replace(tenant="greedy")
    modest = _stream(models, 0.05, RACE_S, DEADLINE_S)
    streams = (greedy, *(modest._replace(tenant=f"modest-{number}") for number in range(MODEST_TENANTS)))
    return Scenario("greedy tenant", tuple(models), streams, TIMEOUT_S)


def _flapping(seed: int) -> Make:
    return lambda agents: third_flapping(seed, agents)


def _stream(
    models: Sequence[Model], load: float, duration_s: float, deadline_s: float, *, mixed: bool = False
) -> Stream:
    """Who sets a deadline of 10 s does not ask for what takes the slowest agent longer than a quarter of it."""
    work_per_s = load * sum(model.capacity for model in models)
    size_s_max = SIZE_S_MAX_IN_TIME if deadline_s == DEADLINE_S else SIZE_S_MAX
    return Stream(work_per_s, duration_s, deadline_s, MIXED if mixed else ALL_NORMAL, size_s_max=size_s_max)


def _is_of_third(number: int) -> bool:
    return number % 3 == 1


def _with_third(models: Sequence[Model], faults: Callable[[int], tuple[Fault, ...]]) -> Iterator[Model]:
    for number, model in enumerate(models):
        yield model._replace(faults=faults(number)) if _is_of_third(number) else model


def _flaps(rng: random.Random) -> Iterator[Fault]:
    """Dead at first, then up and down for exponentially long, at least a fifth of a second each."""
    begins_s, ends_s = FAULT_FROM_S, FLAPPING_FROM_S
    for _ in itertools.count():
        yield Fault(begins_s, ends_s, FaultKind.CRASHED)
        begins_s = ends_s + 0.2 + rng.expovariate(1 / FLAP_MEAN_S)
        ends_s = begins_s + 0.2 + rng.expovariate(1 / FLAP_MEAN_S)
        if begins_s > FLAPPING_UNTIL_S:
            return
