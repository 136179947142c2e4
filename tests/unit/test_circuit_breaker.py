"""Section 2 of the semantics, rule by rule, and what other breakers are known to get wrong."""

import asyncio

from aicp.resilience.circuit_breaker import DEFAULT_POLICY, BreakerPolicy, CircuitBreaker, CircuitState, Transition
from aicp.testing import ManualClock


class Rig:
    """A breaker whose time stands still until told, and whose jitter is chosen."""

    def __init__(self, policy: BreakerPolicy = DEFAULT_POLICY, *, gated: bool = False) -> None:
        self.clock = ManualClock()
        self.jitter = 1.0
        self.told: list[Transition] = []
        self.breaker = CircuitBreaker(
            "eyes-1",
            policy,
            clock=self.clock.monotonic,
            uniform=self.draw,
            gated=gated,
            listener=self.told.append,
        )

    def draw(self, low: float, high: float) -> float:
        assert low <= self.jitter <= high
        return self.jitter


class Eyes:
    """Methods as people guard them: the breaker is there before any instance."""

    guard = CircuitBreaker("eyes")

    def __init__(self, sees: str) -> None:
        self.sees = sees

    @guard
    def look(self, where: str, *, twice: bool = False) -> str:
        """Look there."""
        return f"{self.sees} {where}" * (1 + twice)

    @guard
    async def stare(self, where: str) -> str:
        """Look there for long."""
        return f"{self.sees} {where}"


class Ears:
    """A callable that is asynchronous without being a coroutine function."""

    async def __call__(self) -> str:
        raise OSError("deaf")


# 9. The decorator.


def test_decorated_methods_are_bound_to_their_object() -> None:
    eyes = Eyes("a cat")
    assert eyes.look("left", twice=False) == "a cat left"
    assert asyncio.run(eyes.stare("right")) == "a cat right"
    assert Eyes.look(eyes, "up") == "a cat up"
    assert (Eyes.look.__name__, Eyes.look.__doc__) == ("look", "Look there.")


def test_a_callable_with_an_asynchronous_call_is_guarded_to_its_end() -> None:
    breaker = CircuitBreaker("ears")
    hear = breaker(Ears())

    async def main() -> None:
        for _ in range(5):
            try:
                await hear()
            except OSError:
                continue

    asyncio.run(main())
    assert breaker.state is CircuitState.OPEN
