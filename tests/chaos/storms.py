"""Storms over a SQLite file: a disk that is full, writes that fail, a file that somebody else has locked."""

import asyncio
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from aicp.ports import Journal
from aicp.runtime.database_url import DATABASE_URL_VARIABLE
from aicp.storage.sqlite_backup import check_database
from tests.chaos.deployment import opened_journal
from tests.chaos.server_process import BOUND_S, ServerProcess
from tests.chaos.siege import Siege, Storm

DISK_BYTES = 48 << 20
FILLER = "filler"
FILE_BYTES_MAX = 4_096
HANGS_S = 60.0
"""Longer than a server waits for a file that is locked: a read that waited for it would be refused before."""
CALM_S_MAX = 0.5
ORDER_EVERY_S = 0.1
LOOK_EVERY_S = 0.1
IN_A_NAMESPACE = ("unshare", "--map-root-user", "--mount")
MOUNT_SMALL_DISK = f'mount -t tmpfs -o size={DISK_BYTES},mode=0700 tmpfs "$0" && echo mounted && exec cat'
HOLD_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


class SmallDisk:
    """A file system of 48 MiB in memory, in a mount namespace of its own; it goes with the process that holds it.

    Args:
        where: A directory, not there yet.
    """

    def __init__(self, where: Path) -> None:
        self.where = where
        where.mkdir()
        command = [*IN_A_NAMESPACE, "sh", "-c", MOUNT_SMALL_DISK, str(where)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"mounted\n"

    @property
    def enter(self) -> Sequence[str]:
        """What stands before the command of a process that is to see it."""
        return ("nsenter", "--target", str(self._holder.pid), "--user", "--preserve-credentials", "--mount")

    def path(self, name: str) -> Path:
        """A file in it, as processes outside see it."""
        return Path(f"/proc/{self._holder.pid}/root{self.where}/{name}")

    def fill(self) -> None:
        """Leave no room."""
        with self.path(FILLER).open("ab", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4_096))

    def make_room(self) -> None:
        self.path(FILLER).unlink()

    def end(self) -> None:
        self._holder.communicate()


class SmallDiskDeployment:
    """One server on a file on a disk of its own.

    Args:
        directory: For its log and keys, not there yet.
        disk: For its database.
    """

    name = "sqlite on a small disk"

    def __init__(self, directory: Path, disk: SmallDisk) -> None:
        url = f"sqlite:///{disk.where / 'aicp.db'}"
        self.servers = self.told = (ServerProcess(directory, {DATABASE_URL_VARIABLE: url}, before=disk.enter),)
        self._disk = disk
        self._copy = directory / "copy.db"

    def problems(self) -> Sequence[str]:
        self._take_copy()
        return check_database(self._copy).problems

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        self._take_copy()
        async with opened_journal(self._copy) as journal:
            yield journal

    def _take_copy(self) -> None:
        # After a clean stop everything is in the one file; SQLite itself would not find it by this path.
        shutil.copy(self._disk.path("aicp.db"), self._copy)


@contextmanager
def small_disk_deployment(directory: Path) -> Iterator[tuple[SmallDisk, SmallDiskDeployment]]:
    """A server on a disk of 48 MiB; both are gone at the end, whatever happened."""
    disk = SmallDisk(directory / "disk")
    deployment = SmallDiskDeployment(directory / "data", disk)
    try:
        yield disk, deployment
    finally:
        for server in deployment.servers:
            server.kill()
        disk.end()


class FullDisk:
    """Fills the disk until submits are refused for it, looks whether reads are answered, and makes room.

    Args:
        disk: Under the database of the only server.
    """

    def __init__(self, disk: SmallDisk) -> None:
        self._disk = disk

    async def strike(self, siege: Siege) -> None:
        await asyncio.sleep(siege.draw.uniform(0.0, CALM_S_MAX))
        self._disk.fill()
        await until_orders_are_refused(siege, "the disk is full: free some space", self._disk.make_room)


class FailingWrites:
    """Has every write to the database fail until submits are refused for it, and then lets them succeed again."""

    async def strike(self, siege: Siege) -> None:
        await asyncio.sleep(siege.draw.uniform(0.0, CALM_S_MAX))
        pid = siege.deployment.servers[0].pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, resource.RLIM_INFINITY))
        await until_orders_are_refused(
            siege, "the disk failed: check it", lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        )


class LockedFile:
    """Has another process lock the file for some seconds.

    Args:
        path: The file.
        span_s: How long.
    """

    def __init__(self, path: Path, span_s: float) -> None:
        self._path = path
        self._span_s = span_s

    async def strike(self, siege: Siege) -> None:
        async with asyncio.TaskGroup() as group:
            with locked(self._path):
                give_back_at = time.monotonic() + self._span_s
                group.create_task(siege.next_customer().shop())
                while time.monotonic() < give_back_at:
                    await assert_reads_are_answered(siege)
                    await asyncio.sleep(LOOK_EVERY_S)


class SecondServer:
    """Starts another server on the same file, which ends by itself.

    Attributes:
        waited_s: How long that took.
        told: All that it said.

    Args:
        server: Not started yet.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.waited_s = 0.0
        self.told = ""

    async def strike(self, siege: Siege) -> None:
        began = time.monotonic()
        self._server.start()
        assert await asyncio.to_thread(self._server.wait) != 0
        self.waited_s, self.told = time.monotonic() - began, self._server.told()


class Together:
    """Several storms at once."""

    def __init__(self, *storms: Storm) -> None:
        self._storms = storms

    async def strike(self, siege: Siege) -> None:
        async with asyncio.TaskGroup() as group:
            for storm in self._storms:
                group.create_task(_strike(storm, siege))


async def _strike(storm: Storm, siege: Siege) -> None:
    await storm.strike(siege)


async def until_orders_are_refused(siege: Siege, words: str, end: Callable[[], object]) -> None:
    """Order more and more until that is what the server says; then have it end, and wait for those orders.

    Raises:
        TimeoutError: It did not say so, or did not come back by itself.
    """
    refusals = siege.street.refusals
    known = len(refusals)
    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
        while not any(words in refusal for refusal in refusals[known:]):
            group.create_task(siege.next_customer().shop())
            await asyncio.sleep(ORDER_EVERY_S)
        await assert_reads_are_answered(siege)
        end()


async def assert_reads_are_answered(siege: Siege) -> None:
    """A chain that was acknowledged can be looked at, without waiting for the disk.

    Raises:
        TimeoutError: It took too long.
        AicpError: It was refused.
    """
    acknowledged = [chain_id for order in siege.orders for chain_id in order.chain_ids]
    if acknowledged:
        async with asyncio.timeout(HANGS_S):
            await siege.street.clients[0].get_chain(siege.draw.choice(acknowledged))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process has begun to write to a SQLite file, and does not end."""
    command = [sys.executable, "-c", HOLD_LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            holder.kill()
