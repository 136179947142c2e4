"""Two servers on one PostgreSQL: whatever one of them learns, the other knows within a second."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aicp.client import Client
from aicp.errors import AgentReplaced, Conflict, StorageError
from aicp.model.agent import AgentAuth, AgentProfile, Capability, Registration
from aicp.model.live import LiveEvent
from aicp.model.notice import Notice, Order, Relayed
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, Task, TaskStatus
from aicp.model.wire import AgentDescription
from aicp.registry.leases import Liveness
from aicp.resilience.circuit_breaker import CircuitState
from aicp.runtime.node import Node
from aicp.runtime.settings import SECRET_KEY_VARIABLE, Settings
from aicp.server import RunningServer, running_server
from tests.integration.postgres_kit import run, shared_server, way_to
from tests.integration.postgres_pooler import pooler_of
from tests.integration.server_kit import feeds_of
from tests.postgres_server import PostgresServer, ask, postgres_server

ENDPOINT = "http://127.0.0.1:1"
LABEL = "image.label"
KEY, OTHER_KEY = (base64.urlsafe_b64encode(bytes([fill] * 32)).decode() for fill in (0, 1))


class Fleet:
    """Agents at the other end: what they answer is said here."""

    def __init__(self) -> None:
        self.answer = Reply(Outcome.SUCCESS, {"label": "cat"})
        self.calls: list[tuple[str, AgentAuth | None]] = []
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def invoke(self, agent: AgentProfile, call: Call) -> Reply:
        self.calls.append((call.task_id, agent.auth))
        await self.let_go.wait()
        return self.answer

    async def probe(self, _agent: AgentProfile) -> Reply:
        return self.answer

    async def describe(self, endpoint_url: str, auth: AgentAuth | None = None) -> AgentDescription:
        raise AssertionError((endpoint_url, auth))

    async def check(self, endpoint_url: str) -> None:
        pass

    async def close(self) -> None:
        pass


class Replica:
    """A node and its fleet."""

    def __init__(self, url: str) -> None:
        self.fleet = Fleet()
        self.node = Node(database=url, make_remote=lambda: self.fleet)
        self.told: list[LiveEvent] = []
        self.missed_times = 0

    def relayed(self, event: LiveEvent, _tenant: str | None, _body: bytes) -> None:
        self.told.append(event)

    def missed(self) -> None:
        self.missed_times += 1

    @property
    def told_of(self) -> set[str | None]:
        return {event.agent_id for event in self.told}

    @property
    def alive(self) -> int:
        assert self.node.stores.replicas is not None
        return len(self.node.stores.replicas.alive)


@asynccontextmanager
async def replicas(count: int = 2, url: str = "", *, alive: int = 0) -> AsyncIterator[list[Replica]]:
    """So many on one database, `alive` with those that were there before."""
    url = url or shared_server().fresh_url()
    async with AsyncExitStack() as stack:
        made = [Replica(url) for _ in range(count)]
        for replica in made:
            await stack.enter_async_context(replica.node)
            replica.node.listen(replica)
        await until(lambda: all(replica.alive == (alive or count) for replica in made))
        yield made


@asynccontextmanager
async def servers(tmp: Path, nodes: list[Node] | None = None) -> AsyncIterator[list[RunningServer]]:
    """Two with an HTTP API, each with agents of its own process; `nodes` gets what they serve."""
    async with replicas() as made, AsyncExitStack() as stack:
        if nodes is not None:
            nodes += [replica.node for replica in made]
        for replica in made:
            await replica.node.add_agent("echo", {"text.echo": _echo, "text.slow": _slow}, max_concurrent_tasks=8)
        yield [
            await stack.enter_async_context(running_server(Settings(port=0, data_dir=tmp), replica.node))
            for replica in made
        ]


async def _echo(params: dict[str, Any]) -> dict[str, Any]:
    return params


async def _slow(params: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(1.0)
    return params


def _task(capability: str = "image.label") -> Task:
    return Task(capability, {"url": "x"})


async def until(holds: Callable[[], Any], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what others know has no event
            await asyncio.sleep(0.01)


async def until_asked(url: str, sql: str, answer: Any) -> None:
    async with asyncio.timeout(30):
        while await ask(url, sql) != answer:  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.2)


def registration(agent_id: str = "eyes", instance_id: str = "i1", slots: int = 4, **more: Any) -> Registration:
    return Registration(
        ENDPOINT, agent_id, instance_id=instance_id, capabilities=(Capability("image.label"),),
        max_concurrent_tasks=slots, **more,
    )  # fmt: skip


def knows(replica: Replica, agent_id: str = "eyes", instance_id: str = "i1") -> bool:
    return any(
        (profile.agent_id, profile.instance_id) == (agent_id, instance_id) for profile in replica.node.ains.agents()
    )


async def _label(params: dict[str, Any]) -> dict[str, Any]:
    return params


async def _follow(client: Client, events: list[LiveEvent]) -> None:
    async for event in client.events():
        events.append(event)  # noqa: PERF401 - they are looked at while they come


def _ends_with(events: list[LiveEvent], task_id: str) -> bool:
    return any(event.kind == "chain_ended" and task_id.startswith(event.chain_id or "-") for event in events)


def _has_successes(replica: Replica, count: int) -> bool:
    return replica.node.health().agents["eyes"].success_count == count


def _are_of(everybody: list[Replica], agent_id: str, tenant: str) -> bool:
    return all(knows(replica, agent_id) and replica.node.ains.get(agent_id).tenant == tenant for replica in everybody)


def _has_slots(replica: Replica, slots: int) -> bool:
    return replica.node.scheduler.member("eyes").slots == slots


def _is_closed(replica: Replica) -> bool:
    return replica.node.board.get_state("eyes") is CircuitState.CLOSED


# -- agents


def test_agent_registered_with_one_replica_is_used_by_the_other_with_its_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with replicas() as (one, other):
            await one.node.ains.register(registration(auth=AgentAuth("s3cret")))
            await until(lambda: knows(other))
            chain_id = (await other.node.coordinator.submit_task(_task())).partition(".")[0]
            assert (await other.node.coordinator.wait_result(chain_id)).status is TaskStatus.COMPLETED
            assert [auth for _, auth in other.fleet.calls] == [AgentAuth("s3cret")]
            assert not one.fleet.calls

    monkeypatch.setenv(SECRET_KEY_VARIABLE, KEY)
    run(main())


def test_new_instance_and_removal_reach_the_other_replica() -> None:
    async def main() -> None:
        async with replicas() as (one, other):
            await one.node.ains.register(registration())
            await until(lambda: knows(other))
            await other.node.ains.register(registration(instance_id="i2"))
            await until(lambda: knows(one, instance_id="i2"))
            with pytest.raises(AgentReplaced):
                one.node.ains.heartbeat("eyes", "i1")
            one.node.remove_agent("eyes")
            await one.node.tell_replicas()
            await until(lambda: not knows(other, instance_id="i2"))
            assert not one.node.ains.agents()

    run(main())


def test_agent_id_that_two_tenants_register_at_two_replicas_in_one_moment_is_one_of_thems() -> None:
    def claim(new: AgentProfile, old: AgentProfile | None) -> AgentProfile:
        if old is not None and old.tenant != new.tenant:
            raise Conflict
        return new

    async def registered(replica: Replica, tenant: str, agent_id: str) -> bool:
        try:
            await replica.node.ains.register(registration(agent_id), tenant, claim=claim)
        except Conflict:
            return False
        return True

    async def main() -> None:
        async with replicas() as both:
            for number in range(20):
                agent_id = f"eyes-{number}"
                trying = (registered(*each, agent_id) for each in zip(both, ("ours", "theirs"), strict=True))
                got_it = await asyncio.gather(*trying)
                assert sorted(got_it) == [False, True]
                winner = "ours" if got_it[0] else "theirs"
                await until(partial(_are_of, both, agent_id, winner))

    run(main())


def test_many_registered_at_once_with_both_are_known_to_both_and_to_one_that_comes_later() -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with replicas(url=url) as both:
            names = [f"agent-{number}" for number in range(100)]
            await asyncio.gather(
                *(
                    both[number % 2].node.ains.register(registration(name))
                    for number, name in enumerate(names)
                )
            )  # fmt: skip
            await until(lambda: all(knows(replica, name) for replica in both for name in names))
            async with Node(database=url, make_remote=Fleet) as late:
                assert {profile.agent_id for profile in late.ains.agents()} == set(names)

    run(main())


def test_agents_of_one_process_alone_stay_its_own() -> None:
    async def main() -> None:
        async with replicas() as (one, other):
            await other.node.add_agent("eyes", {"image.label": _label})
            await one.node.ains.register(registration())
            await one.node.ains.register(registration("ears"))
            await until(lambda: knows(other, "ears"))
            assert other.node.ains.get("eyes").endpoint is None
            one.node.remove_agent("eyes")
            await one.node.tell_replicas()
            one.node.remove_agent("ears")
            await one.node.tell_replicas()
            await until(lambda: not knows(other, "ears"))
            assert other.node.ains.get("eyes").endpoint is None

    run(main())


def test_heartbeat_at_one_replica_counts_at_the_other() -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with replicas(1, url) as (one,):
            await one.node.ains.register(registration())
            async with replicas(1, url, alive=2) as (late,):
                assert late.node.ains.liveness("eyes") is Liveness.UNHEARD
                await until(lambda: one.alive == 2)

                def is_heard() -> bool:
                    one.node.ains.heartbeat("eyes", "i1")
                    return late.node.ains.liveness("eyes") is Liveness.HEARD

                await until(is_heard)

    run(main())


# -- circuits, slots, health


def test_circuit_that_opens_at_one_replica_rests_at_the_other_and_health_says_so_at_both() -> None:
    async def main() -> None:
        async with replicas() as (one, other):
            await one.node.ains.register(registration())
            await until(lambda: knows(other))
            await until(partial(_has_slots, one, 2))
            one.fleet.answer = Reply(Outcome.UNAVAILABLE, reason="refused")
            for _ in range(5):
                one.node.board.record_evidence("eyes", [LABEL])
            one.node.scheduler.refresh("eyes")
            await until(lambda: other.node.board.ready_in_s("eyes", LABEL) > 0)
            assert other.node.board.get_state("eyes") is CircuitState.CLOSED
            await until(lambda: other.node.health().agents["eyes"].state == CircuitState.OPEN)
            assert other.node.router.health().agents["eyes"].state == CircuitState.CLOSED
            assert other.node.health().open_circuits == 1
            # That was a second; from then on it decides for itself.
            await until(lambda: not other.node.scheduler.member("eyes").seats[LABEL].why_out)
            assert one.node.board.get_state("eyes") is CircuitState.OPEN

    run(main())


def test_counters_of_both_replicas_are_added_up() -> None:
    async def main() -> None:
        async with replicas() as (one, other):
            await one.node.ains.register(registration())
            await until(lambda: knows(other))
            for replica, tasks in ((one, 3), (other, 2)):
                for _ in range(tasks):
                    assert await replica.node.router.route_task(_task(), wait=True)
            for replica in (one, other):
                await until(partial(_has_successes, replica, 5))
            assert one.node.health().agents["eyes"].slots == 4

    run(main())


def test_slots_are_shared_by_those_alive_and_come_back_when_one_leaves() -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with replicas(1, url) as (one,):
            await one.node.ains.register(registration(slots=8))
            assert one.node.scheduler.member("eyes").slots == 8
            async with replicas(1, url, alive=2) as (other,):
                for replica in (one, other):
                    await until(partial(_has_slots, replica, 4))
            await until(lambda: one.node.scheduler.member("eyes").slots == 8)

    run(main())


# -- what operators order


@pytest.mark.parametrize(
    ("order", "state"), [(Order.OPEN, CircuitState.FORCED_OPEN), (Order.DISABLE, CircuitState.DISABLED)]
)
def test_order_holds_at_every_replica_and_at_one_that_comes_later_until_it_is_taken_back(
    order: Order, state: CircuitState
) -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with replicas(url=url) as (one, other):
            await one.node.ains.register(registration())
            await until(lambda: knows(other))
            do = {Order.OPEN: one.node.open_agent, Order.DISABLE: one.node.disable_agent}[order]
            do("eyes")
            await one.node.tell_replicas()
            await until(lambda: other.node.board.get_state("eyes") is state)
            async with replicas(1, url, alive=3) as (late,):
                assert late.node.board.get_state("eyes") is state
                late.node.reset_agent("eyes")
                await late.node.tell_replicas()
                for replica in (one, other, late):
                    await until(partial(_is_closed, replica))

    run(main())


def test_drained_at_one_is_drained_at_both_until_it_registers_again() -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with replicas(url=url) as (one, other):
            await one.node.ains.register(registration())
            await until(lambda: knows(other))
            other.node.drain_agent("eyes")
            await until(lambda: one.node.scheduler.member("eyes").trouble.is_draining)
            await one.node.ains.register(registration(slots=5))
            await until(lambda: not other.node.scheduler.member("eyes").trouble.is_draining)
            async with replicas(1, url, alive=3) as (late,):
                assert not late.node.scheduler.member("eyes").trouble.is_draining

    run(main())


# -- events, and waits


def test_events_of_a_replica_are_told_at_the_other_once_with_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        nodes: list[Node] = []
        async with servers(tmp_path, nodes) as (one, other):
            events: list[LiveEvent] = []
            async with Client(other.url, other.admin_key) as client, Client(one.url, one.admin_key) as asked:
                following = asyncio.create_task(_follow(client, events))
                # A reader gets what happens from then on.
                await until(lambda: feeds_of(nodes[1])[0]._readers == 1)
                task_id = await asked.submit_task(_task("text.echo"))
                await until(lambda: _ends_with(events, task_id))
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            told = [event for event in events if event.chain_id == task_id.partition(".")[0]]
            assert [event.kind for event in told] == [
                "chain_submitted", "attempt_started", "attempt_ended", "task_ended", "chain_ended",
            ]  # fmt: skip
            assert {event.replica for event in told} == {told[0].replica}
            assert told[0].replica

    run(main())


def test_wait_at_one_replica_ends_with_a_task_of_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            servers(tmp_path) as (one, other),
            Client(one.url, one.admin_key) as asked,
            Client(other.url, other.admin_key) as waiting,
        ):
            task_id = await asked.submit_task(_task("text.slow"))
            view = await waiting.get_task(task_id, wait_s=30)
            assert view.status is TaskStatus.COMPLETED

    run(main())


# -- when it goes wrong


def test_database_that_does_not_answer_leaves_agents_as_they_are_and_news_comes_when_it_is_back() -> None:
    async def main() -> None:
        server = shared_server()
        url = server.fresh_url()
        async with (
            replicas(1, url) as (one,),
            way_to(server) as way,
            replicas(1, server.through(url, way), alive=2) as (cut,),
        ):
            await one.node.ains.register(registration())
            await until(lambda: knows(cut))
            way.is_hole = True
            await one.node.ains.register(registration("ears"))
            await until(lambda: cut.missed_times > 1, within_s=30)
            assert knows(cut)
            assert not knows(cut, "ears")
            way.is_hole = False
            way.cut()
            await until(lambda: knows(cut, "ears"), within_s=30)

    run(main())


def test_replicas_behind_a_pooler_know_of_each_other_too() -> None:
    async def main() -> None:
        server = shared_server()
        url = server.fresh_url()
        async with pooler_of(server) as pooler, replicas(url=server.through(url, pooler)) as (one, other):
            await one.node.ains.register(registration())
            await until(lambda: knows(other))
            other.node.open_agent("eyes")
            await until(lambda: one.node.board.get_state("eyes") is CircuitState.FORCED_OPEN)

    run(main())


def test_notices_are_read_once_and_forgotten_after_a_minute() -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with replicas(url=url) as (one, other):
            bulletin = one.node.stores.bulletin
            assert bulletin is not None
            event = LiveEvent("agent_changed", datetime.now(UTC), agent_id="eyes", change="registered")
            await bulletin.post(Notice(events=(Relayed.of(event, None),)))
            await until(lambda: len(other.told) == 1)
            assert [event.agent_id for event in other.told] == ["eyes"]
            assert not one.told
            await ask(url, "UPDATE notices SET posted_at = posted_at - interval '2 minutes'")
            await until_asked(url, "SELECT count(*) FROM notices", 0)
            assert len(other.told) == 1

    run(main())


def test_what_is_told_after_the_server_lost_its_power_is_news_though_its_notices_are_counted_anew() -> None:
    async def main(server: PostgresServer) -> None:
        async with replicas(url=server.fresh_url()) as (one, other):
            await one.node.ains.register(registration())
            await until(lambda: knows(other))
            await _relay(one, "before")
            await until(lambda: "before" in other.told_of)
            await asyncio.to_thread(server.suffer, "crash of a session")
            await until(lambda: one.node.is_ready and other.node.is_ready, within_s=30)
            await _relay(one, "after")
            await until(lambda: "after" in other.told_of)

    with postgres_server() as server:
        run(main(server))


async def _relay(replica: Replica, agent_id: str) -> None:
    """Tell of an event, as often as the database does not answer."""
    bulletin = replica.node.stores.bulletin
    assert bulletin is not None
    event = LiveEvent("agent_changed", datetime.now(UTC), agent_id=agent_id, change="registered")
    async with asyncio.timeout(30):
        while True:
            try:
                await bulletin.post(Notice(events=(Relayed.of(event, None),)))
            except StorageError:
                await asyncio.sleep(0.05)
            else:
                return


def test_backup_of_another_server_is_no_news_for_ever() -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with replicas(1, url) as (one,):
            await one.node.ains.register(registration())
        await ask(url, "UPDATE registrations SET changed_in = 1000000000000000")
        async with replicas(1, url):
            assert await ask(url, "SELECT changed_in FROM registrations") == 0

    run(main())


def test_agent_whose_secret_cannot_be_unsealed_here_holds_up_no_other_news(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with replicas(url=url) as (one, other):
            monkeypatch.setenv(SECRET_KEY_VARIABLE, KEY)
            await one.node.ains.register(registration(auth=AgentAuth("s3cret")))
            monkeypatch.setenv(SECRET_KEY_VARIABLE, OTHER_KEY)
            await one.node.ains.register(registration("ears"))
            await until(lambda: knows(other, "ears"))

    run(main())
