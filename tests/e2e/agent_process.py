"""An agent in its own process, for tests that kill it: `work` answers at once, `stall` never does."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from aicp.agent import Agent


class AgentProcess:
    """A process that serves one agent; started again it keeps its port."""

    def __init__(self, agent_id: str, behaviour: str = "work") -> None:
        self.agent_id = agent_id
        self._behaviour = behaviour
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.e2e.agent_process", self.agent_id, self._behaviour, str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline().rpartition(":")[2])

    def wait_until_asked(self) -> None:
        """Until the handler of a stalling agent has a task."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "asked\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None


@contextlib.contextmanager
def agent_processes(**behaviours: str) -> Iterator[dict[str, AgentProcess]]:
    """One process for each agent id and behaviour; whatever still runs at the end is killed."""
    agents = {agent_id: AgentProcess(agent_id, behaviour) for agent_id, behaviour in behaviours.items()}
    try:
        yield agents
    finally:
        for agent in agents.values():
            agent.kill()


async def _work(params: dict[str, Any]) -> dict[str, Any]:
    return params


async def _stall(_: dict[str, Any]) -> None:
    print("asked", flush=True)  # noqa: T201 - how the parent learns of it
    await asyncio.Event().wait()


async def _serve(agent_id: str, behaviour: str, port: int) -> None:
    agent = Agent(agent_id, max_concurrent_tasks=4)
    agent.capability("work")(_work if behaviour == "work" else _stall)
    async with agent.serving(port=port) as served:
        print(served.endpoint, flush=True)  # noqa: T201 - how the parent learns of it
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
