"""Registered agents on PostgreSQL: every replica knows them, and their secrets lie there sealed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aicp.errors import SettingsError, StorageError
from aicp.model.agent import AgentAuth, AgentProfile, Capability
from aicp.storage.agent_rows import Cipher
from aicp.storage.postgres_registrations import PostgresRegistrations
from tests.integration.postgres_kit import database, run, shared_server
from tests.postgres_server import ask
from tests.unit.sqlite_kit import refused

PLAIN = AgentProfile(
    "eyes-1", (Capability("image.label", "2.1", {"type": "object"}, None, 3.5), Capability("text.extract")), 4,
    "http://127.0.0.1:9001", "i1", "Eyes", {"zone": "ä"}, None, "t1", shared=True,
)  # fmt: skip
SECRET = "s3cret-of-eyes"
WITH_SECRET = AgentProfile("eyes-2", (Capability("image.label"),), auth=AgentAuth(SECRET))


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


def scrambled(secret: bytes) -> bytes:
    """Stands for a cipher; done twice it is undone."""
    return bytes(byte ^ 0x5A for byte in secret)


def unreadable(_: bytes) -> bytes:
    raise ValueError("another key")


@asynccontextmanager
async def registrations(
    url: str, seal: Cipher | None = None, unseal: Cipher | None = None
) -> AsyncIterator[PostgresRegistrations]:
    place = database(url)
    await place.open()
    try:
        yield PostgresRegistrations(place, seal=seal, unseal=unseal)
    finally:
        await place.close()


def test_saved_agents_are_known_to_every_replica_and_after_a_restart(url: str) -> None:
    async def main() -> None:
        other = AgentProfile("Z-agent", (Capability("x.y"),))
        async with registrations(url) as one, registrations(url) as two:
            await one.save(PLAIN)
            await one.save(other)
            assert await one.load() == await two.load() == [other, PLAIN]
        async with registrations(url) as again:
            assert await again.load() == [other, PLAIN]

    run(main())


def test_agent_saved_again_takes_the_place_of_the_old_one_and_is_forgotten_once(url: str) -> None:
    async def main() -> None:
        async with registrations(url, scrambled, scrambled) as saved:
            await saved.save(WITH_SECRET)
            newer = AgentProfile("eyes-2", (Capability("image.label"),), instance_id="i2")
            await saved.save(newer)
            assert await saved.load() == [newer]
            await saved.forget("eyes-2")
            await saved.forget("eyes-2")
            assert await saved.load() == []

    run(main())


def test_secret_is_stored_sealed_or_not_at_all(url: str) -> None:
    async def main() -> None:
        async with registrations(url) as without_key:
            assert "without a key to seal it" in await refused(without_key.save(WITH_SECRET), SettingsError)
            assert await without_key.load() == []
        async with registrations(url, scrambled, scrambled) as saved:
            await saved.save(WITH_SECRET)
            assert await saved.load() == [WITH_SECRET]
            assert SECRET not in await ask(url, "SELECT profile || encode(sealed_auth, 'escape') FROM registrations")

    run(main())


@pytest.mark.parametrize(("unseal", "why"), [(None, "there is no key"), (unreadable, "another key")])
def test_secret_that_cannot_be_unsealed_is_told_with_what_to_do(url: str, unseal: Cipher | None, why: str) -> None:
    async def main() -> None:
        async with registrations(url, scrambled, unseal) as saved:
            await saved.save(WITH_SECRET)
            sentence = await refused(saved.load(), SettingsError)
            assert sentence.startswith(f"The secret of agent 'eyes-2' cannot be unsealed ({why})")
            assert "set AICP_SECRET_KEY to the key it was sealed with" in sentence

    run(main())


def test_registrations_of_a_closed_database_are_refused(url: str) -> None:
    async def main() -> None:
        closed = PostgresRegistrations(database(url))
        for call in (closed.save(PLAIN), closed.load(), closed.forget("x")):
            assert "is closed" in await refused(call, StorageError)

    run(main())
