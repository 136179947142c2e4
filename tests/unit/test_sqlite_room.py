"""Room for bytes: bounded, first come first served, and nothing lost when somebody gives up."""

import asyncio
import random

from aicp.storage.room import Room
from aicp.testing import run


def test_who_finds_room_enters_at_once_and_who_does_not_waits_in_line() -> None:
    async def main() -> None:
        room, entered = Room(10), list[str]()

        async def enter(name: str, size: int) -> None:
            await room.enter(size)
            entered.append(name)

        async with asyncio.TaskGroup() as group:
            for name, size in (("a", 6), ("b", 5), ("c", 1)):
                group.create_task(enter(name, size))
            await asyncio.sleep(1)
            assert entered == ["a"]
            room.leave(6)
        assert entered == ["a", "b", "c"]

    run(main())


def test_something_larger_than_the_room_enters_when_it_is_alone() -> None:
    async def main() -> None:
        room = Room(10)
        assert await room.enter(3) == 3
        large = asyncio.create_task(room.enter(1_000))
        await asyncio.sleep(1)
        assert not large.done()
        room.leave(3)
        assert await large == 10

    run(main())


def test_who_gives_up_waiting_lets_the_next_one_in() -> None:
    async def main() -> None:
        room = Room(10)
        await room.enter(5)
        large, small = asyncio.create_task(room.enter(10)), asyncio.create_task(room.enter(5))
        await asyncio.sleep(1)
        assert not small.done()
        large.cancel()
        assert await small == 5

    run(main())


def test_whoever_is_cancelled_at_whatever_moment_takes_no_room_with_it() -> None:
    async def main() -> None:
        for seed in range(50):
            draw, room = random.Random(seed), Room(10)

            async def use(draw: random.Random = draw, room: Room = room) -> None:
                size = await room.enter(draw.randint(1, 12))
                try:
                    await asyncio.sleep(draw.choice([0, 0, 1]))
                finally:
                    room.leave(size)

            users = [asyncio.create_task(use()) for _ in range(30)]
            for user in draw.sample(users, 15):
                await asyncio.sleep(draw.choice([0, 0, 0, 1]))
                user.cancel()
            await asyncio.gather(*users, return_exceptions=True)
            assert await room.enter(10) == 10, f"seed {seed}"

    run(main())
