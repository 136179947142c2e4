"""The agent SDK and a registry: register, heartbeat, come back, give way, leave."""

import asyncio
import logging
from pathlib import Path

import pytest

from aicp.agent import Agent
from tests.integration.agent_sdk_kit import (
    BOUND_S,
    DRAIN,
    HEARTBEAT,
    LEAVE,
    REGISTER,
    FakeAins,
    Work,
    calling,
    echoing,
    run,
    with_ains,
)


def test_agent_registers_with_everything_and_heartbeats() -> None:
    async def test(ains: FakeAins) -> None:
        agent = Agent("eyes-1", max_concurrent_tasks=3, name="Left eye", labels={"zone": "a"})
        agent.capability("work", version="1.2", timeout_s=9)(len)
        async with calling(agent, register=f"{ains.url}/", api_key="key", token="secret") as caller:
            await caller.served.registered(BOUND_S)
            registration = await ains.saw(REGISTER)
            instance_id = caller.served.instance_id
            assert len(instance_id) == 32
            declared = {"name": "work", "version": "1.2", "timeout_s": 9, "input_schema": None, "output_schema": None}
            assert registration.pop("capabilities") == [declared]
            assert registration == {
                "endpoint": caller.served.endpoint,
                "agent_id": "eyes-1",
                "instance_id": instance_id,
                "max_concurrent_tasks": 3,
                "name": "Left eye",
                "labels": {"zone": "a"},
                "auth": {"bearer": "secret"},
            }
            assert await ains.saw(HEARTBEAT, 3) == {"instance_id": instance_id}
            assert {authorization for _, _, authorization in ains.seen} == {"Bearer key"}

    with_ains(test)


def test_endpoint_given_is_the_one_registered() -> None:
    async def test(ains: FakeAins) -> None:
        async with calling(echoing(), register=ains.url, endpoint="http://Eyes.example:9001/x/") as caller:
            assert (await ains.saw(REGISTER))["endpoint"] == "http://eyes.example:9001/x" == caller.served.endpoint

    with_ains(test)


def test_agent_says_that_it_drains_and_leaves_when_its_calls_have_ended() -> None:
    async def test(ains: FakeAins) -> None:
        work = Work()
        async with calling(work.agent, register=ains.url, drain_s=BOUND_S) as caller:
            await caller.served.registered(BOUND_S)
            held = caller.start("a")
            await work.started.acquire()
            drain = asyncio.create_task(caller.served.drain())
            await ains.saw(DRAIN)
            await ains.saw(HEARTBEAT, ains.calls.count(HEARTBEAT) + 1)  # still alive while it drains
            assert LEAVE not in ains.calls
            work.let_go.set()
            await held
            await drain
            assert ains.calls[-1] == LEAVE

    with_ains(test)


def test_agent_forgotten_by_the_server_registers_again() -> None:
    async def test(ains: FakeAins) -> None:
        async with calling(echoing(), register=ains.url):
            await ains.saw(HEARTBEAT)
            ains.statuses[HEARTBEAT] = 404
            await ains.saw(REGISTER, 2)
            ains.statuses.clear()
            await ains.saw(HEARTBEAT, ains.calls.count(HEARTBEAT) + 2)

    with_ains(test)


def test_replaced_agent_says_so_stops_taking_calls_and_does_not_remove_its_successor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(ains: FakeAins) -> None:
        async with calling(echoing(), register=ains.url) as caller:
            await caller.served.registered(BOUND_S)
            ains.statuses[HEARTBEAT] = 409
            while (await caller.send("GET", "/healthz")).status == 200:
                pass
            assert (await caller.invoke()).status == 503
        assert DRAIN not in ains.calls
        assert LEAVE not in ains.calls

    with_ains(test)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "eyes-1 was replaced: another instance has registered under its id; this one stops"
    ]


def test_agent_replaced_since_its_last_heartbeat_does_not_drain_its_successor() -> None:
    async def test(ains: FakeAins) -> None:
        async with calling(echoing(), register=ains.url) as caller:
            await caller.served.registered(BOUND_S)
            ains.statuses[HEARTBEAT] = 409
        assert DRAIN not in ains.calls
        assert LEAVE not in ains.calls

    with_ains(test)


def test_agent_serves_while_the_server_is_away_and_registers_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with FakeAins().serving() as first:
            port = int(first.url.rpartition(":")[2])
        async with calling(echoing(), register=first.url) as caller:
            assert (await caller.invoke()).status == 200
            with pytest.raises(TimeoutError):
                await caller.served.registered(0.6)
            async with FakeAins().serving(port) as ains:
                await caller.served.registered(BOUND_S)
                await ains.saw(HEARTBEAT)

    run(main)
    assert len([record for record in caplog.records if "could not register" in record.getMessage()]) == 1


def test_agent_that_lost_the_server_heartbeats_again_when_it_is_back() -> None:
    async def main() -> None:
        async with FakeAins().serving() as first:
            port = int(first.url.rpartition(":")[2])
            serving = calling(echoing(), register=first.url)
            caller = await serving.__aenter__()
            await first.saw(HEARTBEAT)
        async with FakeAins().serving(port) as ains:
            await ains.saw(HEARTBEAT, 2)
            assert REGISTER not in ains.calls
            assert (await caller.invoke()).status == 200
            await serving.__aexit__(None, None, None)

    run(main)


def test_refused_key_is_told_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def test(ains: FakeAins) -> None:
        ains.statuses[REGISTER] = 401
        async with calling(echoing(), register=ains.url, api_key="wrong") as caller:
            await ains.saw(REGISTER, 3)
            ains.statuses.clear()
            await caller.served.registered(BOUND_S)

    with_ains(test)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "AICP_API_KEY" in told[0]
    assert "wrong" not in told[0]


def test_key_written_after_the_start_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AICP_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("AICP_API_KEY", raising=False)

    async def test(ains: FakeAins) -> None:
        ains.statuses[REGISTER] = 401
        async with calling(echoing(), register=ains.url) as caller:
            await ains.saw(REGISTER)
            (tmp_path / "admin.key").write_text("late\n")
            ains.statuses.clear()
            await caller.served.registered(BOUND_S)
            assert next(authorization for _, _, authorization in ains.seen if authorization) == "Bearer late"

    with_ains(test)
