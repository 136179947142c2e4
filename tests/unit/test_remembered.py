"""Who is on record: however long a write takes, the record ends as the last word says."""

import asyncio

import pytest

from aicp.errors import StorageError
from aicp.model.agent import AgentProfile
from aicp.ports import Claim
from aicp.runtime.remembered import Remembered
from tests.unit.flow_kit import agent, virtual


class Record:
    """Registrations whose writes take as long as they are told to, the first one first."""

    def __init__(self, *takes_s: float) -> None:
        self.takes_s = list(takes_s)
        self.profiles: dict[str, AgentProfile] = {}
        self.is_away = False

    async def save(self, profile: AgentProfile, _claim: Claim | None = None) -> None:
        await self._write()
        self.profiles[profile.agent_id] = profile

    async def forget(self, agent_id: str) -> None:
        await self._write()
        self.profiles.pop(agent_id, None)

    async def load(self) -> list[AgentProfile]:
        return list(self.profiles.values())

    async def _write(self) -> None:
        await asyncio.sleep(self.takes_s.pop(0) if self.takes_s else 0.0)
        if self.is_away:
            raise StorageError("The database does not answer.")


class Place:
    """Agents that are here, and what is on record of them."""

    def __init__(self, *takes_s: float) -> None:
        self.record = Record(*takes_s)
        self.here: dict[str, AgentProfile] = {}
        self.remembered = Remembered(self.record, lambda profile: self.here.get(profile.agent_id) is profile)

    async def started(self) -> "Place":
        await self.remembered.save_waiting()
        return self

    def register(self, instance_id: str) -> "asyncio.Task[None]":
        profile = agent("a", instance_id=instance_id)
        self.here["a"] = profile
        self.remembered.let_go("a")
        return asyncio.create_task(self.remembered.save(profile))

    def remove(self) -> "asyncio.Task[None]":
        del self.here["a"]
        self.remembered.let_go("a")
        return asyncio.create_task(self.remembered.forget_removed())

    @property
    def recorded(self) -> list[str]:
        return [profile.instance_id for profile in self.record.profiles.values()]


@virtual
async def test_registered_again_while_the_first_is_written_the_second_is_on_record() -> None:
    place = await Place(2.0, 0.0).started()
    first = place.register("one")
    await asyncio.sleep(1.0)
    await asyncio.gather(first, place.register("two"))
    await place.remembered.forget_removed()
    assert place.recorded == ["two"]


@virtual
async def test_removed_while_it_is_written_it_is_forgotten() -> None:
    place = await Place(2.0).started()
    first = place.register("one")
    await asyncio.sleep(1.0)
    await asyncio.gather(first, place.remove())
    assert place.recorded == []
    assert "a" not in place.remembered


@virtual
async def test_registered_again_while_it_is_forgotten_it_is_on_record() -> None:
    place = await Place(0.0, 2.0, 0.0).started()
    await place.register("one")
    forgetting = place.remove()
    await asyncio.sleep(1.0)
    await asyncio.gather(forgetting, place.register("two"))
    await place.remembered.forget_removed()
    assert place.recorded == ["two"]


@virtual
async def test_registered_and_removed_again_while_it_is_forgotten_it_is_not_on_record() -> None:
    place = await Place(0.0, 2.0, 1.0).started()
    await place.register("one")
    forgetting = place.remove()
    await asyncio.sleep(1.0)
    registering = place.register("two")
    await asyncio.gather(forgetting, registering, place.remove())
    assert place.recorded == []


@virtual
async def test_who_could_not_be_forgotten_is_by_the_next_call() -> None:
    place = await Place().started()
    await place.register("one")
    place.record.is_away = True
    with pytest.raises(StorageError):
        await place.remove()
    place.record.is_away = False
    await place.remembered.forget_removed()
    assert place.recorded == []


@virtual
async def test_news_of_an_agent_that_changes_here_is_looked_at_again_until_that_is_on_record() -> None:
    place = await Place(2.0).started()
    registering = place.register("one")
    await asyncio.sleep(1.0)
    place.remembered.expect_news()
    assert place.remembered.is_changing("a")
    await registering
    # What was read before it was on record does not tell of it.
    assert place.remembered.is_changing("a")
    place.remembered.expect_news()
    assert not place.remembered.is_changing("a")


@virtual
async def test_who_registers_before_the_start_is_on_record_after_it() -> None:
    place = Place()
    await place.register("one")
    assert place.recorded == []
    await place.started()
    assert place.recorded == ["one"]
