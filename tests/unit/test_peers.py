"""What other replicas told is taken in: their agents, openings, events and health, and nothing is kept for ever."""

import asyncio
from typing import Any

import msgspec
import pytest

from aicp.model.live import LiveEvent
from aicp.model.notice import Notice, Opening, Order, Relayed
from aicp.ports import News, Ordered, Posted, Replica
from aicp.registry.leases import LEASE_TTL_S, Liveness
from aicp.routing.health import agent_health
from aicp.runtime.orders import Orders
from aicp.runtime.peers import Peers
from aicp.runtime.turns import ITEMS_A_TURN
from tests.unit.flow_kit import ECHO, agent, virtual
from tests.unit.onlooker_kit import AT
from tests.unit.test_ains import Registry, registration

HERE, THERE = Replica(1, "here"), Replica(2, "there")


class Here(Registry):
    """A replica that has one peer, and listens."""

    def __init__(self) -> None:
        super().__init__()
        self.obeyed: list[tuple[str, Order]] = []
        self.told: list[tuple[LiveEvent, str | None]] = []
        self.bodies: list[bytes] = []
        self.missed_times = 0
        self.peers = Peers(self.ains, self.board, self.scheduler, Orders(self._obey))
        self.peers.meet([HERE, THERE])
        self.stop_listening = self.peers.listen(self)

    def relayed(self, event: LiveEvent, tenant: str | None, body: bytes) -> None:
        self.told.append((event, tenant))
        self.bodies.append(body)

    def missed(self) -> None:
        self.missed_times += 1

    def _obey(self, agent_id: str, order: Order) -> None:
        self.ains.get(agent_id)
        self.obeyed.append((agent_id, order))

    async def hear(self, age_s: float = 0.0, **notice: Any) -> None:
        assert await self.peers.take_in(News(posted=(Posted(THERE.number, age_s, Notice(**notice)),)))

    async def hear_health(self, agent_id: str) -> None:
        await self.hear(health={agent_id: agent_health(self.scheduler.member("a"), self.board)})


@virtual
async def test_agents_of_elsewhere_are_used_here_until_they_are_removed_there() -> None:
    async with Here() as here:
        assert await here.peers.take_in(News(registered=(agent("a", instance_id="one"),)))
        here.succeed(await here.lease())
        assert await here.peers.take_in(News(removed=("a",)))
        assert here.scheduler.find_member("a") is None


@virtual
async def test_thousands_of_agents_of_elsewhere_hold_nothing_up() -> None:
    async with Here() as here:
        news = News(registered=tuple(agent(f"a{number}") for number in range(10 * ITEMS_A_TURN)))
        taking_in = asyncio.create_task(here.peers.take_in(news))
        known = 0
        while not taking_in.done():
            await asyncio.sleep(0)
            before, known = known, len(here.ains.agents())
            assert known - before <= ITEMS_A_TURN
        assert await taking_in
        assert known == 10 * ITEMS_A_TURN


@virtual
async def test_agent_that_registers_here_while_others_are_taken_in_is_looked_at_again() -> None:
    async with Here() as here:
        here.peers.expect_news()
        others = tuple(agent(f"a{number}") for number in range(ITEMS_A_TURN))
        taking_in = asyncio.create_task(here.peers.take_in(News(registered=(*others, agent("a", instance_id="old")))))
        await asyncio.sleep(0)
        await here.ains.register(registration("a", "new"))
        assert not await taking_in
        assert here.ains.get("a").instance_id == "new"


@virtual
async def test_opening_rests_the_circuit_for_what_is_left_of_it() -> None:
    async with Here() as here:
        here.ains.put(agent("a"))
        await here.hear(
            2.0, openings=(Opening("a", ECHO, 5.0), Opening("a", "text.other", 5.0), Opening("b", ECHO, 5.0))
        )
        assert here.board.ready_in_s("a", ECHO) == 3.0
        assert here.why_out("a")


@virtual
async def test_opening_that_is_over_changes_nothing() -> None:
    async with Here() as here:
        here.ains.put(agent("a"))
        await here.hear(5.0, openings=(Opening("a", ECHO, 5.0),))
        assert not here.why_out("a")


@virtual
async def test_heartbeat_elsewhere_counts_for_the_same_instance_only() -> None:
    async with Here() as here:
        assert await here.peers.take_in(News(registered=(agent("a", instance_id="one"),)))
        await here.pass_time(LEASE_TTL_S + 1)
        await here.hear(heard={"a": "another", "b": "one"})
        assert here.ains.liveness("a") is Liveness.UNHEARD
        await here.hear(heard={"a": "one"})
        assert here.ains.liveness("a") is Liveness.HEARD


@virtual
async def test_events_are_told_with_the_name_of_the_replica_until_nobody_listens() -> None:
    async with Here() as here:
        event = LiveEvent("task_ended", AT, task_id="t")
        await here.hear(events=(Relayed.of(event, "ours"),))
        (heard, tenant) = here.told[0]
        assert (heard.task_id, heard.replica, tenant) == ("t", "there", "ours")
        here.stop_listening()
        await here.hear(events=(Relayed.of(event, "ours"),))
        assert len(here.told) == 1


@virtual
async def test_event_of_a_newer_replica_is_passed_on_with_all_that_it_told() -> None:
    async with Here() as here:
        told = {"kind": "moon_risen", "at": "2026-01-02T03:04:05Z", "chain_id": "c", "phase": {"share": 0.25}}
        await here.hear(events=(Relayed(msgspec.Raw(msgspec.json.encode(told)), "ours"),))
        (heard, tenant) = here.told[0]
        assert (heard.kind, heard.chain_id, heard.replica, tenant) == ("moon_risen", "c", "there", "ours")
        assert msgspec.json.decode(here.bodies[0]) == {**told, "replica": "there"}


@pytest.mark.parametrize(
    "body", ["{}", "7", '{"kind":7}', '{"kind":"task_ended","at":"2026-01-02T03:04:05Z","status":"MELTED"}']
)
def test_event_that_is_none_to_this_version_is_told_as_a_gap_and_the_next_is_told(body: str) -> None:
    @virtual
    async def main() -> None:
        async with Here() as here:
            event = LiveEvent("task_ended", AT, task_id="t")
            await here.hear(events=(Relayed(msgspec.Raw(body), None), Relayed.of(event, None)))
            assert here.missed_times == 1
            assert [heard.task_id for heard, _ in here.told] == ["t"]

    main()


@virtual
async def test_what_may_be_lost_is_told_as_a_gap() -> None:
    async with Here() as here:
        await here.hear(lost=3)
        assert here.missed_times == 1
        assert await here.peers.take_in(News(has_gap=True))
        assert here.missed_times == 2


@virtual
async def test_health_of_elsewhere_ends_with_the_agent_and_with_the_replica() -> None:
    async with Here() as here:
        here.ains.put(agent("a"))
        await here.hear_health("nobody")
        assert list(here.peers.health) == [{}]
        await here.hear_health("a")
        assert [health.keys() for health in here.peers.health] == [{"a"}]
        assert await here.peers.take_in(News(removed=("a",)))
        assert list(here.peers.health) == [{}]
        await here.hear_health("a")
        assert here.peers.meet([HERE])
        assert list(here.peers.health) == []


@virtual
async def test_who_comes_and_goes_shares_slots_and_who_is_not_alive_itself_knows_nobody() -> None:
    async with Here() as here:
        here.ains.put(agent("a", slots=8))
        assert here.scheduler.member("a").slots == 4
        assert not here.peers.meet([HERE, THERE])
        assert not here.peers.meet([])
        assert here.scheduler.member("a").slots == 4
        assert here.peers.meet([HERE])
        assert here.scheduler.member("a").slots == 8


@virtual
async def test_order_is_obeyed_with_the_agent_that_comes_in_the_same_news() -> None:
    async with Here() as here:
        assert await here.peers.take_in(News(registered=(agent("a"),), orders=(Ordered("a", Order.OPEN, 1),)))
        assert here.obeyed == [("a", Order.OPEN)]


@virtual
async def test_order_for_an_agent_that_is_yet_to_come_ends_with_its_removal_elsewhere() -> None:
    async with Here() as here:
        here.board.force_open("a")
        assert await here.peers.take_in(News(removed=("a",)))
        assert await here.peers.take_in(News(registered=(agent("a"),)))
        assert not here.why_out("a")
