"""Registrations: what was registered is there after a restart, and no secret is ever written in the clear."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aicp.errors import SettingsError, StorageError
from aicp.model.agent import AgentAuth, AgentProfile, Capability
from aicp.storage.sqlite_registrations import SqliteRegistrations
from tests.unit.sqlite_kit import ask, database, refused, run

PLAIN = AgentProfile(
    "eyes-1", (Capability("image.label", "2.1", {"type": "object"}, None, 3.5), Capability("text.extract")), 4,
    "http://127.0.0.1:9001", "i1", "Eyes", {"zone": "ä"}, None, "t1", shared=True,
)  # fmt: skip
SECRET = "s3cret-of-eyes"
WITH_SECRET = AgentProfile("eyes-2", (Capability("image.label"),), auth=AgentAuth(SECRET))
Cipher = Callable[[bytes], bytes]


def scrambled(secret: bytes) -> bytes:
    """Stands for a cipher; done twice it is undone."""
    return bytes(byte ^ 0x5A for byte in secret)


@asynccontextmanager
async def registrations(
    tmp_path: Path, seal: Cipher | None = None, unseal: Cipher | None = None
) -> AsyncIterator[SqliteRegistrations]:
    file = database(tmp_path / "a.db")
    await file.open()
    try:
        yield SqliteRegistrations(file, seal=seal, unseal=unseal)
    finally:
        await file.close()


@pytest.mark.parametrize("restarts", [0, 1])
def test_saved_agents_come_back_as_they_were(tmp_path: Path, restarts: int) -> None:
    async def main() -> None:
        other = AgentProfile("an-agent", (Capability("x.y"),))
        async with registrations(tmp_path) as saved:
            await saved.save(PLAIN)
            await saved.save(other)
            assert await saved.load() == [other, PLAIN]
        for _ in range(restarts):
            async with registrations(tmp_path) as again:
                assert await again.load() == [other, PLAIN]

    run(main())


def test_agent_saved_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with registrations(tmp_path) as saved:
            await saved.save(PLAIN)
            newer = AgentProfile("eyes-1", (Capability("image.label"),), instance_id="i2")
            await saved.save(newer)
            assert await saved.load() == [newer]

    run(main())


def test_forgotten_agent_is_gone_and_forgetting_twice_does_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        async with registrations(tmp_path) as saved:
            await saved.save(PLAIN)
            await saved.forget("eyes-1")
            await saved.forget("eyes-1")
            assert await saved.load() == []

    run(main())


def test_secret_without_a_key_to_seal_it_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    async def main() -> None:
        async with registrations(tmp_path) as saved:
            sentence = await refused(saved.save(WITH_SECRET), SettingsError)
            assert "The secret of agent 'eyes-2' cannot be recorded without a key" in sentence
            assert "AICP_SECRET_KEY" in sentence
            assert SECRET not in sentence
            assert await saved.load() == []

    run(main())


def test_sealed_secret_comes_back_and_stands_nowhere_in_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with registrations(tmp_path, scrambled, scrambled) as saved:
            await saved.save(WITH_SECRET)
            assert await saved.load() == [WITH_SECRET]

    run(main())
    assert all(SECRET.encode() not in file.read_bytes() for file in tmp_path.iterdir())
    assert ask(tmp_path / "a.db", "SELECT sealed_auth IS NOT NULL FROM registrations") == 1


def test_agent_that_lost_its_secret_is_saved_without_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with registrations(tmp_path, scrambled, scrambled) as saved:
            await saved.save(WITH_SECRET)
            await saved.save(AgentProfile("eyes-2", (Capability("image.label"),)))
            (loaded,) = await saved.load()
            assert loaded.auth is None
            assert ask(tmp_path / "a.db", "SELECT sealed_auth FROM registrations") is None

    run(main())


def unreadable(_: bytes) -> bytes:
    raise ValueError("another key")


@pytest.mark.parametrize(("unseal", "why"), [(None, "there is no key"), (unreadable, "another key")])
def test_secret_that_cannot_be_unsealed_is_told_with_what_to_do(
    tmp_path: Path, unseal: Cipher | None, why: str
) -> None:
    async def main() -> None:
        async with registrations(tmp_path, scrambled, unseal) as saved:
            await saved.save(WITH_SECRET)
            sentence = await refused(saved.load(), SettingsError)
            assert sentence.startswith(f"The secret of agent 'eyes-2' cannot be unsealed ({why})")
            assert "set AICP_SECRET_KEY to the key it was sealed with" in sentence

    run(main())


def test_registrations_of_a_closed_database_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        closed = SqliteRegistrations(database(tmp_path / "a.db"))
        assert "is closed" in await refused(closed.save(PLAIN), StorageError)
        assert "is closed" in await refused(closed.load(), StorageError)

    run(main())
