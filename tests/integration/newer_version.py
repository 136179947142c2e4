"""A replica of a made-up newer version, in a process of its own: lines on stdin are commands, stdout has the answers.

python -m tests.integration.newer_version URL [finish]

It has level 1, and a fact that this version does not know. Its agent hangs, unless it is to `finish`; a task whose
`n` is 1 hangs always.
"""

import asyncio
import os
import sys
from datetime import datetime
from typing import Any

import msgspec

from aicp.model import level

level.LEVEL = 1

from aicp.model.agent import AgentProfile, Capability  # noqa: E402 - they bind the level
from aicp.model.fact import Fact, _Fact  # noqa: E402
from aicp.model.task import Task  # noqa: E402
from aicp.runtime.node import Node  # noqa: E402
from aicp.storage import rows  # noqa: E402
from tests.unit.sqlite_kit import AT  # noqa: E402


class TaskPondered(_Fact, frozen=True, tag_field="kind", tag="task_pondered"):
    """Fact of the newer version: a task was thought about."""

    chain_id: str
    task: str
    at: datetime


level.FACT_LEVELS = {TaskPondered: 1}
rows._facts_decoder = msgspec.json.Decoder(list[Fact | TaskPondered])
rows._outline_decoder = msgspec.json.Decoder(rows._Outline | TaskPondered)


class Newer:
    """Does what it is told."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def submit(self, n: str) -> str:
        """A task on its own, pondered over."""
        task_id = await self._node.coordinator.submit_task(Task("test.work", {"n": int(n)}))
        chain_id, _, task = task_id.partition(".")
        await self._node.stores.journal.append([TaskPondered(chain_id, task, AT)])  # type: ignore[list-item]
        return chain_id

    async def facts(self, chain_id: str) -> list[str]:
        """The kinds of facts of a chain."""
        record = await self._node.stores.journal.read(chain_id)
        return [] if record is None else [fact.name.kind for fact in record.facts]

    async def agent(self, agent_id: str) -> str:
        """Register an agent of a protocol that only this version speaks."""
        profile = AgentProfile(agent_id, (Capability("test.rare"),), endpoint="http://192.0.2.1:9/", needs=1)
        assert self._node.stores.registrations is not None
        await self._node.stores.registrations.save(profile)
        return agent_id

    async def revoke(self, key_id: str) -> bool:
        """Revoke a key."""
        return await self._node.stores.api_keys.revoke(key_id, AT)

    async def good(self) -> list[str]:
        """The ids of the keys that are good."""
        found = await self._node.stores.api_keys.read()
        assert found is not None
        return [stored.key.key_id for stored in found.keys if stored.key.revoked_at is None]


def tell(told: Any) -> None:
    """One line, in one write."""
    os.write(1, msgspec.json.encode(told) + b"\n")


async def main(url: str, *how: str) -> None:
    async def work(params: dict[str, Any]) -> dict[str, Any]:
        if not how or params["n"] == 1:
            await asyncio.Event().wait()
        return {"n": params["n"] * 2, "by": "newer"}

    async with Node(database=url) as node:
        await node.add_agent("worker", {"test.work": work}, max_concurrent_tasks=8)
        newer = Newer(node)
        tell("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *words = line.split()
            tell(await getattr(newer, command)(*words))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
