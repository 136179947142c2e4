"""Replicas of `aicp serve` on one PostgreSQL: one is lost, and the others go on with its chains; all are restarted.

So many chains are submitted to one replica, each has an attempt in flight, and then that replica is killed with -9, or
its way to the database lets nothing pass any more. A chain is resumed when the first attempt that a peer sends for it
arrives at an agent, by the agents' own receipts; agents are real HTTP servers. `fsync` is on. Then four replicas are
restarted one after the other, with SIGTERM, behind one address, while clients that try again submit chains and wait.

Aims: the chains of a killed replica resumed within 100 ms (median), those of a replica cut off within its lease of 3 s
and one second; in the rolling restart 0 requests failed, 0 chains lost.

    python -m benchmarks.flow.takeover [--quick] [--rounds N]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from aicp import TaskChain
from aicp.client import Client, ServerUnreachable
from aicp.errors import AicpError
from aicp.model.agent import Registration
from aicp.model.chain import ChainSpec
from aicp.model.task import TaskStatus
from benchmarks.measure import quantile, report
from benchmarks.receipts_agent import read_receipts, receipts_agents
from tests.chaos.door_process import door_to
from tests.chaos.postgres_deployment import LEASE_S, PostgresDeployment, postgres_deployment

ROUNDS = 7
REPLICAS = (2, 4)
AGENTS = 2
SLOTS = 512
CHAINS = 60
TASKS, NAP_S = 4, 0.25
LOADERS, LOAD_NAP_S = 16, 0.02
BEFORE_S, BETWEEN_S = 3.0, 0.5
LOOK_EVERY_S = 0.01
BOUND_S = 60.0
DEATH_AIM_S, PARTITION_AIM_S = 0.1, LEASE_S + 1.0


class TakeOver(msgspec.Struct, frozen=True):
    """One round, in seconds since the replica was lost.

    Attributes:
        median: Until half of its chains were resumed.
        last: Until all were.
    """

    median: float
    last: float


class Restarted(msgspec.Struct, frozen=True):
    """A rolling restart under load.

    Attributes:
        requests_failed: Those that failed though the client tried again.
        chains: Acknowledged.
        chains_lost: Those of them that did not end COMPLETED.
        took_s: From the first SIGTERM until the last replica served again.
        before_ms: A chain from submit to end, before.
        meanwhile_ms: The same, while replicas were restarted.
    """

    requests_failed: int
    chains: int
    chains_lost: int
    took_s: float
    before_ms: Sequence[float]
    meanwhile_ms: Sequence[float]


class Bench:
    """Replicas that run, and agents that all of them know.

    Args:
        deployment: The replicas.
        clients: One for each.
        receipts: Where the agents write.
    """

    def __init__(self, deployment: PostgresDeployment, clients: Sequence[Client], receipts: Path) -> None:
        self.deployment = deployment
        self.clients = clients
        self.receipts = receipts

    async def lose(self, place: int, lose: Callable[[int], None], find: Callable[[int], None]) -> TakeOver:
        """Have a replica run chains, lose it, wait until peers resumed them all and they ended, and get it back."""
        peer = self.clients[place - 1]
        chains = await asyncio.gather(*(self.clients[place].submit_chain(naps(TASKS, NAP_S)) for _ in range(CHAINS)))
        await self._until(lambda: not set(chains) - set(self._sent(1)))
        lost_at = time.monotonic()
        await asyncio.to_thread(lose, place)
        await self._until(lambda: not set(chains) - set(self._sent(2)))
        resumed = self._sent(2)
        ended = await asyncio.gather(*(peer.wait_chain(chain_id, timeout_s=BOUND_S) for chain_id in chains))
        assert all(chain.status is TaskStatus.COMPLETED for chain in ended), "a chain was lost"
        await asyncio.to_thread(find, place)
        await self.until_all_serve()
        times = [resumed[chain_id] - lost_at for chain_id in chains]
        return TakeOver(statistics.median(times), max(times))

    async def until_all_serve(self) -> None:
        """Each replica knows the agents and takes a chain; and for a second more each had a look at the others."""
        for client in self.clients:
            async with asyncio.timeout(BOUND_S):
                while not await _serves(client):  # noqa: ASYNC110 - at another process
                    await asyncio.sleep(LOOK_EVERY_S)
        await asyncio.sleep(1.0)

    def kill(self, place: int) -> None:
        self.deployment.servers[place].kill()

    def start(self, place: int) -> None:
        self.deployment.servers[place].start()
        self.deployment.servers[place].wait_until_started()

    def cut_off(self, place: int) -> None:
        self.deployment.ways[place].swallow(everything=True)

    def let_back(self, place: int) -> None:
        self.deployment.ways[place].swallow(everything=False)

    def _sent(self, epoch: int) -> dict[str, float]:
        """When the first attempt of each chain by this owner, or a later one, arrived."""
        first: dict[str, float] = {}
        for receipt in read_receipts(self.receipts):
            if receipt.epoch >= epoch:
                first.setdefault(receipt.chain_id, receipt.at)
        return first

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not holds():  # noqa: ASYNC110 - at other processes, which write it to a file
                await asyncio.sleep(LOOK_EVERY_S)


async def _serves(client: Client) -> bool:
    try:
        return len(await client.agents()) == AGENTS and bool(await client.submit_chain(naps(1, 0.0)))
    except AicpError:
        return False


@asynccontextmanager
async def bench(directory: Path, replicas: int, *, with_ways: bool) -> AsyncIterator[Bench]:
    """Replicas that serve, and agents."""
    receipts = directory / "receipts"
    receipts.touch()
    with (
        postgres_deployment(directory, replicas, with_ways=with_ways) as deployment,
        receipts_agents(AGENTS, SLOTS, receipts) as endpoints,
    ):
        for server in deployment.servers:
            server.start()
            await asyncio.to_thread(server.wait_until_started)
        clients = [Client(server.url, server.key, retries_max=0) for server in deployment.servers]
        for endpoint in endpoints:
            await clients[0].register_agent(Registration(endpoint, lease=False))
        made = Bench(deployment, clients, receipts)
        await made.until_all_serve()
        try:
            yield made
        finally:
            for client in clients:
                await client.close()


def naps(tasks: int, nap_s: float) -> ChainSpec:
    """A chain of tasks one behind the other."""
    chain = TaskChain("naps")
    before = [chain.add_task("nap", {"nap_s": nap_s})]
    for _ in range(1, tasks):
        before = [chain.add_task("nap", {"nap_s": nap_s}, depends_on=before)]
    return chain.freeze()


async def take_overs(directory: Path, replicas: int, rounds: int, *, partition: bool) -> list[TakeOver]:
    """As many rounds, after one that does not count; each replica has its turn."""
    async with bench(directory, replicas, with_ways=partition) as made:
        lose, find = (made.cut_off, made.let_back) if partition else (made.kill, made.start)
        found = [await made.lose(number % replicas, lose, find) for number in range(rounds + 1)]
    return found[1:]


async def rolling_restart(directory: Path, replicas: int) -> Restarted:
    """Restart each in turn, under load, behind one address."""
    load = Load()
    async with bench(directory, replicas, with_ways=False) as made:
        servers = made.deployment.servers
        with door_to([server.port for server in servers]) as url:
            async with Client(url, servers[0].key) as client, asyncio.TaskGroup() as group:
                for _ in range(LOADERS):
                    group.create_task(load.keep_on(client))
                await asyncio.sleep(BEFORE_S)
                began = time.monotonic()
                for place, server in enumerate(servers):
                    await asyncio.to_thread(server.stop)
                    await asyncio.to_thread(made.start, place)
                    await asyncio.sleep(BETWEEN_S)
                took_s = time.monotonic() - began - BETWEEN_S
                load.is_over = True
        lost = await load.lost(made.clients[0])
    before = [ms for at, ms in load.times_ms if at < began]
    meanwhile = [ms for at, ms in load.times_ms if at >= began]
    return Restarted(load.failed, len(load.chains), lost, took_s, before, meanwhile)


class Load:
    """Clients that submit a chain, wait for its end, and begin anew.

    Attributes:
        is_over: Set to end it.
        chains: Acknowledged.
        failed: Requests that failed though the client tried again.
        times_ms: Of each chain, when it ended and what it took from submit to end.
    """

    def __init__(self) -> None:
        self.is_over = False
        self.chains: list[str] = []
        self.failed = 0
        self.times_ms: list[tuple[float, float]] = []

    async def keep_on(self, client: Client) -> None:
        while not self.is_over:
            began = time.monotonic()
            try:
                chain_id = await client.submit_chain(naps(3, LOAD_NAP_S))
                self.chains.append(chain_id)
                await client.wait_chain(chain_id, timeout_s=BOUND_S)
            except (AicpError, ServerUnreachable):
                self.failed += 1
            else:
                self.times_ms.append((time.monotonic(), (time.monotonic() - began) * 1000))

    async def lost(self, client: Client) -> int:
        ended = [await client.wait_chain(chain_id, timeout_s=BOUND_S) for chain_id in self.chains]
        return sum(chain.status is not TaskStatus.COMPLETED for chain in ended)


def rows_of_take_overs(what: str, found: Sequence[TakeOver], aim_s: float) -> list[list[object]]:
    medians, lasts = [each.median * 1000 for each in found], [each.last * 1000 for each in found]
    met = "met" if statistics.median(medians) <= aim_s * 1000 else "MISSED"
    return [
        [f"{what}: half of its {CHAINS} chains resumed", "ms", *spread(medians), aim_s * 1000, met],
        [f"{what}: all of them resumed", "ms", *spread(lasts), "", ""],
    ]


def rows_of_restart(replicas: int, found: Restarted) -> list[list[object]]:
    name = f"rolling restart of {replicas}"
    before, meanwhile = found.before_ms, found.meanwhile_ms
    return [
        [f"{name}: requests failed", "", found.requests_failed, "", "", 0, verdict(found.requests_failed)],
        [f"{name}: chains lost, of {found.chains}", "", found.chains_lost, "", "", 0, verdict(found.chains_lost)],
        [f"{name}: first SIGTERM to last start", "s", found.took_s, "", "", "", ""],
        [f"{name}: a chain of 3, before", "ms", *quantiles(before), "", "p50, p50, p99"],
        [f"{name}: a chain of 3, meanwhile", "ms", *quantiles(meanwhile), "", "p50, p50, p99"],
    ]


def spread(values: Sequence[float]) -> list[object]:
    return [statistics.median(values), min(values), max(values)]


def quantiles(values: Sequence[float]) -> list[object]:
    return [statistics.median(values), statistics.median(values), quantile(values, 0.99)]


def verdict(count: int) -> str:
    return "MISSED" if count else "met"


async def measured(scratch: Path, rounds: int) -> list[list[object]]:
    rows: list[list[object]] = []
    for replicas in REPLICAS:
        for partition, what, aim_s in ((False, "killed", DEATH_AIM_S), (True, "cut off", PARTITION_AIM_S)):
            directory = scratch / f"{replicas}-{what.replace(' ', '-')}"
            directory.mkdir()
            found = await take_overs(directory, replicas, rounds, partition=partition)
            rows += rows_of_take_overs(f"one of {replicas} {what}", found, aim_s)
    directory = scratch / "restart"
    directory.mkdir()
    return rows + rows_of_restart(max(REPLICAS), await rolling_restart(directory, max(REPLICAS)))


def main() -> None:
    parser = argparse.ArgumentParser(description="How soon peers go on with the chains of a replica that is lost.")
    parser.add_argument("--quick", action="store_true", help="one round of each: a smoke test")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-takeover-") as scratch:
        rows = asyncio.run(measured(Path(scratch), 1 if asked.quick else asked.rounds))
    report(
        "flow/takeover", ["what", "unit", "median", "min", "max", "aim", ""], rows, ["msgspec", "asyncpg", "uvicorn"]
    )


if __name__ == "__main__":
    main()
