"""What a replica has to tell: bounded, told once, and told again if it could not be."""

import msgspec
import pytest

from aicp.model.event import AgentChanged, CircuitChanged
from aicp.model.live import LiveEvent
from aicp.model.notice import Notice
from aicp.resilience.circuit_breaker import CircuitState
from aicp.runtime.outbox import EVENTS_MAX, HEALTH_MAX, HEARD_MAX, Outbox
from tests.unit.flow_kit import ECHO, Stage, agent, task, virtual
from tests.unit.onlooker_kit import AT, attempted


class Sender(Stage):
    """A replica that is not alone, and what it has to tell."""

    def __init__(self, *agent_ids: str) -> None:
        super().__init__(*(agent(agent_id, slots=8) for agent_id in agent_ids))
        self.outbox = Outbox(self.board, self.scheduler)
        self.outbox.is_alone = False

    def circuit(self, agent_id: str, state: CircuitState) -> None:
        self.outbox.notify(CircuitChanged(agent_id, ECHO, state, 1.0, AT))

    def is_urgent(self) -> bool:
        return self.outbox.is_urgent

    def opened(self) -> list[str]:
        return [opening.agent_id for opening in self.outbox.take_all().openings]


_decode = msgspec.json.Decoder(LiveEvent).decode


def _event(number: int = 0, **fields: object) -> LiveEvent:
    return LiveEvent("task_ended", AT, task_id=f"t{number}", **fields)  # type: ignore[arg-type] # fields by name


@virtual
async def test_opening_is_told_once_with_what_is_left_of_its_wait() -> None:
    async with Sender("a") as sender:
        await sender.fault("a")
        sender.circuit("a", CircuitState.OPEN)
        assert sender.is_urgent()
        (opening,) = sender.outbox.take_all().openings
        assert (opening.agent_id, opening.capability, opening.wait_s) == ("a", ECHO, 1.0)
        sender.circuit("a", CircuitState.OPEN)
        assert not sender.is_urgent()
        assert not sender.opened()


@virtual
async def test_circuit_that_was_tried_since_and_opens_again_is_told_again() -> None:
    async with Sender("a") as sender:
        await sender.fault("a")
        for state in (CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.OPEN):
            sender.circuit("a", state)
        assert sender.opened() == ["a"]


@virtual
async def test_circuit_that_is_not_open_any_more_is_not_told() -> None:
    async with Sender("a") as sender:
        sender.circuit("a", CircuitState.OPEN)
        assert not sender.opened()


@pytest.mark.parametrize("elsewhere", [True, False])
def test_agent_that_was_removed_and_comes_again_has_its_first_opening_told(elsewhere: bool) -> None:  # noqa: FBT001
    @virtual
    async def main() -> None:
        async with Sender("a") as sender:
            await sender.fault("a")
            sender.circuit("a", CircuitState.OPEN)
            sender.outbox.take_all()
            if elsewhere:
                sender.outbox.forget("a")
            else:
                sender.outbox.notify(AgentChanged("a", "removed", AT))
            sender.circuit("a", CircuitState.OPEN)
            assert sender.opened() == ["a"]

    main()


@virtual
async def test_notice_that_could_not_be_told_is_told_later_but_for_its_events_which_are_counted() -> None:
    async with Sender("echo-1") as sender:
        await sender.fault("echo-1")
        sender.circuit("echo-1", CircuitState.OPEN)
        sender.outbox.heard("echo-1", "one")
        sender.outbox.notify(attempted())
        sender.outbox.relay(_event(), "default")
        first = sender.outbox.take_all()
        assert sender.outbox.take_all().is_empty
        sender.outbox.heard("echo-1", "two")
        sender.outbox.put_back(first)
        again = sender.outbox.take_all()
        assert again.openings == first.openings
        assert again.health.keys() == {"echo-1"}
        # What was heard since is the later word.
        assert again.heard == {"echo-1": "two"}
        assert (again.events, again.lost) == ((), 1)


@virtual
async def test_events_beyond_two_thousand_are_counted() -> None:
    async with Sender() as sender:
        for number in range(EVENTS_MAX + 3):
            sender.outbox.relay(_event(number), None)
        notice = sender.outbox.take_events()
        assert [_decode(relayed.event).task_id for relayed in notice.events] == [
            f"t{number}" for number in range(EVENTS_MAX)
        ]
        assert notice.lost == 3
        assert sender.outbox.take_events() == Notice()


@virtual
async def test_what_finds_no_room_in_a_notice_is_told_in_the_next() -> None:
    ids = [f"a{number}" for number in range(HEALTH_MAX + 1)]
    async with Sender(*ids) as sender:
        for agent_id in ids:
            sender.outbox.notify(AgentChanged(agent_id, "registered", AT))
        for number in range(HEARD_MAX + 1):
            sender.outbox.heard(f"h{number}", "one")
        first, second = sender.outbox.take_all(), sender.outbox.take_all()
        assert (len(first.health), len(first.heard)) == (HEALTH_MAX, HEARD_MAX)
        assert second.health.keys() == {ids[-1]}
        assert second.heard == {f"h{HEARD_MAX}": "one"}
        assert sender.outbox.take_all().is_empty


@virtual
async def test_what_every_replica_finds_out_by_itself_or_heard_from_another_is_not_told() -> None:
    async with Sender() as sender:
        for change in ("heard", "unheard", "offline"):
            sender.outbox.relay(LiveEvent("agent_changed", AT, agent_id="a", change=change), None)
        sender.outbox.relay(LiveEvent("capability_changed", AT, capability=ECHO, is_out=True), None)
        assert not sender.outbox.has_events
        sender.outbox.relay(LiveEvent("agent_changed", AT, agent_id="a", change="registered"), None)
        assert sender.outbox.has_events


@virtual
async def test_alone_it_gathers_neither_events_nor_heartbeats() -> None:
    async with Sender("a") as sender:
        sender.outbox.is_alone = True
        sender.outbox.relay(_event(), None)
        sender.outbox.heard("a", "one")
        assert sender.outbox.take_all().is_empty


@virtual
async def test_who_is_new_is_told_of_agents_that_were_ever_used() -> None:
    async with Sender("used", "failing", "idle") as sender:
        sender.succeed(await sender.lease(task(agents=("used",))))
        await sender.fault("failing", times=1)
        sender.outbox.touch_all()
        assert sender.outbox.take_all().health.keys() == {"used", "failing"}
