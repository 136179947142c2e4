"""The registry of what a forked child closes."""

import gc
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from aicp import forks
from aicp.errors import ForkedProcess
from aicp.storage.file_lock import FileLock
from aicp.storage.sqlite_connections import connect


def in_a_child(work: Callable[[], str]) -> str:
    """What `work` returns in a forked process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = "nothing"
        try:
            told = work()
        except BaseException as error:  # noqa: BLE001 - the test shall see it
            told = repr(error)
        finally:
            os.write(writing, told.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return told


def target(number: int) -> str:
    return str(Path(f"/proc/self/fd/{number}").readlink())


def test_child_has_dev_null_in_place_of_a_registered_descriptor_and_keeps_all_others() -> None:
    with forks.close_socket_in_child(socket.socket()) as ours, socket.socket() as foreign:
        told = in_a_child(lambda: f"{target(ours.fileno())} {target(foreign.fileno())}")
        assert told == f"/dev/null {target(foreign.fileno())}"
        assert target(ours.fileno()).startswith("socket:")


def test_number_of_a_closed_descriptor_is_not_reused_in_the_child() -> None:
    def work() -> str:
        with socket.socket() as fresh:
            return str(fresh.fileno() == ours.fileno())

    with forks.close_socket_in_child(socket.socket()) as ours:
        assert in_a_child(work) == "False"


def test_owner_that_was_half_made_does_not_keep_the_others_open() -> None:
    class Half:
        pass

    def broken(_: Half) -> list[int]:
        raise RuntimeError

    half = Half()
    forks.closed_in_child(half, broken)
    with forks.close_socket_in_child(socket.socket()) as ours:
        assert in_a_child(lambda: target(ours.fileno())) == "/dev/null"


def test_registry_keeps_no_owner_alive() -> None:
    ours = forks.close_socket_in_child(socket.socket())
    seen = weakref.ref(ours)
    ours.close()
    del ours
    gc.collect()
    assert seen() is None


def test_object_knows_its_own_process_from_a_fork_of_it_and_from_a_fork_of_that() -> None:
    home = forks.HomeProcess("This node")
    home.require()

    def refused() -> str:
        with pytest.raises(ForkedProcess) as caught:
            home.require()
        return str(caught.value)

    told = in_a_child(refused)
    assert told.startswith(f"This node belongs to process {os.getpid()} and cannot be used in process ")
    assert "spawn" in told
    assert in_a_child(lambda: str(in_a_child(refused).startswith("This node"))) == "True"
    assert in_a_child(lambda: str(forks.HomeProcess("Mine").is_left)) == "False"


def test_lock_is_not_shared_with_a_child(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.try_acquire()

    def work() -> str:
        os.read(start, 1)
        return str(FileLock(tmp_path / "lock").try_acquire())

    start, begin = os.pipe()
    # The parent lets go while the child lives: only then has the child nothing left of it.
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, work().encode())
        os._exit(0)
    assert FileLock(tmp_path / "lock").try_acquire() is False
    lock.release()
    os.write(begin, b"x")
    assert os.read(reading, 10) == b"True"
    os.waitpid(pid, 0)
    for number in (start, begin, reading, writing):
        os.close(number)


@pytest.mark.parametrize(("taker", "told"), [("", "another process"), ("x", "another process")])
def test_holder_of_a_lock_that_says_nothing_is_another_process(tmp_path: Path, taker: str, told: str) -> None:
    (tmp_path / "lock").write_text(taker)
    assert FileLock(tmp_path / "lock").holder() == told


def test_holder_that_has_ended_is_not_named_as_if_it_held_the_lock(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "lock").write_text(f"{ended.pid}\n")
    told = FileLock(tmp_path / "lock").holder()
    assert told == f"another process (process {ended.pid} took it, and has ended)"


def test_database_that_was_open_at_the_fork_is_refused_in_the_child_and_a_closed_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection = connect(path)

    def work() -> str:
        try:
            connect(path).close()
        except ForkedProcess as refusal:
            return str(refusal)
        return "opened"

    assert in_a_child(work).startswith(f"The database {path} belongs to process {os.getpid()}")
    connection.close()
    assert in_a_child(work) == "opened"


def test_signals_mean_in_a_child_what_they_mean_to_any_program() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with forks.signals_reset_in_child([signal.SIGTERM]):
            assert in_a_child(lambda: str(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)) == "True"
        assert in_a_child(lambda: str(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)) == "False"
    finally:
        signal.signal(signal.SIGTERM, before)
