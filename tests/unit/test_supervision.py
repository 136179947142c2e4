"""Work in the background outlives what goes wrong in it, and says so once."""

import asyncio
import logging

import pytest

from aicp.errors import SettingsError, StorageError
from aicp.runtime.supervision import TRY_AGAIN_S, keep_doing
from tests.unit.flow_kit import now, virtual


class Work:
    """Takes a second a step, and fails as it is told to."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.made_at = now()
        self.begun_at: list[float] = []
        self.turned_at: list[float] = []

    async def step(self) -> None:
        self.begun_at.append(now() - self.made_at)
        await asyncio.sleep(1.0)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    async def go_on(self, seconds: float) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await keep_doing(
                    self.step, "it cannot be done", turned=lambda: self.turned_at.append(now() - self.made_at)
                )


@virtual
async def test_what_fails_is_taken_again_a_second_later_whatever_it_was() -> None:
    work = Work(StorageError("away"), SettingsError("no rights"), ValueError("a defect"))
    await work.go_on(8.5)
    assert work.begun_at == [0.0, 1 + TRY_AGAIN_S, 2 * (1 + TRY_AGAIN_S), 3 * (1 + TRY_AGAIN_S), 7.0, 8.0]


def test_trouble_is_told_once_until_it_goes_well_again(caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def main() -> None:
        work = Work(StorageError("away"), StorageError("still away"), None, StorageError("away again"))
        await work.go_on(10.5)
        assert work.turned_at == [1.0, 5.0, 6.0, 8.0]

    with caplog.at_level(logging.INFO, "aicp.runtime.supervision"):
        main()
    assert [record.getMessage() for record in caplog.records] == [
        "it cannot be done, trying on: away",
        "this is over: it cannot be done",
        "it cannot be done, trying on: away again",
        "this is over: it cannot be done",
    ]


@virtual
async def test_cancelled_it_ends() -> None:
    work = Work()
    going_on = asyncio.create_task(keep_doing(work.step, "it cannot be done"))
    await asyncio.sleep(2.5)
    going_on.cancel()
    await asyncio.wait([going_on])
    assert going_on.cancelled()
    assert work.begun_at == [0.0, 1.0, 2.0]
