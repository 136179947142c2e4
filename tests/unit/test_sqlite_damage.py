"""A damaged SQLite file is refused, kept, checked, restored and salvaged: nothing acknowledged is lost in silence."""

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from aicp.errors import SettingsError, StorageError
from aicp.ports import ChainQuery
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_backup import backup_database, check_database, restore_database, upgrade_database
from aicp.storage.sqlite_salvage import salvage_database
from aicp.storage.sqlite_wal import index_of, log_of
from tests.unit.sqlite_kit import database, opened, refused, run, submitted

CHAINS = 40
IN_THE_MIDDLE = 300_000


async def killed(directory: Path, name: str = "killed") -> Path:
    """A database as a killed process leaves it: all that it acknowledged is in the log."""
    original = directory / "a.db"
    async with opened(original) as journal:
        for number in range(CHAINS):
            await journal.submit(submitted(f"c{number}", tasks=10))
        return copy_of(original, name)


def copy_of(path: Path, name: str) -> Path:
    directory = path.parent / name
    directory.mkdir()
    for file in path.parent.glob("a.db*"):
        shutil.copy(file, directory / file.name)
    return directory / path.name


def flip(path: Path, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        (value,) = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ 1]))


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.glob("a.db*") if not file.name.endswith(".lock")}


async def chains_in(path: Path) -> int:
    async with opened(path) as journal:
        return len(await journal.list_chains(ChainQuery(limit=1_000)))


def test_database_of_a_killed_process_is_opened_with_all_that_it_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        path = await killed(tmp_path)
        assert log_of(path).stat().st_size > IN_THE_MIDDLE
        assert check_database(copy_of(path, "checked")).is_sound
        assert await chains_in(path) == CHAINS

    run(main())


def test_flipped_bit_in_the_log_refuses_the_start_and_keeps_every_byte(tmp_path: Path) -> None:
    async def main() -> None:
        path = await killed(tmp_path)
        flip(log_of(path), IN_THE_MIDDLE)
        before = contents(path)
        for _ in range(2):
            sentence = await refused(SqliteJournal(database(path)).open(), StorageError)
            assert sentence.startswith(
                f"The database {path} is damaged: its write-ahead log {log_of(path)} is not whole"
            )
            assert "Keep the file" in sentence
            assert "`aicp db restore`" in sentence
            assert "`aicp db salvage`" in sentence
        assert contents(path) == before

    run(main())


def test_flipped_bit_in_the_last_commit_is_found_while_the_index_is_there(tmp_path: Path) -> None:
    async def main() -> None:
        path = await killed(tmp_path)
        flip(log_of(path), log_of(path).stat().st_size - 100)
        await refused(SqliteJournal(database(path)).open(), StorageError)

    run(main())


def test_check_and_backup_and_upgrade_look_at_the_log_before_sqlite_drops_half_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        path = await killed(tmp_path)
        flip(log_of(path), IN_THE_MIDDLE)
        before = contents(path)
        checked = check_database(path)
        assert "is not whole" in checked.problems[0]
        for use in (lambda: backup_database(path, tmp_path / "copy.db"), lambda: upgrade_database(path)):
            with pytest.raises(StorageError, match="is not whole"):
                use()
        assert contents(path) == before

    run(main())


def test_restore_keeps_a_damaged_log_beside_the_database_that_it_belongs_to(tmp_path: Path) -> None:
    async def main() -> None:
        path = await killed(tmp_path)
        backup = tmp_path / "backup.db"
        backup_database(tmp_path / "a.db", backup)
        flip(log_of(path), IN_THE_MIDDLE)
        before = contents(path)
        restored = restore_database(backup, path)
        assert restored.kept is not None
        assert restored.kept.read_bytes() == before["a.db"]
        assert log_of(restored.kept).read_bytes() == before["a.db-wal"]
        assert await chains_in(path) == CHAINS

    run(main())


def test_salvage_goes_on_with_what_stands_before_the_damage_and_raises_epochs(tmp_path: Path) -> None:
    async def main() -> None:
        path = await killed(tmp_path)
        flip(log_of(path), IN_THE_MIDDLE)
        before = contents(path)
        salvaged = salvage_database(path)
        assert 0 < salvaged.counts["chains"] < CHAINS
        assert salvaged.problems == ()
        assert "the first bad one is number" in salvaged.lost
        assert log_of(salvaged.kept).read_bytes() == before["a.db-wal"]
        assert await chains_in(path) == salvaged.counts["chains"]
        async with opened(path) as journal:
            assert min(record.epoch for record in await journal.claim(1_000)) > 1_000_000

    run(main())


def test_salvage_of_a_sound_database_is_refused_and_so_is_one_in_use(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            await journal.submit(submitted("c1"))
            with pytest.raises(SettingsError, match="in use"):
                salvage_database(tmp_path / "a.db")
        with pytest.raises(SettingsError, match="nothing to salvage"):
            salvage_database(tmp_path / "a.db")
        with pytest.raises(SettingsError, match="There is no database"):
            salvage_database(tmp_path / "b.db")

    run(main())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.db", "a.db.lock"]


def lose_index_entries(path: Path) -> None:
    """Have the index of chain ids lack every chain, as a page that was swapped for an older one does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_chains_1'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    empty_leaf = bytes([10, 0, 0, 0, 0, *size.to_bytes(2, "big"), 0]).ljust(size, b"\0")
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(empty_leaf)


def test_index_that_disagrees_with_its_table_refuses_the_start_and_is_mended_by_salvage(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            await journal.submit(submitted("c1"))
        path = copy_of(tmp_path / "a.db", "closed")
        lose_index_entries(path)
        before = contents(path)
        sentence = await refused(SqliteJournal(database(path)).open(), StorageError)
        assert "missing from index sqlite_autoindex_chains_1" in sentence
        await asyncio.sleep(0)  # the lock is let go in the next turn
        assert contents(path)["a.db"] == before["a.db"]
        assert not check_database(path).is_sound
        assert "missing from index" in salvage_database(path).lost
        async with opened(path) as journal:
            assert await journal.read("c1") is not None

    run(main())


def test_file_that_was_cut_or_has_swapped_pages_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            for number in range(CHAINS):
                await journal.submit(submitted(f"c{number}", tasks=10))
        cut, swapped = (copy_of(tmp_path / "a.db", name) for name in ("cut", "swapped"))
        os.truncate(cut, cut.stat().st_size - 4096)
        await refused(SqliteJournal(database(cut)).open(), StorageError)
        pages = bytearray(swapped.read_bytes())
        pages[4096 * 3 : 4096 * 4], pages[4096 * 5 : 4096 * 6] = pages[4096 * 5 : 4096 * 6], pages[4096 * 3 : 4096 * 4]
        swapped.write_bytes(pages)
        await refused(SqliteJournal(database(swapped)).open(), StorageError)

    run(main())


def test_log_without_an_index_is_judged_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        path = await killed(tmp_path)
        index_of(path).unlink()
        torn = copy_of(path, "torn")
        os.truncate(log_of(torn), log_of(torn).stat().st_size - 5_000)
        assert await chains_in(torn) in {CHAINS, CHAINS - 1}
        flip(log_of(path), IN_THE_MIDDLE)
        await refused(SqliteJournal(database(path)).open(), StorageError)

    run(main())


def test_schema_with_bytes_that_are_not_text_is_damage_and_not_a_traceback(tmp_path: Path) -> None:
    """SQLite quotes the name in its error message, which Python cannot decode."""

    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            await journal.submit(submitted("c1"))
        path = copy_of(tmp_path / "a.db", "closed")
        content = path.read_bytes()
        path.write_bytes(
            content.replace(b"indexchains_by_end", b"index\xe8hains_by_end").replace(b"CREATE", b"CRE\xffTE")
        )
        assert path.read_bytes() != content
        sentence = await refused(SqliteJournal(database(path)).open(), StorageError)
        assert "it is damaged" in sentence
        await asyncio.sleep(0)  # the lock is let go in the next turn
        assert "damaged" in check_database(path).problems[0]
        with pytest.raises(StorageError, match="damaged"):
            backup_database(path, tmp_path / "copy.db")
        with pytest.raises(StorageError):
            salvage_database(path)

    run(main())
