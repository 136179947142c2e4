"""A replica in a process of its own, which says on stdout what happened to it, until it is killed.

python -m tests.integration.postgres_process URL LEASE_S CHAINS TAG [write]
"""

import asyncio
import itertools
import os
import sys

from aicp.errors import OwnershipLost, StorageError
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_database import PostgresDatabase
from tests.unit.sqlite_kit import submitted, task_ended


def tell(*words: object) -> None:
    """One line, in one write: a killed process tells whole lines or none."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def main(url: str, lease_s: str, chains: str, tag: str, *how: str) -> None:
    database = PostgresDatabase(url, lease_s=float(lease_s), renew_every_s=float(lease_s) / 4)
    journal = PostgresJournal(database)
    await journal.open()
    database.replicas.when_lost(lambda: tell("lost"))
    names = [f"{tag}-{number}" for number in range(int(chains))]
    await asyncio.gather(*(journal.submit(submitted(name)) for name in names))
    tell("ready", database.replicas.number)
    if how:
        await asyncio.gather(*(write(journal, name) for name in names))
    await asyncio.Event().wait()


async def write(journal: PostgresJournal, name: str) -> None:
    """Record one end after the other, and tell of each that was acknowledged."""
    for number in itertools.count():
        try:
            await journal.append([task_ended(name, f"t{number}")])
        except OwnershipLost:
            tell("refused", name, f"t{number}")
            return
        except StorageError:
            await asyncio.sleep(0.05)
        else:
            tell("recorded", name, f"t{number}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
