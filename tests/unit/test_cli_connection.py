"""How the command line runs what takes time."""

import asyncio
import gc
import warnings
from collections.abc import Coroutine

import pytest

from aicp.cli.connection import run_to_end


async def work() -> str:
    await asyncio.sleep(0)
    return "done"


def test_work_is_run_to_its_end() -> None:
    assert run_to_end(work) == "done"


def test_work_that_was_interrupted_before_it_began_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_runner: asyncio.Runner, _work: Coroutine[None, None, str]) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio.Runner, "run", interrupted)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(KeyboardInterrupt):
            run_to_end(work)
        gc.collect()
    assert not told
