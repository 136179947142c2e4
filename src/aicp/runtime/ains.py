"""AINS at work: who registers is described, leased and put to use; who falls silent is put aside."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from aicp import standstill
from aicp.errors import Conflict, Forbidden, InvalidAgent, SettingsError
from aicp.model.agent import DEFAULT_TENANT, AgentProfile, Registration
from aicp.model.event import AgentChanged, AttemptEnded, Event
from aicp.model.level import LEVEL
from aicp.model.outcome import Outcome
from aicp.model.views import LeaseTerms, Registered
from aicp.ports import Claim, Clock, Observer, Registrations
from aicp.registry.directory import Directory
from aicp.registry.leases import HEARTBEAT_EVERY_S, Leases, Liveness
from aicp.resilience.board import CircuitBoard
from aicp.runtime.profiles import Describer, remote_profile
from aicp.runtime.remembered import Remembered
from aicp.runtime.supervision import keep_doing
from aicp.runtime.turns import in_turns
from aicp.scheduling.task_scheduler import TaskScheduler

NOT_CHECKED_LOGGED_MAX = 8
SWEEP_EVERY_S = 1.0
SWEPT_AT_ONCE = 20
"""Leases that are looked at in one turn: an agent that fell silent costs up to a tenth of a millisecond."""
_log = logging.getLogger(__name__)


class Ains:
    """The registry's dealings with directory, leases, scheduler and circuits; one step each, all or nothing.

    Args:
        directory: Who exists.
        leases: Who was heard.
        scheduler: Who may be used.
        board: Learns of new instances.
        describer: Says where agents may live, and asks them what they are.
        clock: Time.
        observer: Told of every change.
        registrations: Remembers agents in their own process; None for nobody.

    Attributes:
        on_heartbeat: Told of each heartbeat as `(agent_id, instance_id)`, so that other replicas hear of it.
    """

    def __init__(
        self,
        directory: Directory,
        leases: Leases,
        scheduler: TaskScheduler,
        board: CircuitBoard,
        describer: Describer,
        clock: Clock,
        observer: Observer,
        registrations: Registrations | None = None,
    ) -> None:
        self._directory = directory
        self._leases = leases
        self._scheduler = scheduler
        self._board = board
        self._describer = describer
        self._clock = clock
        self._observer = observer
        self._remembered = Remembered(registrations, self.is_current)
        self._registered_at: dict[str, datetime] = {}
        self._to_ask: dict[str, AgentProfile] = {}
        self.on_heartbeat: Callable[[str, str], None] = lambda _agent_id, _instance_id: None

    async def register(
        self,
        registration: Registration,
        tenant: str = DEFAULT_TENANT,
        *,
        owner: str = "",
        claim: Claim | None = None,
    ) -> Registered:
        """Take in an agent that runs in its own process; what the registration leaves out the agent is asked for.

        It is remembered, so that a node that starts again need not wait until somebody registers it again.

        Args:
            registration: What is said of it.
            tenant: Whose tasks it serves.
            owner: The id of the API key that registers it; empty for none.
            claim: Asked with its profile and that of the agent it would replace, or None: gives the profile to use, or
                raises what is then raised here, and nothing was changed. It is asked again when another replica may
                have registered one of this id in the same moment: of two that may not have it both, one gets it.

        Raises:
            InvalidAgent: It cannot be used, or did not say what it is; nothing was changed.
            SettingsError: It has a secret, and there is no key to seal it with; an agent that was not here is not now.
            StorageError: It could not be recorded; it is used, and should register again.
        """
        profile = msgspec.structs.replace(await self.complete(registration, tenant), owner=owner)
        async for _ in in_turns(self._directory.compile_next(profile), 1):
            pass
        old = self._directory.find(profile.agent_id)
        if claim is not None:
            profile = claim(profile, old)
        with self._remembered.change_of(profile.agent_id):
            self.put(profile)
            if profile.lease:
                self._leases.grant(profile.agent_id, profile.instance_id)
            try:
                await self._remembered.save(profile, claim)
            except SettingsError:
                if old is None:
                    self._take_back(profile)
                raise
            except (Conflict, Forbidden):
                self._take_back(profile)
                raise
        not_checked = tuple(self._directory.not_checked(profile))
        return Registered(profile.agent_id, self.terms if profile.lease else None, not_checked)

    async def complete(self, registration: Registration, tenant: str = DEFAULT_TENANT) -> AgentProfile:
        """The agent as it would be registered, asked for what the registration leaves out; nothing is changed.

        Raises:
            InvalidAgent: It may not live where it says, or did not say what it is.
        """
        return await remote_profile(registration, tenant, self._describer)

    async def restore(self) -> None:
        """Take in again, as unheard, whom an earlier process remembered and nobody has put here since.

        Whoever registered before this is remembered from now on.

        Raises:
            SettingsError: A secret cannot be unsealed.
            StorageError: They could not be read, or those before not be recorded.
        """
        async for profile in in_turns(await self._remembered.load()):
            if profile.agent_id not in self._directory:
                self._restore(profile)
        await self._remembered.save_waiting()

    async def forget_removed(self) -> None:
        """Have those be forgotten for good who were removed, or are no longer to be remembered.

        Raises:
            StorageError: Some could not be forgotten; it is tried again every second.
        """
        await self._remembered.forget_removed()

    @property
    def terms(self) -> LeaseTerms:
        """What every lease promises."""
        return LeaseTerms(self._leases.ttl_s, HEARTBEAT_EVERY_S)

    def put(self, profile: AgentProfile) -> None:
        """Put an agent to use, in place of the one with its id; without a lease.

        Raises:
            InvalidAgent: It cannot be used; nothing was changed.
        """
        old = self._put(profile)
        self._remembered.let_go(profile.agent_id)
        self._tell(profile.agent_id, "registered" if old is None else "updated")
        for each in self._directory.not_checked(profile)[:NOT_CHECKED_LOGGED_MAX]:
            told = "agent %s: %s (at %s)"
            _log.warning(told, profile.agent_id, each.message, each.place, extra={"agent_id": profile.agent_id})

    def expect_news(self) -> None:
        """What other replicas changed is about to be read: what is changed here from now on may not be in it."""
        self._remembered.expect_news()

    def take_in(self, profile: AgentProfile) -> bool:
        """Another replica registered an agent: put it to use here too, unless this process has one of its own.

        Returns:
            False when it is being changed here: look again, then it is clear which is the later word.
        """
        agent_id = profile.agent_id
        if self._remembered.is_changing(agent_id):
            return False
        known = self._directory.find(agent_id)
        if known == profile or (known is not None and agent_id not in self._remembered):
            return True
        try:
            self._put(profile)
        except InvalidAgent as error:
            told = "agent %s, which another replica registered, cannot be used here: %s"
            _log.warning(told, agent_id, error, extra={"agent_id": agent_id})
            return True
        self._remembered.saved_elsewhere(agent_id)
        if profile.lease:
            self._leases.grant(agent_id, profile.instance_id)
        return True

    def take_out(self, agent_id: str) -> bool:
        """Another replica removed an agent: forget it here too; False as for `take_in`."""
        if self._remembered.is_changing(agent_id):
            return False
        if agent_id in self._remembered:
            self._remembered.forgotten_elsewhere(agent_id)
            self._remove(agent_id)
        elif agent_id not in self._directory:
            # Orders for its circuits may have waited for it.
            self._board.remove(agent_id)
        return True

    def heard_elsewhere(self, agent_id: str, instance_id: str) -> None:
        """An agent said to another replica that it lives."""
        if agent_id in self._directory and self._directory.get(agent_id).instance_id == instance_id:
            self.heard(agent_id)

    def heartbeat(self, agent_id: str, instance_id: str) -> LeaseTerms:
        """An agent says that it lives.

        Raises:
            AgentNotFound: It has no lease here; it should register again.
            AgentReplaced: Another instance registered under its id.
        """
        if self._leases.renew(agent_id, instance_id):
            self._came_back(agent_id)
        self.on_heartbeat(agent_id, instance_id)
        return self.terms

    def drain(self, agent_id: str) -> None:
        """Give an agent no more tasks, but keep it; registering again ends that.

        Raises:
            AgentNotFound: There is none.
        """
        self._scheduler.drain_agent(agent_id)
        self._tell(agent_id, "draining")

    def remove(self, agent_id: str) -> None:
        """Forget an agent; tasks it has go on.

        Raises:
            AgentNotFound: There is none.
        """
        tenant = self.tenant_of(agent_id)
        self._remove(agent_id)
        self._remembered.let_go(agent_id)
        self._observer.notify(AgentChanged(agent_id, "removed", self._clock.utcnow(), tenant))

    def get(self, agent_id: str) -> AgentProfile:
        """An agent as it registered.

        Raises:
            AgentNotFound: There is none.
        """
        return self._directory.get(agent_id)

    def tenant_of(self, agent_id: str) -> str | None:
        """Whose agent it is; None for one that serves every tenant, and for one that is not here."""
        profile = self._directory.find(agent_id)
        return None if profile is None or profile.shared else profile.tenant

    def registered_at(self, agent_id: str) -> datetime | None:
        """When it last registered, UTC."""
        return self._registered_at.get(agent_id)

    def liveness(self, agent_id: str) -> Liveness:
        """How sure we are that it is there."""
        return self._leases.liveness(agent_id)

    def agents(self) -> list[AgentProfile]:
        """Every agent."""
        return list(self._directory)

    def silent_s(self, agent_id: str) -> float | None:
        """Seconds since it was heard; None for one that sends no heartbeats."""
        return self._leases.silent_s(agent_id)

    def search(self, capability: str) -> list[AgentProfile]:
        """Everybody who offers `name` or `name@major`."""
        return self._directory.search(capability)

    def set_aside(self, profile: AgentProfile, capability: str, reason: str | None) -> None:
        """An agent turned out to be misconfigured, for a capability or as a whole; or, without a reason, forgiven."""
        agent_id, change = profile.agent_id, "restored" if reason is None else "set_aside"
        tenant = None if profile.shared else profile.tenant
        event = AgentChanged(agent_id, change, self._clock.utcnow(), tenant, capability, reason or "")
        if reason is not None:
            about = {"agent_id": agent_id, "change": change, "capability": capability, "reason": reason}
            _log.warning("agent %s is set aside: %s", agent_id, f"{capability} {reason}".strip(), extra=about)
        self._observer.notify(event)

    def notify(self, event: Event) -> None:
        """As an observer: an agent that answers is heard, whatever its heartbeats do."""
        if isinstance(event, AttemptEnded) and event.outcome is Outcome.SUCCESS:
            self.heard(event.agent_id)

    def heard(self, agent_id: str) -> None:
        """An agent showed life; one that is not here changes nothing."""
        if self._leases.heard(agent_id) and agent_id in self._directory:
            self._came_back(agent_id)

    def without_heartbeats(self) -> Sequence[AgentProfile]:
        """Every agent in its own process that sends no heartbeats, and is to be asked instead."""
        return list(self._to_ask.values())

    def is_current(self, profile: AgentProfile) -> bool:
        """True while an agent is here as this profile says, neither removed nor replaced."""
        return self._directory.find(profile.agent_id) is profile

    async def keep_watch(self) -> None:
        """Look every second who fell silent, and forget who was removed, for ever; neither waits for the other."""
        async with asyncio.TaskGroup() as watching:
            watching.create_task(keep_doing(self._sweep_soon, "who fell silent cannot be put aside"))
            watching.create_task(keep_doing(self._forget_soon, "removed agents cannot be forgotten"))

    async def sweep(self) -> None:
        """Put aside whoever fell silent, forget whoever was silent for a day; a few in each turn of the loop."""
        while self._leases.is_due:
            for change in self._leases.sweep(SWEPT_AT_ONCE):
                if change.liveness is None:
                    self.remove(change.agent_id)
                else:
                    self._fall_silent(change.agent_id, change.liveness)
            await asyncio.sleep(0)

    def _fall_silent(self, agent_id: str, liveness: Liveness) -> None:
        self._scheduler.set_liveness(agent_id, liveness)
        change = liveness.lower()
        self._tell(agent_id, change)
        _log.warning("agent %s is %s", agent_id, change, extra={"agent_id": agent_id, "change": change})

    async def _sweep_soon(self) -> None:
        await standstill.sleep(SWEEP_EVERY_S)
        await self.sweep()

    async def _forget_soon(self) -> None:
        await asyncio.sleep(SWEEP_EVERY_S)
        await self.forget_removed()

    def _put(self, profile: AgentProfile) -> AgentProfile | None:
        """Put an agent to use; returns whom it replaces."""
        old = self._directory.put(profile)
        self._leases.end(profile.agent_id)
        self._registered_at[profile.agent_id] = self._clock.utcnow()
        self._use(profile)
        if old is not None and old.instance_id != profile.instance_id:
            # After the scheduler knows its address: a circuit that lets probes in serves whoever waits at once.
            self._board.new_instance(profile.agent_id)
        self._scheduler.set_liveness(profile.agent_id, Liveness.HEARD)
        return old

    def _remove(self, agent_id: str) -> None:
        self._directory.remove(agent_id)
        self._leases.end(agent_id)
        self._scheduler.remove_agent(agent_id)
        self._board.remove(agent_id)
        self._registered_at.pop(agent_id, None)
        self._to_ask.pop(agent_id, None)

    def _take_back(self, profile: AgentProfile) -> None:
        """It was put to use and not recorded; what is on record is somebody else's, and comes with the next news."""
        agent_id, tenant = profile.agent_id, self.tenant_of(profile.agent_id)
        if self.is_current(profile):
            self._remembered.forgotten_elsewhere(agent_id)
            self._remove(agent_id)
            self._observer.notify(AgentChanged(agent_id, "removed", self._clock.utcnow(), tenant))

    def _restore(self, profile: AgentProfile) -> None:
        try:
            self._directory.put(profile)
        except InvalidAgent as error:
            about = {"agent_id": profile.agent_id}
            _log.warning("agent %s cannot be used any more: %s", profile.agent_id, error, extra=about)
            return
        self._use(profile)
        self._leases.grant(profile.agent_id, profile.instance_id, Liveness.UNHEARD, ends=profile.lease)
        self._scheduler.set_liveness(profile.agent_id, Liveness.UNHEARD)
        self._tell(profile.agent_id, "unheard")

    def _use(self, profile: AgentProfile) -> None:
        self._scheduler.add_agent(profile)
        if profile.needs > LEVEL:
            told = "agent listed, not used: agent=%s needs_level=%d level=%d"
            _log.warning(told, profile.agent_id, profile.needs, LEVEL, extra={"agent_id": profile.agent_id})
            self._scheduler.drain_agent(profile.agent_id)
        self._to_ask.pop(profile.agent_id, None)
        if profile.endpoint is not None and not profile.lease:
            self._to_ask[profile.agent_id] = profile

    def _came_back(self, agent_id: str) -> None:
        self._scheduler.set_liveness(agent_id, Liveness.HEARD)
        self._tell(agent_id, "heard")

    def _tell(self, agent_id: str, change: str) -> None:
        self._observer.notify(AgentChanged(agent_id, change, self._clock.utcnow(), self.tenant_of(agent_id)))
