"""A small SQLite database with known content: all that was acknowledged, read by every way in which it is asked for."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from aicp.model.access import ApiKey, Scope
from aicp.model.agent import AgentProfile, Capability
from aicp.ports import ChainQuery, StoredKey, SubmitKey
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_access import SqliteApiKeys
from aicp.storage.sqlite_registrations import SqliteRegistrations
from tests.sqlite_files import copy_of, opened
from tests.unit.sqlite_kit import chain_ended, submitted, task_ended

CHAINS, UNFINISHED = 24, 6
LARGE = "large " * 11_200


async def fill(path: Path, *, closed: bool) -> Path:
    """Make a database with content; returns a copy of it as a killed process leaves it, or as a stopped one does."""
    async with opened(path) as (file, journal):
        for number in range(CHAINS):
            await _add(journal, f"c{number}", is_over=number >= UNFINISHED)
            if number == CHAINS // 2:
                await file.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone())
        await SqliteRegistrations(file).save(AgentProfile("eyes-1", (Capability("x.y"),), 4, "http://x:1", "i1"))
        made = datetime(2026, 1, 1, tzinfo=UTC)
        key = ApiKey("k1", "ops", "default", (Scope.TASKS_READ,), made)
        await SqliteApiKeys(file).create(StoredKey(key, b"d" * 32))
        if not closed:
            return copy_of(path, "killed")
    return copy_of(path, "stopped")


async def _add(journal: SqliteJournal, chain: str, *, is_over: bool) -> None:
    await journal.submit(submitted(chain, tasks=3), key_of(chain))
    await journal.append([task_ended(chain, "t0", {"answer": chain})])
    if is_over:
        large = LARGE if chain.endswith("7") else chain
        await journal.append([task_ended(chain, "t1", large), task_ended(chain, "t2", None), chain_ended(chain)])


def key_of(chain: str) -> SubmitKey:
    return SubmitKey("default", f"key of {chain}", b"body of " + chain.encode())


async def read_all(path: Path) -> bytes:
    """Everything; without epochs, which rise with each claim and are no answers.

    Raises:
        AicpError: The database was refused, or something in it.
    """
    chains = [f"c{number}" for number in range(CHAINS)]
    async with opened(path) as (file, journal):
        records = [await journal.read(chain) for chain in chains]
        keys = await SqliteApiKeys(file).read()
        content = (
            [None if record is None else (record.submitted, record.facts) for record in records],
            [await journal.find(key_of(chain)) for chain in chains],
            await journal.list_chains(ChainQuery(limit=1_000)),
            await SqliteRegistrations(file).load(),
            None if keys is None else keys.keys,
            sorted([record.submitted.chain_id for record in await journal.claim(1_000)]),
        )
        return msgspec.json.encode(content)
