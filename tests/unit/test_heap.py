"""The heap of which entries go without a word: its order, its bound, and that no operation costs all of it."""

import random

import pytest

from aicp.scheduling.heap import GONE_KEPT_MAX, MOVED_A_STEP, Heap

CROWD = 20_000


class Worked:
    """A heap of numbers, which of them are good, and how many were looked at by the operation that took most."""

    def __init__(self) -> None:
        self.heap = Heap[tuple[int]]()
        self.good: set[int] = set()
        self.most_looks = 0
        self._looks = 0

    def join(self, number: int) -> None:
        self.good.add(number)
        self.heap.push((number,))

    def leave(self, number: int) -> None:
        self.good.remove(number)
        self._looks = 0
        self.heap.forget_gone(len(self.good), self._is_good)
        self.most_looks = max(self.most_looks, self._looks)

    def first(self) -> int | None:
        while (entry := self.heap.first()) is not None:
            if entry[0] in self.good:
                return entry[0]
            self.heap.pop()
        return None

    def _is_good(self, entry: tuple[int]) -> bool:
        self._looks += 1
        return entry[0] in self.good


@pytest.mark.parametrize("seed", range(4))
def test_the_least_good_entry_is_first_whatever_came_and_went(seed: int) -> None:
    draw, worked = random.Random(seed), Worked()
    for turn in range(10_000):
        is_filling = turn // 2_000 % 2 == 0
        if not worked.good or draw.random() < (0.7 if is_filling else 0.2):
            worked.join(draw.randrange(1_000_000) * 10_000 + turn)
        else:
            some = worked.first() if draw.random() < 0.5 else draw.choice(tuple(worked.good))
            assert some is not None
            worked.leave(some)
        if draw.random() < 0.3:
            assert worked.first() == min(worked.good, default=None)
        assert {entry[0] for entry in worked.heap} >= worked.good
    assert worked.most_looks == MOVED_A_STEP


@pytest.mark.parametrize("order", ["as they came", "the last first", "in no order"])
def test_a_crowd_that_goes_is_forgotten_a_few_at_a_time(order: str) -> None:
    worked, numbers = Worked(), list(range(CROWD))
    for number in numbers:
        worked.join(number)
    if order == "the last first":
        numbers.reverse()
    elif order == "in no order":
        random.Random(1).shuffle(numbers)
    for number in numbers:
        worked.leave(number)
    assert worked.most_looks == MOVED_A_STEP
    assert len(worked.heap) <= GONE_KEPT_MAX
    assert worked.first() is None


def test_those_that_stay_are_kept_once_and_in_order() -> None:
    worked = Worked()
    for number in range(CROWD):
        worked.join(number)
    for number in range(CROWD):
        if number % 10:
            worked.leave(number)
    found = []
    while (first := worked.first()) is not None:
        found.append(first)
        worked.heap.pop()
    assert found == list(range(0, CROWD, 10))
