"""Who is next among those that share hand-overs, and the memory of what each has had."""

from typing import Generic, TypeVar

from aicp.model.task import Priority

K = TypeVar("K")

STRIDES = {Priority.HIGH: 1, Priority.NORMAL: 8, Priority.LOW: 64}
"""What one hand-over costs a priority: they share hand-overs 64 : 8 : 1."""
CLASS_STRIDES = {False: 1, True: 8}
"""The same for the first tasks of chains (False) and the rest of large ones (True): 8 : 1."""


class Turns(Generic[K]):
    """Stride scheduling between a few keys: the one with the smallest pass is next.

    A pass is remembered while its key is idle. A key that could not be served saves nothing up: its pass is never
    behind the clock, which is the pass of the key served last.

    Source: C. Waldspurger and W. Weihl, Stride Scheduling, 1995.
    """

    __slots__ = ("_passes", "clock")

    def __init__(self) -> None:
        self._passes: dict[K, int] = {}
        self.clock = 0

    def pass_of(self, key: K) -> int:
        """The pass of a key; less is served sooner."""
        return max(self._passes.get(key, 0), self.clock)

    def charge(self, key: K, stride: int) -> None:
        """Count one hand-over to a key."""
        self.clock = self.pass_of(key)
        self._passes[key] = self.clock + stride


class Rounds(Generic[K]):
    """Equal shares between any number of keys: `Turns` with a stride of 1, in memory of one round.

    With equal strides a pass is the clock, or one more for a key that had its turn in this round.
    """

    __slots__ = ("_had", "clock")

    def __init__(self) -> None:
        self._had: set[K] = set()
        self.clock = 0

    def pass_of(self, key: K) -> int:
        """The pass of a key; less is served sooner."""
        return self.clock + (key in self._had)

    def charge(self, key: K) -> None:
        """Count one hand-over to a key; when it had its turn before, a new round begins."""
        if key in self._had:
            self.clock += 1
            self._had = set()
        self._had.add(key)


class Order:
    """What priorities, and tenants inside each, have had of one pool."""

    __slots__ = ("priorities", "tenants")

    def __init__(self) -> None:
        self.priorities = Turns[Priority]()
        self.tenants = {priority: Rounds[str]() for priority in Priority}

    def charge(self, priority: Priority, tenant: str) -> None:
        """Count one hand-over."""
        self.priorities.charge(priority, STRIDES[priority])
        self.tenants[priority].charge(tenant)
