"""A process that writes to a journal and says on stdout what was acknowledged, until it is killed.

python -m tests.integration.sqlite_process write|hold|open PATH [SEED]
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from aicp.errors import AicpError
from aicp.model.event import TaskEnded
from aicp.ports import SubmitKey
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_database import SqliteDatabase
from tests.unit.sqlite_kit import chain_ended, submitted, task_ended

CHAINS_AT_ONCE = 20
LARGE = "x" * 70_000


def tell(*words: object) -> None:
    """One line, in one write: a killed process tells whole lines or none."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def result_of(task: str) -> str:
    """Every tenth result is large."""
    return f"{task}{LARGE}" if task.endswith("0") else task


async def write(journal: SqliteJournal, seed: int) -> None:
    """Go on with what is unfinished, and submit more, for ever."""
    draw = random.Random(seed)
    records = await journal.claim(1_000_000)
    while more := await journal.claim(1_000_000):
        records = [*records, *more]
    tell("claimed", len(records))
    async with asyncio.TaskGroup() as group:
        for record in records:
            done = sum(isinstance(fact, TaskEnded) for fact in record.facts)
            group.create_task(_run(journal, record.submitted.chain_id, done, record.epoch, draw.randint(1, 40)))
        for number in range(CHAINS_AT_ONCE):
            group.create_task(_submit_and_run(journal, f"{seed}-{number}", draw))


async def _submit_and_run(journal: SqliteJournal, name: str, draw: random.Random) -> None:
    number = 0
    while True:
        key = SubmitKey("t", f"{name}-{number}", b"body")
        chain = await journal.submit(submitted(f"c-{name}-{number}"), key)
        tell("submitted", chain, key.key)
        await _run(journal, chain, 0, 1, draw.randint(1, 40))
        number += 1


async def _run(journal: SqliteJournal, chain: str, done: int, epoch: int, count: int) -> None:
    for number in range(done, done + count):
        await journal.append([task_ended(chain, f"t{number}", result_of(f"t{number}"))], epoch)
        tell("appended", chain, number + 1)
    if count % 2:
        await journal.append([chain_ended(chain)], epoch)
        tell("ended", chain)


async def main(what: str, path: Path, seed: int) -> None:
    """Do what the command line asks."""
    journal = SqliteJournal(SqliteDatabase(path, lock_wait_s=float(os.environ.get("LOCK_WAIT_S", "0.5"))))
    try:
        await journal.open()
    except AicpError as error:
        tell(type(error).__name__, error)
        return
    tell("open")
    if what == "write":
        await write(journal, seed)
    if what == "hold":
        await asyncio.Event().wait()
    await journal.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int((*sys.argv[3:], "0")[0])))
