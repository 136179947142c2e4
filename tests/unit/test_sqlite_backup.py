"""`aicp db`: up to date, checked, copied while in use, put back; and refused in a sentence where that would do harm."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from aicp.errors import AicpError, SettingsError
from aicp.storage.migrations.upgrade import upgrade
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_backup import (
    EPOCHS_LEAPT,
    backup_database,
    check_database,
    restore_database,
    upgrade_database,
)
from aicp.storage.sqlite_connections import connect
from aicp.storage.sqlite_schema import REVISIONS
from tests.unit.sqlite_kit import ask, chain_ended, opened, run, submitted, task_ended, tasks_of

LARGE = "x" * 100_000
NEWEST = REVISIONS[-1]


async def fill(journal: SqliteJournal, *names: str) -> None:
    for name in names:
        await journal.submit(submitted(name))
        await journal.append([task_ended(name, "t0", LARGE)])


def make(path: Path, *names: str) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            await fill(journal, *names)

    run(main())


def chains_in(path: Path) -> list[str]:
    with closing(connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT chain_id FROM chains ORDER BY number")]


def files_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def sentence_of(refusal: "pytest.ExceptionInfo[AicpError]") -> str:
    sentence = str(refusal.value)
    assert "\n" not in sentence
    return sentence


class TestUpgrade:
    def test_makes_a_database_where_there_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "a.db"
        upgraded = upgrade_database(path)
        assert (upgraded.path, upgraded.revision_before, upgraded.revision) == (path, None, NEWEST)
        assert upgrade_database(path).revision_before == NEWEST

    def test_brings_an_older_one_along(self, tmp_path: Path) -> None:
        with closing(connect(tmp_path / "a.db")) as connection:
            upgrade(connection, "0001")
        assert upgrade_database(tmp_path / "a.db").revision_before == "0001"
        assert check_database(tmp_path / "a.db").revision == NEWEST

    def test_refuses_one_in_use(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db"):
                with pytest.raises(SettingsError) as refusal:
                    upgrade_database(tmp_path / "a.db")
                assert "is in use by process" in sentence_of(refusal)

        run(main())


class TestCheck:
    def test_sound_database_in_use_is_counted(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await fill(journal, "c1", "c2")
                await journal.append([chain_ended("c2")])
                checked = await asyncio.to_thread(check_database, tmp_path / "a.db")
                assert checked.is_sound
                assert (checked.revision, checked.newest_revision) == (NEWEST, NEWEST)
                assert checked.counts == {
                    "chains": 2, "unfinished chains": 1, "facts": 5, "large results": 1, "submit keys": 0,
                    "registrations": 0, "api keys": 0, "audit records": 0,
                }  # fmt: skip
                assert checked.size_bytes > 0

        run(main())

    def test_older_database_is_sound(self, tmp_path: Path) -> None:
        with closing(connect(tmp_path / "a.db")) as connection:
            upgrade(connection, "0001")
        checked = check_database(tmp_path / "a.db")
        assert checked.is_sound
        assert checked.revision == "0001"
        assert checked.counts["chains"] == 0

    def test_result_that_is_gone_is_a_problem(self, tmp_path: Path) -> None:
        make(tmp_path / "a.db", "c1", "c2")
        with closing(connect(tmp_path / "a.db")) as connection:
            connection.execute("DELETE FROM results")
        (problem,) = check_database(tmp_path / "a.db").problems
        assert "of table results is damaged: it is missing" in problem

    def test_damage_is_a_problem(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        make(path, *(f"c{n}" for n in range(50)))
        with path.open("r+b") as file:
            file.seek(3 * 4096)
            file.write(b"\xff" * 4096 * 5)
        checked = check_database(path)
        assert not checked.is_sound
        assert 1 <= len(checked.problems) <= 100

    def test_damage_at_the_root_is_a_problem_too(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        make(path, "c1")
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 2_000)
        (problem,) = check_database(path).problems
        assert problem.startswith("it is damaged (")

    def test_newer_and_foreign_databases_are_problems(self, tmp_path: Path) -> None:
        make(tmp_path / "newer.db")
        with closing(connect(tmp_path / "newer.db")) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        with closing(connect(tmp_path / "foreign.db")) as connection:
            connection.execute("CREATE TABLE songs (title TEXT)")
        assert "newer version of AICP (revision 9999)" in check_database(tmp_path / "newer.db").problems[0]
        assert check_database(tmp_path / "foreign.db").problems == ("it holds nothing of AICP",)

    def test_no_database_is_refused_and_none_is_made(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"^There is no database .*a\.db; name the file of one\.$"):
            check_database(tmp_path / "a.db")
        assert files_in(tmp_path) == []


class TestBackup:
    def test_copy_of_a_database_in_use_is_one_whole_file_as_of_one_moment(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await fill(journal, *(f"c{n}" for n in range(20)))
                backing_up = asyncio.create_task(
                    asyncio.to_thread(backup_database, tmp_path / "a.db", tmp_path / "copy" / "b.db")
                )
                written = 0
                while not backing_up.done():
                    await fill(journal, f"later{written}")
                    written += 1
                backed_up = await backing_up
                assert backed_up.revision == NEWEST
                assert backed_up.size_bytes == (tmp_path / "copy" / "b.db").stat().st_size

        (tmp_path / "copy").mkdir()
        run(main())
        assert files_in(tmp_path / "copy") == ["b.db"]
        copied = chains_in(tmp_path / "copy" / "b.db")
        assert copied[:20] == [f"c{n}" for n in range(20)]
        assert copied == chains_in(tmp_path / "a.db")[: len(copied)]
        assert check_database(tmp_path / "copy" / "b.db").is_sound

    def test_writes_meanwhile_do_not_make_it_begin_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A page at a time, with a write between any two: were the copy not of one snapshot, it would never end."""
        make(tmp_path / "a.db", "c1", "c2")
        interrupted = Interrupted(tmp_path / "a.db")
        monkeypatch.setattr("aicp.storage.sqlite_backup.connect_reader", interrupted.connect)
        backup_database(tmp_path / "a.db", tmp_path / "b.db")
        assert interrupted.writes > 10
        assert ask(tmp_path / "b.db", "SELECT name FROM chains WHERE chain_id = 'c1'") == ""
        assert check_database(tmp_path / "b.db").is_sound

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        make(tmp_path / "a.db", "c1")
        (tmp_path / "b.db").write_text("dear to me")
        with pytest.raises(SettingsError, match=r"b\.db is there already: name a new file"):
            backup_database(tmp_path / "a.db", tmp_path / "b.db")
        assert (tmp_path / "b.db").read_text() == "dear to me"

    @pytest.mark.parametrize("there", [False, True])
    def test_copy_that_fails_leaves_nothing_behind(self, tmp_path: Path, there: bool) -> None:  # noqa: FBT001 - a parameter of the test
        make(tmp_path / "a.db", "c1")
        path = tmp_path / "a.db" if there else tmp_path / "none.db"
        backup = tmp_path / "nowhere" / "b.db" if there else tmp_path / "b.db"
        with pytest.raises(SettingsError) as refusal:
            backup_database(path, backup)
        assert str(backup if there else path) in sentence_of(refusal)
        assert files_in(tmp_path) == ["a.db", "a.db.lock"]

    def test_how_far_it_is_is_told_to_the_end(self, tmp_path: Path) -> None:
        heard = list[tuple[int, int]]()
        make(tmp_path / "a.db", "c1")
        backup_database(tmp_path / "a.db", tmp_path / "b.db", lambda done, pages: heard.append((done, pages)))
        done, pages = heard[-1]
        assert done == pages > 0

    def test_interrupted_copy_leaves_nothing_behind(self, tmp_path: Path) -> None:
        def interrupt(_: int, __: int) -> None:
            raise KeyboardInterrupt

        make(tmp_path / "a.db", "c1")
        with pytest.raises(KeyboardInterrupt):
            backup_database(tmp_path / "a.db", tmp_path / "b.db", interrupt)
        assert files_in(tmp_path) == ["a.db", "a.db.lock"]

    def test_database_of_a_newer_version_is_refused(self, tmp_path: Path) -> None:
        make(tmp_path / "a.db")
        with closing(connect(tmp_path / "a.db")) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(SettingsError, match="newer version of AICP"):
            backup_database(tmp_path / "a.db", tmp_path / "b.db")
        assert files_in(tmp_path) == ["a.db", "a.db.lock"]


class TestRestore:
    def test_backup_takes_the_place_of_the_database_and_what_was_there_is_kept(self, tmp_path: Path) -> None:
        path, backup = tmp_path / "a.db", tmp_path / "b.db"
        make(path, "old")
        backup_database(path, backup)
        make(path, "new")
        restored = restore_database(backup, path)
        assert chains_in(path) == ["old"]
        assert restored.kept == tmp_path / "a.db.before-restore-1"
        assert chains_in(restored.kept) == ["old", "new"]
        assert restore_database(backup, path).kept == tmp_path / "a.db.before-restore-2"
        assert check_database(path).is_sound

    def test_restored_chains_go_on_with_an_epoch_above_any_the_agents_have_seen(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(path) as journal:
                await fill(journal, "c1")
            async with opened(path) as journal:
                await journal.claim(10)
            backup_database(path, backup)
            for _ in range(3):
                async with opened(path) as journal:
                    (seen,) = await journal.claim(10)
            restore_database(backup, path)
            async with opened(path) as journal:
                (record,) = await journal.claim(10)
                assert record.epoch == 2 + EPOCHS_LEAPT + 1 > seen.epoch
                assert tasks_of(record.facts) == ["t0"]

        path, backup = tmp_path / "a.db", tmp_path / "b.db"
        run(main())

    def test_database_in_use_is_not_touched(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await fill(journal, "c1")
                backup_database(tmp_path / "a.db", tmp_path / "b.db")
                await fill(journal, "c2")
                with pytest.raises(SettingsError) as refusal:
                    restore_database(tmp_path / "b.db", tmp_path / "a.db")
                assert "is in use by process" in sentence_of(refusal)
                await fill(journal, "c3")

        run(main())
        assert chains_in(tmp_path / "a.db") == ["c1", "c2", "c3"]

    def test_restores_to_where_nothing_was(self, tmp_path: Path) -> None:
        make(tmp_path / "a.db", "c1")
        backup_database(tmp_path / "a.db", tmp_path / "b.db")
        restored = restore_database(tmp_path / "b.db", tmp_path / "new" / "c.db")
        assert restored.kept is None
        assert chains_in(tmp_path / "new" / "c.db") == ["c1"]
        assert files_in(tmp_path / "new") == ["c.db", "c.db.lock"]

    def test_takes_the_place_of_a_damaged_database_and_of_its_log(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        make(path, "c1")
        backup_database(path, tmp_path / "b.db")
        path.write_bytes(b"\xff" * 8192)
        (tmp_path / "a.db-wal").write_bytes(b"\xff" * 8192)
        restored = restore_database(tmp_path / "b.db", path)
        assert chains_in(path) == ["c1"]
        assert restored.kept is not None
        assert restored.kept.read_bytes() == b"\xff" * 8192
        assert "a.db-wal" not in files_in(tmp_path)

    def test_log_that_another_program_reads_goes_along_with_its_database(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        make(path, "c1")
        backup_database(path, tmp_path / "b.db")
        with closing(connect(path)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT name FROM chains").fetchall() == [("",)]
            with closing(connect(path)) as writer:
                writer.execute("UPDATE chains SET name = 'in the log'")
            restored = restore_database(tmp_path / "b.db", path)
            assert reader.execute("SELECT name FROM chains").fetchall() == [("",)]
            assert restored.kept is not None
            assert restored.kept.with_name(f"{restored.kept.name}-wal").exists()
            assert ask(path, "SELECT name FROM chains") == ""
        assert ask(restored.kept, "SELECT name FROM chains") == "in the log"

    def test_what_stood_only_in_the_log_of_a_killed_process_is_kept_too(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        make(path, "c1")
        backup_database(path, tmp_path / "b.db")
        crashed = tmp_path / "crashed" / "a.db"
        crashed.parent.mkdir()
        with closing(connect(path)) as writer:
            writer.execute("PRAGMA wal_autocheckpoint = 0")
            writer.execute("UPDATE chains SET name = 'in the log'")
            for name in ("a.db", "a.db-wal"):
                shutil.copy(tmp_path / name, crashed.parent / name)
        restored = restore_database(tmp_path / "b.db", crashed)
        assert restored.kept is not None
        assert ask(restored.kept, "SELECT name FROM chains") == "in the log"
        assert ask(crashed, "SELECT name FROM chains") == ""

    @pytest.mark.parametrize("what", ["missing", "damaged", "newer", "foreign"])
    def test_backup_that_is_no_good_is_refused_and_the_database_stays(self, tmp_path: Path, what: str) -> None:
        path, backup = tmp_path / "a.db", tmp_path / "b.db"
        make(path, "c1")
        if what == "foreign":
            with closing(connect(backup)) as connection:
                connection.execute("CREATE TABLE songs (title TEXT)")
        elif what != "missing":
            backup_database(path, backup)
            spoil(backup, what)
        before = path.read_bytes()
        with pytest.raises(SettingsError) as refusal:
            restore_database(backup, path)
        assert str(backup) in sentence_of(refusal)
        assert path.read_bytes() == before

    def test_restore_that_fails_on_the_way_leaves_the_database_as_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        path = tmp_path / "a.db"
        make(path, "old")
        backup_database(path, tmp_path / "b.db")
        make(path, "new")
        monkeypatch.setattr("aicp.storage.sqlite_backup._sync_file", full)
        with pytest.raises(AicpError, match="No space left on device"):
            restore_database(tmp_path / "b.db", path)
        assert chains_in(path) == ["old", "new"]
        assert files_in(tmp_path) == ["a.db", "a.db.lock", "b.db"]


class Interrupted:
    """Makes connections whose backup goes a page at a time, with a write by somebody else after each."""

    def __init__(self, path: Path) -> None:
        self.writes = 0
        self._path = path

    def connect(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, factory=PageByPage)
        connection.after_page = self._write
        return connection

    def _write(self, _: int, __: int, total: int) -> None:
        self.writes += 1
        assert self.writes <= total, "it began again"
        with closing(connect(self._path)) as writer:
            writer.execute("UPDATE chains SET name = ?", (str(self.writes),))


class PageByPage(sqlite3.Connection):
    after_page: Callable[[int, int, int], None]

    def backup(self, target: sqlite3.Connection, **_: object) -> None:
        super().backup(target, pages=1, progress=self.after_page)


def spoil(backup: Path, how: str) -> None:
    with closing(connect(backup)) as connection:
        if how == "newer":
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        else:
            connection.execute("DELETE FROM results")
