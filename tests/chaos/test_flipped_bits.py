"""The server killed with -9 under load, and copies of what it leaves damaged: each fault is harmless or reported."""

import asyncio
import random
from pathlib import Path

import pytest

from aicp.client import Client
from aicp.storage.sqlite_salvage import salvage_database
from aicp.storage.sqlite_wal import log_of
from tests.chaos.agent_process import FLEET, fleet
from tests.chaos.deployment import sqlite_deployment
from tests.chaos.flipped_bits import COPIES_A_KILL, FlippedBits
from tests.chaos.load import draw_chain
from tests.chaos.siege import Plan, besiege
from tests.sqlite_files import Fault

KILLS, CUSTOMERS = 4, 20
pytestmark = pytest.mark.timeout(600)


def test_single_fault_in_what_a_killed_server_leaves_is_harmless_or_reported(tmp_path: Path) -> None:
    plan = Plan(KILLS, random.SystemRandom().randrange(1_000_000), CUSTOMERS)
    again = f"--storm flipped-bits --kills {plan.strikes} --customers {CUSTOMERS} --seed {plan.seed}"
    print(f"again: make chaos ARGS='{again}'")  # noqa: T201 - shown when it fails
    with sqlite_deployment(tmp_path) as deployment:
        outcome = besiege(deployment, tmp_path, plan, FlippedBits(deployment), tell=lambda _: None)

    assert outcome.breaches == [], f"seed {plan.seed}"
    judged = sum(count for name, count in outcome.figures.items() if name.startswith("faults: "))
    assert judged == KILLS * COPIES_A_KILL


def test_server_does_not_start_on_a_log_with_a_flipped_bit_and_goes_on_after_a_salvage(tmp_path: Path) -> None:
    with sqlite_deployment(tmp_path) as deployment:
        (server,) = deployment.servers
        server.start()
        server.wait_until_started()
        with fleet(deployment.told, tmp_path / "executions.jsonl"):
            asyncio.run(accept(server.url, server.key, CUSTOMERS))
            server.kill()
        log = log_of(deployment.path)
        Fault("flip", "-wal", (log.stat().st_size * 4,)).apply(deployment.path)
        before = log.read_bytes()
        server.start()
        assert server.wait() != 0
        assert "is damaged: its write-ahead log" in server.told()
        assert "Traceback" not in server.told()
        assert log.read_bytes() == before
        assert salvage_database(deployment.path).counts["chains"] < CUSTOMERS
        server.start()
        server.wait_until_started()
        assert server.stop() == 0


async def accept(url: str, key: str, count: int) -> None:
    """Have so many chains accepted, with less than an idle second between them."""
    async with Client(url, key) as client:
        while len(await client.agents()) < len(FLEET):  # noqa: ASYNC110 - known at another process
            await asyncio.sleep(0.02)
        for number in range(count):
            await client.submit_chain(draw_chain(random.Random(number), f"chain-{number}"))
