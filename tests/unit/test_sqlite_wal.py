"""The reader of SQLite's write-ahead log: it accepts what a crash may leave, and reports what no crash leaves."""

import os
import random
import shutil
import sqlite3
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from aicp.storage.sqlite_wal import _Log, _Walk, boot_id, find_log_damage, index_of, log_of
from aicp.storage.sqlite_wal_format import (
    FRAME_HEADER_BYTES,
    LOG_HEADER_BYTES,
    FrameHeader,
    checksum,
    count_verified,
    parse_frame_header,
    parse_log_header,
)

PAGE_SIZE = 4096
FRAME_SIZE = FRAME_HEADER_BYTES + PAGE_SIZE
SECTOR = 512
COMMITS = 30
SEED = 20_261_130


class Store:
    """A database whose log is not moved into the main file, and copies of it as a killed process leaves them."""

    def __init__(self, path: Path, page_size: int = PAGE_SIZE) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.run(f"PRAGMA page_size = {page_size}", "PRAGMA journal_mode = WAL", "PRAGMA wal_autocheckpoint = 0")
        self.run("CREATE TABLE notes (number INTEGER PRIMARY KEY, note TEXT UNIQUE)")

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.connection.execute(statement).fetchall()

    def add(self, commits: int, size: int = 500) -> None:
        for _ in range(commits):
            self.run(f"INSERT INTO notes (note) VALUES (hex(randomblob({size})))")

    def killed(self, name: str = "killed") -> Path:
        """A copy of all three files, as they are at this moment."""
        directory = self.path.parent / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for file in (self.path, log_of(self.path), index_of(self.path)):
            if file.exists():
                shutil.copy(file, directory / file.name)
        return directory / self.path.name


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "a.db") as store:
        yield store


@contextmanager
def opened(path: Path, page_size: int = PAGE_SIZE) -> Iterator[Store]:
    store = Store(path, page_size)
    with closing(store.connection):
        yield store


def told(path: Path, *, is_same_boot: bool = True) -> str:
    """What is wrong with the log; empty when it is whole."""
    damage = find_log_damage(path, boot_before=boot_id() if is_same_boot else "")
    return "" if damage is None else damage.told


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def count_notes(path: Path) -> int:
    """How many SQLite finds."""
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM notes").fetchone()
    return int(count)


@pytest.mark.parametrize("page_size", [512, 4096, 65_536])
def test_log_of_a_living_database_is_whole(tmp_path: Path, page_size: int) -> None:
    with opened(tmp_path / "a.db", page_size) as store:
        store.add(COMMITS)
        assert told(store.path) == told(store.path, is_same_boot=False) == ""
        index_of(store.killed()).unlink()
        assert told(tmp_path / "killed" / "a.db") == ""


def test_any_flipped_bit_in_committed_frames_is_damage_when_the_index_counts_them(store: Store) -> None:
    store.add(COMMITS)
    draw = random.Random(SEED)
    for _ in range(200):
        path = store.killed()
        bit = draw.randrange(log_of(path).stat().st_size * 8)
        flip(log_of(path), bit)
        assert told(path), f"bit {bit} of the log"


def test_flipped_bit_before_the_last_commit_is_damage_without_an_index_too(store: Store) -> None:
    store.add(COMMITS)
    before_last = log_of(store.path).stat().st_size
    store.add(2)
    draw = random.Random(SEED)
    for _ in range(200):
        path = store.killed()
        index_of(path).unlink()
        bit = draw.randrange(before_last * 8)
        flip(log_of(path), bit)
        assert told(path), f"bit {bit} of the log"


def test_log_that_is_cut_anywhere_is_damage_when_the_index_counts_what_is_gone(store: Store) -> None:
    store.add(COMMITS)
    size = log_of(store.path).stat().st_size
    for cut in (0, 1, LOG_HEADER_BYTES, LOG_HEADER_BYTES + FRAME_SIZE, size // 2, size - FRAME_SIZE, size - 1):
        path = store.killed()
        os.truncate(log_of(path), cut)
        assert told(path), f"cut at {cut} of {size}"
    path = store.killed()
    log_of(path).unlink()
    assert "gone or cut" in told(path)


def test_two_swapped_frames_are_damage(store: Store) -> None:
    store.add(COMMITS)
    path = store.killed()
    log = bytearray(log_of(path).read_bytes())
    one, other = (slice(LOG_HEADER_BYTES + at * FRAME_SIZE, LOG_HEADER_BYTES + (at + 1) * FRAME_SIZE) for at in (5, 9))
    log[one], log[other] = log[other], log[one]
    log_of(path).write_bytes(log)
    index_of(path).unlink()
    assert "number 6, at byte 20632" in told(path)


@pytest.mark.parametrize("seed", range(20))
def test_commit_of_which_any_sectors_reached_the_disk_when_the_power_failed_is_not_damage(
    store: Store, seed: int
) -> None:
    """The index is the one from before it, as it is not waited for; or there is none."""
    draw = random.Random(SEED + seed)
    store.add(COMMITS)
    if seed % 2:
        store.run("PRAGMA wal_checkpoint(RESTART)")
        store.add(2)
    path = store.killed()
    before = log_of(path).read_bytes()
    store.add(1, size=20_000)
    after = log_of(store.path).read_bytes()
    torn = bytearray(before.ljust(len(after), b"\0"))
    for at in range(LOG_HEADER_BYTES, len(after), SECTOR):
        if draw.random() < 0.5:
            torn[at : at + SECTOR] = after[at : at + SECTOR]
    log_of(path).write_bytes(torn)
    assert told(path, is_same_boot=False) == ""
    index_of(path).unlink()
    assert told(path) == ""


def test_log_that_was_begun_anew_with_older_frames_behind_is_whole(store: Store) -> None:
    store.add(COMMITS)
    store.run("PRAGMA wal_checkpoint(RESTART)")
    assert told(store.killed()) == ""
    store.add(2)
    path = store.killed()
    assert told(path) == told(path, is_same_boot=False) == ""
    index_of(path).unlink()
    assert told(path) == ""
    flip(log_of(path), (LOG_HEADER_BYTES + 20 * FRAME_SIZE + 100) * 8)
    assert told(path) == "", "a frame of an older use of the log matters to no one"


def test_frames_of_a_large_transaction_that_was_undone_are_not_damage(store: Store) -> None:
    store.add(COMMITS)
    store.run("PRAGMA cache_size = 5", "BEGIN")
    store.add(200)
    store.run("ROLLBACK")
    grown = log_of(store.path).stat().st_size
    store.add(3)
    assert log_of(store.path).stat().st_size == grown, "frames of the undone transaction stay behind"
    path = store.killed()
    index_of(path).unlink()
    assert told(path) == ""


def test_partial_checkpoint_is_whole(store: Store) -> None:
    store.add(COMMITS)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM notes").fetchone()
        store.add(COMMITS)
        store.run("PRAGMA wal_checkpoint(PASSIVE)")
        path = store.killed()
    assert told(path) == told(path, is_same_boot=False) == ""
    assert count_notes(path) == 2 * COMMITS


def test_torn_header_of_a_log_whose_pages_are_all_in_the_main_file_is_not_damage(store: Store) -> None:
    store.add(COMMITS)
    store.run("PRAGMA wal_checkpoint(RESTART)")
    path = store.killed()
    index_of(path).unlink()
    old = log_of(path).read_bytes()[:LOG_HEADER_BYTES]
    store.add(1)
    new = log_of(store.path).read_bytes()[:LOG_HEADER_BYTES]
    with log_of(path).open("r+b") as log:
        log.write(new[:20] + old[20:])
    assert told(path) == ""
    assert count_notes(path) == COMMITS


@pytest.mark.parametrize("has_index", [True, False])
def test_flipped_bit_in_the_header_is_damage_while_the_main_file_lacks_pages(
    store: Store,
    has_index: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    store.add(COMMITS)
    for bit in range(0, LOG_HEADER_BYTES * 8, 1 if has_index else 5):
        path = store.killed()
        if not has_index:
            index_of(path).unlink()
        flip(log_of(path), bit)
        assert told(path), f"bit {bit}"


def test_flipped_bit_in_the_header_is_harmless_once_the_main_file_has_all(store: Store) -> None:
    store.add(COMMITS)
    store.run("PRAGMA wal_checkpoint(PASSIVE)")
    for bit in range(0, LOG_HEADER_BYTES * 8, 7):
        path = store.killed()
        flip(log_of(path), bit)
        assert told(path) == ""
        assert count_notes(path) == COMMITS


def test_empty_log_and_one_of_zeros_and_none_hold_nothing(store: Store) -> None:
    store.add(COMMITS)
    store.run("PRAGMA wal_checkpoint(TRUNCATE)")
    path = store.killed()
    assert log_of(path).stat().st_size == 0
    assert told(path) == ""
    log_of(path).write_bytes(bytes(100_000))
    assert told(path, is_same_boot=False) == ""
    log_of(path).unlink()
    assert told(path) == ""


def test_index_of_another_boot_is_believed_only_of_the_log_that_it_describes(store: Store) -> None:
    """After a power failure it may be older than the log, also than one that was cut to nothing."""
    store.add(COMMITS)
    old_index = index_of(store.killed()).read_bytes()
    store.run("PRAGMA wal_checkpoint(TRUNCATE)")
    store.add(2)
    path = store.killed()
    index_of(path).write_bytes(old_index)
    assert told(path, is_same_boot=False) == ""
    assert "not the log that was written last" in told(path)
    os.truncate(log_of(path), 0)
    assert told(path, is_same_boot=False) == ""


def test_index_that_is_damaged_says_nothing(store: Store) -> None:
    store.add(COMMITS)
    for bit in range(0, 96 * 8, 11):
        path = store.killed()
        flip(index_of(path), bit)
        assert told(path) == "", f"bit {bit}"


def test_log_that_is_written_while_it_is_looked_at_is_whole(tmp_path: Path) -> None:
    path, stop = tmp_path / "a.db", threading.Event()
    ready = threading.Event()

    def write() -> None:
        with opened(path) as store:
            while not stop.is_set():
                store.add(20)
                ready.set()
                store.run(f"PRAGMA wal_checkpoint({random.choice(['PASSIVE', 'RESTART', 'TRUNCATE'])})")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert ready.wait(60)
        assert [told(path) for _ in range(200)] == [""] * 200
    finally:
        stop.set()
        writer.join()


def test_damage_is_found_in_a_log_to_which_commits_are_added_without_end(tmp_path: Path) -> None:
    path, stop, ready = tmp_path / "a.db", threading.Event(), threading.Event()

    def write() -> None:
        with opened(path) as store:
            store.add(COMMITS)
            ready.set()
            while not stop.is_set():
                store.add(1, size=50)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert ready.wait(60)
        flip(log_of(path), (LOG_HEADER_BYTES + 3 * FRAME_SIZE + 1_000) * 8)
        assert "only" in told(path)
    finally:
        stop.set()
        writer.join()


def test_log_of_a_machine_with_the_other_byte_order_is_verified_as_sqlite_does(store: Store) -> None:
    store.add(COMMITS)
    path = store.killed()
    index_of(path).unlink()
    raw = log_of(path).read_bytes()
    header = parse_log_header(raw)
    assert header is not None
    assert header.order == "little"
    turned = bytearray(struct.pack(">I", 0x377F0683) + raw[4:24])
    summed = checksum(bytes(turned), "big")
    turned += struct.pack(">II", *summed)
    for at in range(LOG_HEADER_BYTES, len(raw), FRAME_SIZE):
        frame = raw[at : at + FRAME_SIZE]
        summed = checksum(frame[:8] + frame[FRAME_HEADER_BYTES:], "big", summed)
        turned += frame[:16] + struct.pack(">II", *summed) + frame[FRAME_HEADER_BYTES:]
    log_of(path).write_bytes(turned)
    assert told(path) == ""
    flip(log_of(path), (LOG_HEADER_BYTES + 3 * FRAME_SIZE + 1_000) * 8)
    assert "number 4, at byte 12392" in told(path)
    flip(log_of(path), (LOG_HEADER_BYTES + 3 * FRAME_SIZE + 1_000) * 8)
    assert count_notes(path) == COMMITS


def test_frames_are_counted_up_to_the_first_that_does_not_continue_the_one_before(store: Store) -> None:
    store.add(COMMITS)
    raw = log_of(store.path).read_bytes()
    header = parse_log_header(raw)
    assert header is not None
    block = bytearray(raw[LOG_HEADER_BYTES:])
    draw = random.Random(SEED)
    for _ in range(60):
        bit = draw.randrange(len(block) * 8)
        block[bit // 8] ^= 1 << bit % 8
        frames = frames_of(bytes(block))
        expected = plain_count(bytes(block), frames, header.salts, header.checksum)
        assert count_verified(bytes(block), frames, header, header.checksum) == expected, f"bit {bit}"
        block[bit // 8] ^= 1 << bit % 8


def frames_of(block: bytes) -> list[FrameHeader]:
    return [parse_frame_header(block, at) for at in range(0, len(block), FRAME_SIZE)]


def plain_count(block: bytes, frames: list[FrameHeader], salts: bytes, before: tuple[int, int]) -> int:
    """The same, word by word."""
    for at, frame in enumerate(frames):
        raw = block[at * FRAME_SIZE : (at + 1) * FRAME_SIZE]
        before = checksum(raw[:8] + raw[FRAME_HEADER_BYTES:], "little", before)
        if frame.salts != salts or frame.page == 0 or before != frame.checksum:
            return at
    return len(frames)


def test_log_that_is_cut_after_it_was_counted_has_no_frame_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process empties the log between two reads of it."""
    path = tmp_path / "a.db"
    with opened(path) as store:
        store.add(20)
        with log_of(path).open("rb") as file:
            log = _Log(file)
            assert log.header is not None
            frames = log.count(log.header.frame_size)
            assert frames > 0
            monkeypatch.setattr(log, "count", lambda _frame_size: frames)
            monkeypatch.setattr(log, "_at", lambda _offset, _size: b"")
            assert log.walk(log.header) == _Walk(0, 0)
            assert log.frame_header(3, log.header.frame_size).size_after == 0
