"""`aicp serve` on either event loop, with short leases of agents, and held for some seconds by SIGUSR1."""

import functools
import signal
import sys
import time

import pytest

from aicp.cli.main import main
from aicp.registry.leases import Leases

LEASE_S = 1.0
HEARTBEAT_S = 0.2
HELD_S = 3.5


def _hold(*_: object) -> None:
    time.sleep(HELD_S)


if __name__ == "__main__":
    loop = sys.argv.pop(1)
    if loop == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment] # as where it is not installed
    patch = pytest.MonkeyPatch()
    patch.setattr("aicp.runtime.ains.HEARTBEAT_EVERY_S", HEARTBEAT_S)
    patch.setattr("aicp.runtime.node.Leases", functools.partial(Leases, LEASE_S))
    signal.signal(signal.SIGUSR1, _hold)
    main()
