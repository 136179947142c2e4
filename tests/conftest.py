"""What every test starts from."""

import gc
import signal
import sys
from collections.abc import Iterator

import pytest

from aicp.model.collector import quieten_collector

# Whoever is started by a shell in the background ignores Ctrl-C and so do its children: tests that press it would wait.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def quiet_collector() -> Iterator[None]:
    """The garbage collector and the interpreter lock as `aicp serve` and `aicp agent run` set them."""
    before, interval_s = gc.get_threshold(), sys.getswitchinterval()
    quieten_collector()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)
    sys.setswitchinterval(interval_s)
