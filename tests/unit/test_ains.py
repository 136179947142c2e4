"""The registry at work: who registers is put to use, who falls silent is put aside, who comes back is used again."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from aicp.errors import AgentNotFound, AgentReplaced, InvalidAgent, SettingsError
from aicp.model.agent import AgentAuth, AgentProfile, Capability, Registration
from aicp.model.event import AgentChanged, AttemptEnded
from aicp.model.outcome import Outcome
from aicp.model.wire import AgentDescription
from aicp.ports import Claim, Registrations
from aicp.registry.directory import Directory
from aicp.registry.leases import HEARTBEAT_EVERY_S, LEASE_TTL_S, Leases, Liveness
from aicp.registry.schemas import Schemas
from aicp.resilience.circuit_breaker import CircuitState
from aicp.runtime.ains import SWEPT_AT_ONCE, Ains
from aicp.runtime.profiles import local_profile
from tests.unit.flow_kit import ECHO, Recorder, Stage, agent, counted_in_turns, granted, now, task, virtual

URL = "http://127.0.0.1:9001"


class Describer:
    """Answers as an agent's `/describe` would."""

    def __init__(self, *descriptions: AgentDescription) -> None:
        self.descriptions = list(descriptions)
        self.asked: list[str] = []

    async def check(self, endpoint: str) -> None:
        """Agents may live anywhere."""

    async def describe(self, endpoint: str, auth: AgentAuth | None) -> AgentDescription:
        self.asked.append(endpoint)
        await asyncio.sleep(0.1)
        if not self.descriptions:
            raise InvalidAgent(f"The agent at {endpoint} does not answer.")
        return self.descriptions[0]


class Keyless:
    """Has no key to seal secrets with."""

    async def save(self, profile: AgentProfile, _claim: Claim | None = None) -> None:
        raise SettingsError(f"The secret of {profile.agent_id} cannot be sealed: set AICP_SECRET_KEY.")

    async def forget(self, agent_id: str) -> None:
        raise AssertionError(agent_id)

    async def load(self) -> Sequence[AgentProfile]:
        return ()


class Unforgetting(Keyless):
    """Remembers whom it is told to, and has no right to forget them any more."""

    async def save(self, profile: AgentProfile, _claim: Claim | None = None) -> None:
        """It is remembered."""

    async def forget(self, agent_id: str) -> None:
        raise SettingsError(f"Agent {agent_id} cannot be deleted: the user has too few rights.")


class Registry(Stage):
    """A stage whose agents come and go through the registry."""

    def __init__(self, *descriptions: AgentDescription, registrations: Registrations | None = None) -> None:
        super().__init__()
        self.seen = Recorder()
        self.describer = Describer(*descriptions)
        self.ains = Ains(
            Directory(Schemas()),
            Leases(clock=self.clock.monotonic),
            self.scheduler,
            self.board,
            self.describer,
            self.clock,
            self.seen,
            registrations,
        )

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(event.agent_id, event.change) for event in self.seen.events if isinstance(event, AgentChanged)]

    async def pass_time(self, seconds: float, *, sweeping: bool = True) -> None:
        ends_at = now() + seconds
        while now() < ends_at:
            await asyncio.sleep(1.0)
            if sweeping:
                await self.ains.sweep()


def registration(agent_id: str | None = "a", instance_id: str = "one", **options: object) -> Registration:
    said: Mapping[str, object] = {"capabilities": (Capability(ECHO),), "max_concurrent_tasks": 2, **options}
    return Registration(URL, agent_id, instance_id, **said)  # type: ignore[arg-type] # fields by name


class TestRegistering:
    @virtual
    async def test_who_registers_is_found_leased_and_put_to_use(self) -> None:
        async with Registry() as registry:
            registered = await registry.ains.register(registration(labels={"gpu": "yes"}), tenant="ours")
            assert registered.agent_id == "a"
            assert registered.lease is not None
            assert (registered.lease.ttl_s, registered.lease.heartbeat_every_s) == (LEASE_TTL_S, HEARTBEAT_EVERY_S)
            profile = registry.ains.get("a")
            assert (profile.endpoint, profile.tenant, profile.max_concurrent_tasks) == (URL, "ours", 2)
            assert registry.ains.search(ECHO) == [profile]
            assert registry.ains.registered_at("a") == registry.clock.utcnow()
            assert registry.changes == [("a", "registered")]
            assert registry.describer.asked == []
            registry.succeed(await registry.lease(task(labels={"gpu": "yes"}), tenant="ours"))

    @virtual
    async def test_what_it_leaves_out_it_is_asked_for_and_what_it_says_wins(self) -> None:
        described = AgentDescription("its-own-name", (Capability("test.other"),), "instance-7", 9)
        async with Registry(described) as registry:
            await registry.ains.register(Registration(URL))
            profile = registry.ains.get("its-own-name")
            assert profile.capabilities == described.capabilities
            assert (profile.instance_id, profile.max_concurrent_tasks) == ("instance-7", 9)
            await registry.ains.register(Registration(URL, "given", "mine", max_concurrent_tasks=1))
            profile = registry.ains.get("given")
            assert (profile.instance_id, profile.max_concurrent_tasks) == ("mine", 1)
            assert profile.capabilities == described.capabilities

    @virtual
    async def test_whose_secret_cannot_be_sealed_is_refused_and_not_used(self) -> None:
        async with Registry(registrations=Keyless()) as registry:
            await registry.ains.restore()
            with pytest.raises(SettingsError, match="AICP_SECRET_KEY"):
                await registry.ains.register(registration())
            assert registry.ains.agents() == []
            assert list(registry.scheduler.members()) == []

    @virtual
    async def test_who_does_not_say_what_it_is_is_refused_and_nothing_changes(self) -> None:
        async with Registry() as registry:
            with pytest.raises(InvalidAgent, match="does not answer"):
                await registry.ains.register(Registration(URL))
            with pytest.raises(InvalidAgent):
                await registry.ains.register(registration("not a name!"))
            with pytest.raises(InvalidAgent):
                await registry.ains.register(registration(max_concurrent_tasks=0))
            assert registry.ains.agents() == []
            assert registry.changes == []
            assert list(registry.scheduler.members()) == []

    @virtual
    async def test_a_refused_change_leaves_the_agent_as_it_was(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            with pytest.raises(InvalidAgent):
                await registry.ains.register(registration(max_concurrent_tasks=-1, instance_id="two"))
            assert registry.ains.get("a").instance_id == "one"
            assert registry.scheduler.member("a").slots == 2

    @virtual
    async def test_registering_again_updates_and_ends_draining(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            registry.ains.drain("a")
            await registry.ains.register(registration(max_concurrent_tasks=5))
            assert registry.changes == [("a", "registered"), ("a", "draining"), ("a", "updated")]
            assert registry.scheduler.member("a").slots == 5
            assert registry.why_out("a") == ""

    @virtual
    async def test_the_same_instance_keeps_its_circuits_and_a_new_one_is_probed_at_once(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            registry.board.record_evidence("a", [ECHO] * 5)
            await registry.ains.register(registration())
            assert registry.state("a") is CircuitState.OPEN
            await registry.ains.register(registration(instance_id="two"))
            assert registry.state("a") is CircuitState.HALF_OPEN
            registry.succeed(await registry.lease())

    @virtual
    async def test_who_waited_goes_to_the_new_process_and_not_to_the_dead_ones_address(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            registry.board.record_evidence("a", [ECHO] * 5)
            asked = registry.asking()
            await asyncio.sleep(0.5)
            elsewhere = msgspec.structs.replace(registration(instance_id="two"), endpoint="http://127.0.0.1:9002")
            await registry.ains.register(elsewhere)
            lease = await granted(asked)
            assert lease.agent.endpoint == "http://127.0.0.1:9002"
            registry.succeed(lease)
            assert registry.scheduler.member("a").successes == 1

    @virtual
    async def test_a_new_process_does_not_rest_for_what_the_old_one_promised(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            lease = await registry.lease()
            registry.complete(lease, Outcome.OVERLOADED, retry_after_s=200.0)
            assert registry.why_out("a") == "cooling down"
            await registry.ains.register(registration(instance_id="two"))
            assert registry.why_out("a") == ""

    @virtual
    async def test_removal_forgets_everything(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            registry.board.record_evidence("a", [ECHO] * 5)
            registry.ains.remove("a")
            assert registry.changes[-1] == ("a", "removed")
            assert registry.ains.search(ECHO) == []
            assert registry.ains.registered_at("a") is None
            assert len(registry.board) == 0
            for forgotten in (registry.ains.get, registry.ains.drain, registry.ains.remove):
                with pytest.raises(AgentNotFound):
                    forgotten("a")
            with pytest.raises(AgentNotFound):
                registry.ains.heartbeat("a", "one")
            await registry.ains.register(registration())
            assert registry.state("a") is CircuitState.CLOSED


class TestHeartbeats:
    @virtual
    async def test_who_is_heard_stays_in_use(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            for _ in range(100):
                await registry.pass_time(HEARTBEAT_EVERY_S)
                registry.ains.heartbeat("a", "one")
            assert registry.ains.liveness("a") is Liveness.HEARD
            assert registry.changes == [("a", "registered")]

    @virtual
    async def test_one_lease_missed_is_unheard_three_are_offline_a_day_is_gone(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            began_at = now()
            moments: dict[str, float] = {}
            while "removed" not in moments:
                await registry.pass_time(1.0 if now() - began_at < 60 else 600.0)
                moments.setdefault(registry.changes[-1][1], now() - began_at)
            assert moments["unheard"] == pytest.approx(15, abs=1)
            assert moments["offline"] == pytest.approx(45, abs=1)
            assert moments["removed"] == pytest.approx(86_400, abs=700)
            assert registry.ains.agents() == []

    @virtual
    async def test_watch_goes_on_while_removed_agents_cannot_be_forgotten_for_whatever_reason(self) -> None:
        async with Registry(registrations=Unforgetting()) as registry:
            await registry.ains.restore()
            watch = asyncio.create_task(registry.ains.keep_watch())
            await registry.ains.register(registration("gone"))
            await registry.ains.register(registration("silent"))
            registry.ains.remove("gone")
            await asyncio.sleep(LEASE_TTL_S + 2)
            assert registry.ains.liveness("silent") is Liveness.UNHEARD
            assert not watch.done()
            watch.cancel()
            await asyncio.wait([watch])

    @virtual
    async def test_the_unheard_are_a_last_resort_and_the_offline_are_out(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration("silent"))
            registry.ains.put(agent("steady", slots=9))
            await registry.pass_time(16)
            for _ in range(10):
                lease = await registry.lease()
                assert lease.agent.agent_id == "steady"
                registry.succeed(lease)
            registry.succeed(await registry.lease(task(agents=("silent",))))
            await registry.pass_time(30)
            assert registry.why_out("silent") == "offline"

    @virtual
    async def test_who_is_heard_again_is_used_again(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            await registry.pass_time(50)
            asked = registry.asking()
            await asyncio.sleep(1)
            assert not asked.done()
            registry.ains.heartbeat("a", "one")
            registry.succeed(await granted(asked))
            assert registry.changes[-1] == ("a", "heard")

    @virtual
    async def test_an_answer_to_a_task_is_as_good_as_a_heartbeat(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            await registry.pass_time(20)
            assert registry.ains.liveness("a") is Liveness.UNHEARD
            at = registry.clock.utcnow()
            registry.ains.notify(AttemptEnded("t", ECHO, "a", 1, Outcome.AGENT_FAULT, "", 1.0, at))
            assert registry.ains.liveness("a") is Liveness.UNHEARD
            registry.ains.notify(AttemptEnded("t", ECHO, "a", 1, Outcome.SUCCESS, "", 1.0, at))
            assert registry.ains.liveness("a") is Liveness.HEARD
            assert registry.changes[-1] == ("a", "heard")

    @virtual
    async def test_an_instance_whose_place_was_taken_is_told_so(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            await registry.ains.register(registration(instance_id="two"))
            with pytest.raises(AgentReplaced):
                registry.ains.heartbeat("a", "one")
            registry.ains.heartbeat("a", "two")

    @virtual
    async def test_a_crowd_that_falls_silent_at_once_is_put_aside_a_few_in_each_turn(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fell_silent = counted_in_turns(monkeypatch, Ains, "_fall_silent")
        async with Registry() as registry:
            for number in range(500):
                await registry.ains.register(registration(f"a{number}"))
            await registry.pass_time(LEASE_TTL_S + 2)
            assert {registry.ains.liveness(f"a{number}") for number in range(500)} == {Liveness.UNHEARD}
        assert fell_silent() == (500, SWEPT_AT_ONCE)

    @virtual
    async def test_who_promised_no_heartbeats_is_never_unheard(self) -> None:
        async with Registry() as registry:
            assert (await registry.ains.register(registration("static", lease=False))).lease is None
            registry.ains.put(agent("local"))
            await registry.pass_time(3 * 86_400, sweeping=False)
            await registry.ains.sweep()
            assert registry.why_out("static") == registry.why_out("local") == ""
            with pytest.raises(AgentNotFound):
                registry.ains.heartbeat("static", "one")

    @virtual
    async def test_the_lease_of_before_does_not_hold_for_who_took_the_name_without_one(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            registry.ains.put(agent("a"))
            await registry.pass_time(100)
            assert registry.ains.liveness("a") is Liveness.HEARD
            assert registry.why_out("a") == ""

    @virtual
    async def test_the_watch_looks_every_second_until_it_is_stopped(self) -> None:
        async with Registry() as registry:
            await registry.ains.register(registration())
            watch = asyncio.create_task(registry.ains.keep_watch())
            await asyncio.sleep(16.5)
            assert registry.changes[-1] == ("a", "unheard")
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


class TestLocalProfile:
    def test_handlers_name_capabilities_and_majors(self) -> None:
        profile = local_profile("a", {"image.label": print, "image.label@2": print}, 3, {"gpu": "yes"})
        assert profile.capabilities == (Capability("image.label"), Capability("image.label", version="2.0"))
        assert profile.max_concurrent_tasks == 3
        assert profile.labels == {"gpu": "yes"}

    @pytest.mark.parametrize("name", ["image.label@", "image.label@x", "image.label@-1", "image.label@1.0"])
    def test_what_is_no_such_name_is_refused_with_its_place(self, name: str) -> None:
        with pytest.raises(InvalidAgent, match="name@major"):
            local_profile("a", {name: print}, 1, None)
