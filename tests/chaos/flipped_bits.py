"""A storm that kills the server with -9 and damages copies of what it leaves; the server itself goes on."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import msgspec

from aicp.ports import ChainQuery
from tests.chaos.deployment import SqliteDeployment
from tests.chaos.siege import KillNine, Siege
from tests.sqlite_files import Fault, Verdict, copy_of, draw_fault, judge, opened

PAGE = 500
COPIES_A_KILL = 3


class FlippedBits(KillNine):
    """After each kill: a copy of the data directory, and in some copies of that one fault each.

    The content of the copy itself is the truth; whether that is all that was acknowledged is judged at the end.
    """

    def __init__(self, deployment: SqliteDeployment, faults_a_kill: int = COPIES_A_KILL) -> None:
        self._path = deployment.path
        self._faults = faults_a_kill

    async def start_again(self, siege: Siege, place: int) -> None:
        """Copy while no server runs, and judge beside the next one."""
        with tempfile.TemporaryDirectory(prefix="aicp-flipped-") as directory:
            left = Path(directory, "left", self._path.name)
            left.parent.mkdir()
            for file in self._path.parent.glob(f"{self._path.name}*"):
                shutil.copyfile(file, left.parent / file.name)
            siege.start(place)
            faults = [draw_fault(siege.draw, left) for _ in range(self._faults)]
            for fault, verdict in await asyncio.to_thread(judge_all, left, faults):
                siege.noted[f"faults: {verdict}"] += 1
                if verdict is Verdict.SILENT:
                    siege.broken.append(f"{fault} of a copy was neither harmless nor reported")


def judge_all(left: Path, faults: list[Fault]) -> list[tuple[Fault, Verdict]]:
    """In a thread, with a loop of its own."""

    async def main() -> list[tuple[Fault, Verdict]]:
        expected = await read_chains(copy_of(left, "whole"))
        return [(fault, await judge(left, fault, read_chains, expected)) for fault in faults]

    return asyncio.run(main())


async def read_chains(path: Path) -> bytes:
    """Every chain in a list, and all that is recorded of it; without epochs.

    Raises:
        AicpError: The database was refused, or something in it.
    """
    found = []
    async with opened(path) as (_, journal):
        before: str | None = None
        while page := await journal.list_chains(ChainQuery(limit=PAGE, before=before)):
            for summary in page:
                record = await journal.read(summary.chain_id)
                found.append((summary, None if record is None else (record.submitted, record.facts)))
            before = page[-1].chain_id
    return msgspec.json.encode(found)
