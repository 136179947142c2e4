"""The demo's agents as processes: started, asked for their last words, and ended, whatever happens."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

import aicp
from aicp.agent.keys import KEY_VARIABLE
from aicp.demo.cast import CAST, Part

ENDING_S_MAX = 3.0

_MODULE = "aicp.demo.agents"
_LAST_WORDS_BYTES = 400
# Seven processes share the machine: none of them takes it all for its sums.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Surroundings(msgspec.Struct, frozen=True):
    """What every agent process is given.

    Attributes:
        server_url: Where it registers.
        receipts_url: Where it says that it has begun.
        key: For both; goes through the environment, which others cannot read.
        directory: Where what it writes on stderr is kept.
    """

    server_url: str
    receipts_url: str
    key: str
    directory: Path


class AgentProcess:
    """One agent's process.

    Attributes:
        agent_id: Which agent it is.
    """

    def __init__(self, agent_id: str, process: Process, log: Path) -> None:
        self.agent_id = agent_id
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    async def ended(self) -> int:
        """Wait for its exit code; minus the number of the signal that ended it."""
        return await self._process.wait()

    def terminate(self) -> None:
        """Ask it to end; one that has ended stays as it is."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End it with SIGKILL; one that has ended stays as it is."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def last_words(self) -> str:
        """The end of what it wrote on stderr."""
        return self._log.read_bytes()[-_LAST_WORDS_BYTES:].decode("utf-8", "replace").strip() or "nothing"


@asynccontextmanager
async def agent_processes(given: Surroundings) -> AsyncIterator[dict[str, AgentProcess]]:
    """A process for each agent of the cast, by id; when the block ends they are ended, within about three seconds."""
    agents: dict[str, AgentProcess] = {}
    try:
        for part in CAST:
            agents[part.agent_id] = await _start(part, given)
        yield agents
    finally:
        await _end(agents.values())


async def _start(part: Part, given: Surroundings) -> AgentProcess:
    arguments = (part.agent_id, "--register", given.server_url, "--receipts", given.receipts_url)
    log = given.directory / f"{part.agent_id}.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *_python_options(),
            "-m",
            _MODULE,
            *arguments,
            # Held open until the demo ends, in whatever way: then the agent reads its end, and ends too.
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=stderr,
            env={**os.environ, **_ONE_THREAD, KEY_VARIABLE: given.key},
            # Ctrl-C in the terminal is for the demo alone, which then ends its agents.
            start_new_session=True,
        )
    return AgentProcess(part.agent_id, process, log)


def _python_options() -> tuple[str, ...]:
    """Keep what lies in the user's directory from being imported, unless AICP itself lies there."""
    return () if Path(aicp.__file__).parents[1] == Path.cwd() else ("-P",)


async def _end(agents: Collection[AgentProcess]) -> None:
    for agent in agents:
        agent.terminate()
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S_MAX):
                await _all_ended(agents)
    finally:
        for agent in agents:
            agent.kill()
        await _all_ended(agents)


async def _all_ended(agents: Collection[AgentProcess]) -> None:
    await asyncio.gather(*(agent.ended() for agent in agents))
