"""The roll call names who did not come up in time, and what it wrote last."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aicp.demo import rollcall
from aicp.demo.processes import AgentProcess
from aicp.demo.rollcall import AgentMissing, RollCall
from aicp.model.event import AgentChanged


@asynccontextmanager
async def silent_agents(directory: Path, *agent_ids: str) -> AsyncIterator[dict[str, AgentProcess]]:
    """Processes that live as long as the block and never register."""
    agents = {agent_id: await silent_agent(directory, agent_id) for agent_id in agent_ids}
    try:
        yield agents
    finally:
        for agent in agents.values():
            agent.kill()
            await agent.ended()


async def silent_agent(directory: Path, agent_id: str) -> AgentProcess:
    log = directory / f"{agent_id}.log"
    log.write_text(f"{agent_id} loads its models")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; sys.stdin.read()", stdin=asyncio.subprocess.PIPE
    )
    return AgentProcess(agent_id, process, log)


def registered(agent_id: str) -> AgentChanged:
    return AgentChanged(agent_id, "registered", datetime.now(UTC))


def test_roll_call_is_complete_once_everybody_has_registered(tmp_path: Path) -> None:
    async def main() -> None:
        async with silent_agents(tmp_path, "fetch-1", "label-1") as agents:
            roll_call = RollCall(agents)
            for agent_id in agents:
                roll_call.notify(registered(agent_id))
            await roll_call.complete(agents)

    asyncio.run(main())


def test_agents_that_are_late_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollcall, "REGISTRATION_S_MAX", 0.1)

    async def main() -> None:
        async with silent_agents(tmp_path, "fetch-1", "label-1", "label-2") as agents:
            roll_call = RollCall(agents)
            roll_call.notify(registered("fetch-1"))
            await roll_call.complete(agents)

    with pytest.raises(AgentMissing) as caught:
        asyncio.run(main())

    assert caught.value.message == (
        "label-1, label-2 did not register within 0 s, the machine may be too busy; "
        "the last that label-1 wrote: label-1 loads its models"
    )
