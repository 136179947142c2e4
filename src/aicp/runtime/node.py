"""The node: builds every part, hands them to one another, starts them, and stops them in order."""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aicp import standstill
from aicp.coordination.progress import Progress
from aicp.coordination.retention import DEFAULT_RETENTION_S
from aicp.coordination.task_coordinator import TaskCoordinator
from aicp.errors import AicpError, InvalidAgent, RecordDamaged
from aicp.forks import HomeProcess
from aicp.model.agent import DEFAULT_TENANT, AgentAuth, AgentProfile, Registration
from aicp.model.document_desk import DocumentDesk
from aicp.model.endpoint import AddressPolicy
from aicp.model.event import CapabilityChanged, CircuitChanged, JournalCommitted, RowDamaged
from aicp.model.live import LiveEvent
from aicp.model.notice import Order
from aicp.model.views import FleetHealth
from aicp.ports import Clock, Observer, SystemClock, Transport
from aicp.private_files import warn_of_exposures
from aicp.registry.directory import Directory
from aicp.registry.leases import Leases
from aicp.registry.schemas import Schemas
from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitState, Transition
from aicp.routing.failover_router import FailoverRouter
from aicp.routing.health import agents_health, fleet_of, merged, written_health
from aicp.routing.prober import Prober
from aicp.runtime.ains import Ains
from aicp.runtime.database_url import DatabaseUrl
from aicp.runtime.health_watch import HealthWatch
from aicp.runtime.observers import Observers
from aicp.runtime.orders import Orders
from aicp.runtime.outbox import Outbox
from aicp.runtime.peers import Listener, Peers
from aicp.runtime.profiles import local_profile
from aicp.runtime.settings import data_dir, secret_key
from aicp.runtime.sharing import STOP_S_MAX, Sharing
from aicp.runtime.stores import make_stores
from aicp.scheduling.fleet import Pool
from aicp.scheduling.slices import at_once, in_slices
from aicp.scheduling.task_scheduler import TaskScheduler
from aicp.transports.by_endpoint import RemoteTransport, TransportByEndpoint, http_when_needed
from aicp.transports.local import LocalTransport

QUIET_ASKED_EVERY_S = 0.01
_log = logging.getLogger(__name__)


class Node:
    """Everything AICP does, in one process.

        async with Node() as node:
            await node.add_agent("eyes-1", {"image.label": label})
            result = await node.router.route_task(Task("image.label", {"url": url}))

    Without a database it remembers chains in memory: what it accepted ends with the process. With one, whatever
    happens to the process, what it accepted goes on when a node is started on that database again, and agents in their
    own process are known again. Callables of this process are not: who starts the node adds them.

    Args:
        database: `sqlite:///relative.db`, `sqlite:////absolute/path.db`, `postgresql://user@host/database`, or what was
            read from such a URL; None for memory.
        data_dir: Where the key to the secrets of agents lies; the user's data directory when left out.
        retention_s: How long a chain is remembered after its end, seconds.
        policy: Which addresses agents may have; loopback and public ones by default.
        breaker: When circuits open and close.
        clock: Time.
        seed: For every draw of chance; None for a fresh one.
        make_remote: Makes the transport to agents in their own process.

    Attributes:
        ains: The registry of agents.
        board: The circuits.
        scheduler: Who and when.
        router: What happens when it goes wrong.
        coordinator: What may run.
        progress: Compares the wall clock with the monotonic clock, for whatever is deleted by age.
        documents: Where large documents are worked on.
        stores: Where it keeps what it must not forget.

    Raises:
        SettingsError: The database is none that AICP can use.
    """

    def __init__(
        self,
        *,
        database: str | DatabaseUrl | None = None,
        data_dir: Path | None = None,
        retention_s: float = DEFAULT_RETENTION_S,
        policy: AddressPolicy | None = None,
        breaker: BreakerPolicy | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
        make_remote: Callable[[], RemoteTransport] | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._observers = Observers()
        self.documents = DocumentDesk()
        self.stores = make_stores(
            database, self._clock, partial(_secret_key, data_dir), self._committed, self._found_damaged, self.documents
        )
        rng = random.Random(seed)
        monotonic = self._clock.monotonic
        self._local = LocalTransport(self.documents)
        remote = make_remote or http_when_needed(policy or AddressPolicy(loopback=True), self.documents)
        self._transport = TransportByEndpoint(self._local, remote)
        schemas = Schemas()
        self.board = CircuitBoard(
            breaker or BreakerPolicy(), clock=monotonic, uniform=rng.uniform, gated=True, listener=self._circuit_changed
        )
        self.scheduler = TaskScheduler(self.board, clock=self._clock, rng=rng)
        self.ains = Ains(
            Directory(schemas), Leases(clock=monotonic), self.scheduler, self.board, self._transport, self._clock,
            self._observers, self.stores.registrations,
        )  # fmt: skip
        self.router = FailoverRouter(
            self.scheduler, self._transport, self.board, schemas=schemas, clock=self._clock, rng=rng,
            observer=self._observers,
        )  # fmt: skip
        self._prober = Prober(self._transport, self.board, self.scheduler)
        self._health_watch = HealthWatch(self.ains, self._transport, self.board, self.scheduler)
        self.progress = Progress(self._clock, self.stores.clock_record)
        self.coordinator = TaskCoordinator(
            self.router, self.stores.journal, clock=self._clock, rng=rng if seed is not None else None,
            observer=self._observers, retention_s=retention_s, replicas=self.stores.replicas, progress=self.progress,
        )  # fmt: skip
        self._orders = Orders(self._obey, self.stores.orders)
        self._peers = Peers(self.ains, self.board, self.scheduler, self._orders)
        self._outbox = Outbox(self.board, self.scheduler)
        self._sharing = self._make_sharing()
        self._running = AsyncExitStack()
        self._has_started = self._is_draining = False
        self._home = HomeProcess("This node")
        self._connect()

    @property
    def is_ready(self) -> bool:
        """True from the end of the start to the begin of the stop, while its database answers and is not damaged."""
        return not self.why_unready

    @property
    def why_unready(self) -> tuple[str, ...]:
        """Each part that keeps it from accepting work, in words; empty while it is ready."""
        parts = {
            "the journal is not open": not self._has_started,
            "the database does not answer": self.has_lost_database,
            "the server is stopping": self._is_draining,
            f"the database is damaged, keep the file and restore a backup: {self.damage}": bool(self.damage),
        }
        return tuple(part for part, is_in_the_way in parts.items() if is_in_the_way)

    @property
    def damage(self) -> str:
        """What was found damaged in the file of the record; empty while nothing was. What can be read is served."""
        return "" if self.stores.file is None else self.stores.file.problem

    @property
    def is_draining(self) -> bool:
        """True once it starts no more attempts, since it will be stopped."""
        return self._is_draining

    @property
    def has_lost_database(self) -> bool:
        """True while a shared database takes no writes, and so nothing can be accepted; it ends by itself."""
        replicas = self.stores.replicas
        return self._has_started and replicas is not None and not (replicas.is_sure and replicas.can_record)

    async def __aenter__(self) -> Self:
        """Start: open the database, take in again the agents it knows, and go on with what is unfinished.

        Raises:
            SettingsError: The database cannot be used: a file in use by another process for 10 s, unwritable, of a
                newer version, or not AICP's; no such database on a server, or no rights; or a secret of an agent cannot
                be unsealed.
            StorageError: The disk failed, or the database's server did not answer for 10 s.
            ForkedProcess: This process was forked from the one that made the node.
        """
        self._home.require()
        async with AsyncExitStack() as starting:
            starting.enter_context(standstill.watching())
            starting.callback(self._set_stopped)
            starting.push_async_callback(self.stores.journal.close)
            starting.callback(self.documents.close)
            starting.callback(self.router.close)
            await self.stores.journal.open()
            warn_of_exposures(_log, self.stores.private_files)
            if self._sharing is not None:
                await self._sharing.prepare()
            await self.ains.restore()
            await self._orders.restore()
            starting.callback(self.scheduler.close)
            starting.push_async_callback(self._transport.close)
            starting.push_async_callback(self._prober.close)
            watch = asyncio.create_task(self.ains.keep_watch(), name="watch over leases")
            starting.push_async_callback(_stopped, watch)
            health = asyncio.create_task(self._health_watch.keep_on(), name="watch over health")
            starting.push_async_callback(_stopped, health)
            await starting.enter_async_context(self.coordinator)
            if self._sharing is not None:
                self._sharing.begin()
                starting.push_async_callback(self._sharing.end)
            if self.stores.orders is not None:
                orders = asyncio.create_task(self._orders.keep_telling(), name="orders")
                starting.push_async_callback(_stopped, orders)
            starting.push_async_callback(self._record_rest)
            self._running = starting.pop_all()
        self._has_started = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: chains where they are, then probes, then connections, then the database.

        In a process that was forked meanwhile it does nothing: what the parent has open is closed there already.
        """
        if self._home.is_left:
            return
        self._set_stopped()
        await self._running.aclose()

    async def drain(self, within_s: float) -> bool:
        """Before a stop: start no more attempts, and wait until those under way have ended and are on record.

        There is no way back. What has not ended goes on where the journal is opened next, or at another replica.

        Args:
            within_s: Wait at most so long, seconds.

        Returns:
            True when nothing is under way any more.
        """
        self._home.require()
        self._is_draining = True
        self.router.start_no_more()
        try:
            async with asyncio.timeout(within_s):
                while self._is_busy():  # noqa: ASYNC110 - two rooms must be quiet at once, and neither rings
                    await asyncio.sleep(QUIET_ASKED_EVERY_S)
        except TimeoutError:
            return False
        return True

    async def add_agent(
        self,
        agent_id: str | None = None,
        handlers: Mapping[str, Callable[..., Any]] | None = None,
        *,
        endpoint: str | None = None,
        max_concurrent_tasks: int | None = None,
        labels: dict[str, str] | None = None,
        auth: AgentAuth | None = None,
    ) -> AgentProfile:
        """Add an agent: callables of this process by capability, or the endpoint of one in its own.

        Args:
            agent_id: Under which it is known; an agent with an endpoint says so itself when left out.
            handlers: For each `name` or `name@major` an async or plain function `params -> result`; results are JSON.
            endpoint: Base URL of an agent in its own process; what is left out it is asked for.
            max_concurrent_tasks: Its slots; 1 for callables when left out.
            labels: Free key-value pairs that tasks may ask for.
            auth: How AICP proves itself to an agent with an endpoint.

        Raises:
            InvalidAgent: It cannot be used, or did not say what it is; nothing was changed.
            StorageError: It has an endpoint and could not be recorded; it is used, and should be added again.
        """
        self._home.require()
        if (endpoint is None) == (handlers is None):
            raise InvalidAgent("give either handlers, for functions of this process, or an endpoint")
        if endpoint is not None:
            registration = Registration(
                endpoint, agent_id, auth=auth, max_concurrent_tasks=max_concurrent_tasks, labels=labels or {},
                lease=False,
            )  # fmt: skip
            registered = await self.ains.register(registration)
            return self.ains.get(registered.agent_id)
        slots = 1 if max_concurrent_tasks is None else max_concurrent_tasks
        profile = local_profile(agent_id or "", handlers or {}, slots, labels)
        self.ains.put(profile)
        self._local.add(profile.agent_id, handlers or {})
        return profile

    def drain_agent(self, agent_id: str) -> None:
        """Give an agent no more tasks, but keep it.

        Raises:
            AgentNotFound: There is none.
        """
        self._order(agent_id, Order.DRAIN)

    def remove_agent(self, agent_id: str) -> None:
        """Forget an agent; tasks it has go on.

        Raises:
            AgentNotFound: There is none.
        """
        self._home.require()
        self.ains.remove(agent_id)
        self._local.remove(agent_id)

    def reset_agent(self, agent_id: str) -> None:
        """Close its circuits, forget that it was set aside, and use it again at once.

        Raises:
            AgentNotFound: There is none.
        """
        self._order(agent_id, Order.RESET)

    def open_agent(self, agent_id: str) -> None:
        """Admit nobody to it until it is reset.

        Raises:
            AgentNotFound: There is none.
        """
        self._order(agent_id, Order.OPEN)

    def disable_agent(self, agent_id: str) -> None:
        """Admit everybody to it, whatever its failures, until it is reset.

        Raises:
            AgentNotFound: There is none.
        """
        self._order(agent_id, Order.DISABLE)

    async def tell_replicas(self) -> None:
        """Return when what was ordered and removed here is on record.

        So every replica does it within a second, and whoever starts later does it too. Without this it is put on record
        a moment later.

        Raises:
            StorageError: It cannot be recorded now; it is tried again every second.
        """
        self._home.require()
        await self.ains.forget_removed()
        await self._orders.tell()

    def health(self, tenant: str | None = None) -> FleetHealth:
        """The fleet's health, as all replicas see it together; linear in agents, capabilities and replicas.

        Args:
            tenant: Only agents that serve it; None for all.
        """
        agents = merged(agents_health(self.scheduler, self.board, tenant), self._peers.health)
        return at_once(fleet_of(agents, self.scheduler.capabilities_out(tenant)))

    async def write_health(self, tenant: str | None = None) -> list[bytes]:
        """The JSON of `health`, in pieces and in slices: other work of the loop goes on meanwhile."""
        agents = merged(agents_health(self.scheduler, self.board, tenant), self._peers.health)
        return await in_slices(written_health(agents, self.scheduler.capabilities_out(tenant)))

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of every event of this process from now on; returns what ends that."""
        return self._observers.add(observer)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Let `listener` hear from now on what happens at other replicas; returns what ends that."""
        return self._peers.listen(listener)

    def relay(self, event: LiveEvent, tenant: str | None) -> None:
        """Let other replicas hear of something that was told here."""
        self._outbox.relay(event, tenant)

    @property
    def transport(self) -> Transport:
        """Carries calls to agents."""
        return self._transport

    def _is_busy(self) -> bool:
        return any(True for _ in self.scheduler.leases()) or self.coordinator.is_recording

    def _connect(self) -> None:
        """Let the parts hear of one another."""
        self._observers.add(self.ains)
        self._observers.add(self._orders)
        self.scheduler.on_probe_due = self._prober.probe_soon
        self.scheduler.on_outage = self._pool_changed
        self.scheduler.on_set_aside = self.ains.set_aside
        if self._sharing is not None:
            self._observers.add(self._outbox)
            self.ains.on_heartbeat = self._outbox.heard

    def _make_sharing(self) -> Sharing | None:
        if self.stores.bulletin is None or self.stores.replicas is None:
            return None
        return Sharing(self.stores.bulletin, self.stores.replicas, self._outbox, self._peers)

    def _order(self, agent_id: str, order: Order) -> None:
        self._home.require()
        self.ains.get(agent_id)
        self._orders.give(agent_id, order)

    def _obey(self, agent_id: str, order: Order) -> None:
        """Do what was ordered, here; what is about circuits holds also for an agent that is yet to come."""
        unused = self._unused_circuits(agent_id)
        match order:
            case Order.OPEN:
                self.board.force_open(agent_id)
            case Order.DISABLE:
                self.board.disable(agent_id)
            case Order.RESET:
                self.board.reset(agent_id)
                self.scheduler.restore_agent(agent_id)
            case Order.DRAIN:
                self.ains.drain(agent_id)
        self.scheduler.refresh(agent_id)
        for name, before in unused.items():
            state = self.board.get_state(agent_id, name)
            if state is not before:
                self._tell_circuit(agent_id, name, state, self.board.ready_in_s(agent_id, name))

    def _unused_circuits(self, agent_id: str) -> dict[str, CircuitState]:
        """States of circuits that no call has made yet: the board tells nothing of them."""
        made = self.board.get_metrics(agent_id)
        member = self.scheduler.find_member(agent_id) or ()
        return {seat.key: self.board.get_state(agent_id, seat.key) for seat in member if seat.key not in made}

    async def _record_rest(self) -> None:
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self.tell_replicas()
        except (AicpError, TimeoutError) as error:
            _log.warning("the last that was ordered or removed is not on record, and is as before: %s", error)

    def _set_stopped(self) -> None:
        self._has_started = False

    def _pool_changed(self, pool: Pool, is_out: bool) -> None:  # noqa: FBT001 - a listener's signature
        what = pool.key if pool.tenant in {None, DEFAULT_TENANT} else f"{pool.key} of tenant {pool.tenant}"
        if is_out:
            _log.warning("capability %s is out: every agent that offers it is", what)
        else:
            _log.warning("capability %s is back", what)
        self._prober.pool_changed(pool, is_out=is_out)
        self._observers.notify(CapabilityChanged(pool.key, is_out, self._clock.utcnow(), pool.tenant))

    def _circuit_changed(self, agent_id: str, transition: Transition) -> None:
        self.scheduler.refresh(agent_id)
        if transition.new is CircuitState.OPEN:
            self._prober.circuit_opened(agent_id, transition.name)
        self._tell_circuit(agent_id, transition.name, transition.new, transition.retry_after_s)

    def _tell_circuit(self, agent_id: str, name: str, state: CircuitState, retry_after_s: float) -> None:
        tenant = self.ains.tenant_of(agent_id)
        self._observers.notify(CircuitChanged(agent_id, name, state, retry_after_s, self._clock.utcnow(), tenant))

    def _found_damaged(self, damage: RecordDamaged) -> None:
        self._observers.notify(RowDamaged(damage.table, damage.row, damage.why))

    def _committed(self, elapsed_s: float, writes: int) -> None:
        self._observers.notify(JournalCommitted(elapsed_s, writes))


def _secret_key(directory: Path | None) -> bytes:
    return secret_key(directory or data_dir())


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
