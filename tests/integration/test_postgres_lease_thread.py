"""The lease of a replica is renewed by a thread: a held event loop does not end it, and a dead one does."""

import asyncio
import json
import threading
import time
from collections.abc import Callable

import pytest

from aicp.storage import postgres_lease_thread as thread_module
from aicp.storage.postgres_lease_thread import Coalesced, LeaseThread
from tests.integration.postgres_kit import opened, run, shared_server, until
from tests.postgres_server import ask
from tests.unit.sqlite_kit import submitted

LEASE_S = 3.0
RENEW_EVERY_S = 0.3
HANGS_S = 60.0
STILL_OURS = "SELECT died_at IS NULL AND alive_until > clock_timestamp() FROM replicas WHERE number = 1"
DOCUMENT = json.dumps({"l": [[[1, 2, 3]]] * 20_000})
"""Short enough that the other threads have their turn many times a lease, on a busy machine too."""


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


def hold_the_loop(is_enough: Callable[[], bool], at_least_s: float = 0.0) -> None:
    """Read documents on the loop's own thread, as long as that and until it is enough."""
    begun_s = time.monotonic()
    while (held_s := time.monotonic() - begun_s) < at_least_s or not is_enough():
        assert held_s < HANGS_S
        json.loads(DOCUMENT)


def test_loop_that_is_held_for_longer_than_its_lease_keeps_it_and_no_peer_takes_over(url: str) -> None:
    async def main() -> None:
        async with opened(url, lease_s=LEASE_S, renew_every_s=RENEW_EVERY_S) as held:
            await held.submit(submitted("c1"))
            with _peer_in_a_thread(url) as looks:
                hold_the_loop(lambda: len(looks) > 3, at_least_s=1.5 * LEASE_S)
            assert all(looks), "a peer saw it without a lease"
            assert held._database.replicas.number == 1
            assert held._database.replicas.is_sure
            await held.submit(submitted("c2"))

    run(main())


class _peer_in_a_thread:  # noqa: N801 - a context manager
    """Looks at the lease from outside while the loop is held."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._looks: list[bool] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._look()))

    def __enter__(self) -> list[bool]:
        self._thread.start()
        return self._looks

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    async def _look(self) -> None:
        while not self._is_over.is_set():
            self._looks.append(await ask(self._url, STILL_OURS))


def test_loop_that_stands_for_longer_than_the_bound_loses_its_lease_and_goes_on_afterwards(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_module, "HELD_S_MAX", 1.0)

    async def main() -> None:
        async with opened(url, lease_s=LEASE_S, renew_every_s=RENEW_EVERY_S) as held:
            await held.submit(submitted("c1"))
            with _peer_in_a_thread(url) as looks:
                hold_the_loop(lambda: not all(looks))  # hangs where the lease goes on
            assert not held._database.replicas.is_sure
            await until(lambda: held._database.replicas.is_sure)
            assert held._database.replicas.number == 1
            await held.submit(submitted("c2"))

    run(main())


def test_thread_ends_with_the_lease_also_when_the_database_is_out_of_reach(url: str) -> None:
    async def main() -> None:
        async with opened(url):
            assert any(each.name == "lease of this replica" for each in threading.enumerate())

    run(main())
    assert not any(each.name == "lease of this replica" for each in threading.enumerate())


def test_what_the_thread_tells_arrives_in_its_order_and_a_loop_that_is_closed_is_no_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []
    thread = LeaseThread()

    async def main() -> None:
        await thread.start()
        for number in range(100):
            thread.do(thread.tell, told.append, number)
        await until(lambda: len(told) == 100)
        assert thread.owner_works()
        thread._is_asked = False

    asyncio.run(main())
    assert told == list(range(100))
    monkeypatch.setattr(thread_module, "HELD_S_MAX", 0.0)
    assert not thread.owner_works()
    asyncio.run(thread.stop())


def test_calls_that_were_not_made_yet_are_one() -> None:
    waiting: list[Callable[[], None]] = []
    calls: list[int] = []
    call = Coalesced(waiting.append, lambda: calls.append(1))
    for _ in range(3):
        call()
    assert len(waiting) == 1
    waiting.pop()()
    call()
    assert (len(waiting), calls) == (1, [1])
