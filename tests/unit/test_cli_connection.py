"""How the command line runs what takes time."""

import asyncio
import gc
import signal
import sys
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


class InterruptedWhileMade(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        signal.raise_signal(signal.SIGINT)
        super().__init__()


def test_interrupt_while_the_loop_is_made_leaves_no_half_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    monkeypatch.setattr(asyncio.events, "new_event_loop", InterruptedWhileMade)
    with pytest.raises(KeyboardInterrupt):
        run_to_end(work)
    gc.collect()
    assert complaints == []
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
