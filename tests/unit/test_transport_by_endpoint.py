"""Which transport an agent needs, and when aiohttp is loaded."""

import asyncio
import subprocess
import sys

import msgspec
import pytest

from aicp.errors import InvalidAgent
from aicp.model.agent import AgentAuth
from aicp.model.endpoint import AddressPolicy
from aicp.model.outcome import Outcome
from aicp.model.wire import AgentDescription
from aicp.testing.faulty_agents import ScriptedAgent, ScriptedTransport, ok
from aicp.testing.transport_contract import call
from aicp.testing.virtual_time import run as run_virtually
from aicp.transports.by_endpoint import TransportByEndpoint, http_when_needed

HERE, THERE = ScriptedAgent("here").profile, ScriptedAgent("there").profile
REMOTE = msgspec.structs.replace(THERE, endpoint="http://there.example")


class Remote(ScriptedTransport):
    """A remote transport that remembers what became of it."""

    def __init__(self) -> None:
        super().__init__(ScriptedAgent("there", otherwise=ok(result="there")))
        self.was_closed = False

    async def check(self, endpoint_url: str) -> None:
        """Agents may live anywhere."""

    async def describe(self, endpoint_url: str, auth: AgentAuth | None = None) -> AgentDescription:
        return AgentDescription(endpoint_url, ())

    async def close(self) -> None:
        self.was_closed = True
        await super().close()


class Household:
    """Both transports, and how often the remote one was made."""

    def __init__(self) -> None:
        self.local = ScriptedTransport(ScriptedAgent("here", otherwise=ok(result="here")))
        self.made: list[Remote] = []
        self.transport = TransportByEndpoint(self.local, self._make)

    def _make(self) -> Remote:
        self.made.append(Remote())
        return self.made[-1]


def test_agent_without_endpoint_is_called_in_this_process_and_nothing_else_is_made() -> None:
    house = Household()

    async def main() -> None:
        assert (await house.transport.invoke(HERE, call())).result == "here"
        assert (await house.transport.probe(HERE)).outcome is Outcome.SUCCESS
        await house.transport.close()
        assert not (await house.local.invoke(HERE, call())).evidence

    run_virtually(main())
    assert house.made == []


def test_agent_with_endpoint_is_called_through_one_remote_transport() -> None:
    house = Household()

    async def main() -> None:
        assert (await house.transport.invoke(REMOTE, call())).result == "there"
        assert (await house.transport.probe(REMOTE)).outcome is Outcome.SUCCESS
        assert (await house.transport.describe("http://there.example")).agent_id == "http://there.example"
        await house.transport.close()

    run_virtually(main())
    assert len(house.made) == 1
    assert house.made[0].was_closed


def test_aiohttp_is_loaded_when_the_first_remote_agent_is_called() -> None:
    code = """
import sys
from aicp.model.endpoint import AddressPolicy
from aicp.transports.by_endpoint import http_when_needed
from aicp.transports.local import LocalTransport
make = http_when_needed(AddressPolicy())
before = "aiohttp" in sys.modules
make()
print(before, "aiohttp" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == ["False", "True"]


def test_policy_reaches_the_remote_transport() -> None:
    async def main() -> None:
        remote = http_when_needed(AddressPolicy(loopback=False))()
        with pytest.raises(InvalidAgent, match="this machine itself"):
            await remote.describe("http://127.0.0.1:9")
        await remote.close()

    asyncio.run(main())
