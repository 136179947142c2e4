"""A disk that is full, fails, is read-only or held by others: told, nothing acknowledged is lost, all goes on."""

import subprocess
from pathlib import Path

import pytest

from tests.chaos.deployment import Deployment, sqlite_deployment
from tests.chaos.server_process import ServerProcess, wait_until
from tests.chaos.siege import Outcome, Plan, Storm, besiege
from tests.chaos.storms import (
    IN_A_NAMESPACE,
    FailingWrites,
    FullDisk,
    LockedFile,
    SecondServer,
    Together,
    locked,
    small_disk_deployment,
)

CUSTOMERS = 8
LOCK_WAIT_S = 10.0
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'

needs_mounts = pytest.mark.skipif(
    subprocess.run([*IN_A_NAMESPACE, "true"], check=False, capture_output=True).returncode != 0,
    reason="this user may not mount a file system of its own",
)


def weather(deployment: Deployment, directory: Path, storm: Storm, strikes: int) -> Outcome:
    """The outcome of a siege without kills: then nothing at all may be executed twice or have an unknown outcome."""
    outcome = besiege(deployment, directory, Plan(strikes, seed=1, customers=CUSTOMERS), storm, tell=lambda _: None)
    assert outcome.breaches == []
    assert outcome.figures["tasks executed more than once"] == 0
    assert outcome.figures["highest epoch"] == 1
    return outcome


@needs_mounts
def test_full_disk_refuses_submits_and_loses_nothing_and_room_makes_everything_go_on(tmp_path: Path) -> None:
    with small_disk_deployment(tmp_path) as (disk, deployment):
        outcome = weather(deployment, tmp_path, FullDisk(disk), strikes=2)

    assert any("the disk is full: free some space" in refusal for refusal in outcome.refusals)


def test_disk_that_fails_refuses_submits_and_loses_nothing_and_everything_goes_on_when_it_heals(tmp_path: Path) -> None:
    with sqlite_deployment(tmp_path) as deployment:
        weather(deployment, tmp_path, FailingWrites(), strikes=2)


def test_file_locked_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    with sqlite_deployment(tmp_path) as deployment:
        outcome = weather(deployment, tmp_path, LockedFile(deployment.path, 1.0), strikes=1)

    assert outcome.refusals == []


def test_file_locked_for_over_ten_seconds_and_wanted_by_a_second_server_is_told_to_both(tmp_path: Path) -> None:
    with sqlite_deployment(tmp_path) as deployment:
        second = SecondServer(ServerProcess(deployment.path.parent))
        storm = Together(LockedFile(deployment.path, LOCK_WAIT_S + 1.5), second)
        outcome = weather(deployment, tmp_path, storm, strikes=1)

    assert any("another program has locked it for 10 s" in refusal for refusal in outcome.refusals)
    assert second.waited_s >= LOCK_WAIT_S
    assert second.told.startswith(f"The database {deployment.path} is in use by process ")
    assert second.told.endswith(": stop that one, or name another file.\n")


def test_start_on_a_file_that_another_process_has_locked_waits_for_it(tmp_path: Path) -> None:
    with sqlite_deployment(tmp_path) as deployment:
        (server,) = deployment.servers
        server.start()
        server.wait_until_started()
        server.stop()
        with locked(deployment.path):
            server.start()
            wait_until(lambda: server.has_open(deployment.path), "the server meets the lock")
            assert "AICP serves" not in server.told()
        server.wait_until_started()


@needs_mounts
def test_file_on_a_read_only_disk_is_said_and_is_used_again_when_it_may_be_written(tmp_path: Path) -> None:
    with sqlite_deployment(tmp_path) as deployment:
        (server,) = deployment.servers
        server.start()
        server.wait_until_started()
        server.stop()
        read_only = ServerProcess(
            deployment.path.parent, before=[*IN_A_NAMESPACE, "sh", "-c", READ_ONLY, str(deployment.path.parent)]
        )
        read_only.start()
        assert read_only.wait() != 0
        assert read_only.told() == (
            f"The database {deployment.path} cannot be used: it cannot be written by this user (Read-only file "
            "system): make the file, those beside it and their directory writable for this user.\n"
        )
        server.start()
        server.wait_until_started()
