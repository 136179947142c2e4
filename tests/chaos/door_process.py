"""One address for several servers, as a balancer in front of them gives: each connection goes to one that accepts it.

python -m tests.chaos.door_process PORT...
"""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

CHUNK_BYTES = 65_536


@contextmanager
def door_to(ports: Sequence[int]) -> Iterator[str]:
    """The URL of a balancer in front of the servers on these ports."""
    command = [sys.executable, "-m", "tests.chaos.door_process", *map(str, ports)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


class Door:
    """Hands connections round; one that a server refuses goes to the next."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._count = len(ports)
        self._turns = itertools.cycle(ports)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(self._count):
            with suppress(OSError):
                to_reader, to_writer = await asyncio.open_connection("127.0.0.1", next(self._turns))
                break
        else:
            writer.transport.abort()
            return
        await asyncio.gather(_pass(reader, to_writer), _pass(to_reader, writer))


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()
    target.close()


async def main(*ports: str) -> None:
    """Serve until standard input ends, that is, until the parent is gone."""
    server = await asyncio.start_server(Door(list(map(int, ports))).serve, "127.0.0.1", 0)
    os.write(1, f"{server.sockets[0].getsockname()[1]}\n".encode())
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
