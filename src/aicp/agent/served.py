"""An agent while it serves: opened, drained, closed."""

import asyncio
import errno
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from aiohttp import web

from aicp import standstill
from aicp.agent.desk import Desk
from aicp.agent.execution import Executions
from aicp.agent.memory import Memory
from aicp.agent.offering import Offering
from aicp.agent.options import AgentOptions, checked
from aicp.agent.registration import Registrar, Registration
from aicp.agent.server import BACKLOG, AgentServer
from aicp.agent.slots import Slots
from aicp.errors import SettingsError
from aicp.forks import HomeProcess, closed_in_child
from aicp.model.agent import AgentAuth
from aicp.model.document_desk import DocumentDesk

UNWINDING_S_MAX = 1.0


class ServedAgent:
    """An agent behind its port, made by `Agent.serving`.

    Attributes:
        agent_id: Who it is.
        instance_id: New with every start.
    """

    def __init__(
        self, offering: Offering, options: AgentOptions, on_replaced: Callable[[], None] | None = None
    ) -> None:
        self.agent_id = offering.agent_id
        self.instance_id = uuid.uuid4().hex
        self._offering = offering
        self._options = checked(options)
        self._on_replaced = on_replaced
        slots, memory = Slots(offering.max_concurrent_tasks), Memory()
        self._threads = _make_threads(offering)
        self._documents = DocumentDesk()
        self._executions = Executions(slots, memory, self._threads, self._documents)
        self._desk = Desk(offering, slots, memory, self._executions, self._documents)
        self._endpoint = ""
        self._registrar: Registrar | None = None
        self._closing = AsyncExitStack()
        self._home = HomeProcess("This agent")

    @property
    def endpoint(self) -> str:
        """The URL AICP calls: `endpoint=` as given, else the bound host and port."""
        return self._endpoint

    @property
    def capability_names(self) -> str:
        """What it serves, for a person."""
        return self._offering.capability_names

    @property
    def in_flight(self) -> int:
        """How many executions have not ended."""
        return len(self._executions)

    async def registered(self, bound_s: float) -> None:
        """Wait until the AICP server knows this agent.

        Raises:
            TimeoutError: It does not after `bound_s` seconds; the agent goes on trying.
        """
        if self._registrar is not None:
            async with standstill.timeout(bound_s):
                await self._registrar.registered.wait()

    async def start(self) -> None:
        """Bind, serve, and begin to register.

        Raises:
            SettingsError: The address cannot be bound.
            ForkedProcess: This process was forked from the one that made the agent.
        """
        self._home.require()
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise

    async def drain(self, bound_s: float | None = None) -> int:
        """Stop as a good neighbour: say so, start nothing, let calls end, leave the list; the number cut off.

        Args:
            bound_s: How long calls in flight may take, seconds; None for the option `drain_s`.
        """
        if self._home.is_left:
            return 0
        self._desk.draining = True
        if self._registrar is not None:
            await self._registrar.announce_leaving()
        await self._executions.idle(self._options.drain_s if bound_s is None else bound_s)
        cut_off = len(self._executions)
        await self._executions.cut_off(UNWINDING_S_MAX)
        if self._registrar is not None:
            await self._registrar.leave()
        return cut_off

    async def close(self) -> None:
        """Cancel what is in flight and give everything back, within about three seconds; twice does nothing.

        In a process that was forked meanwhile it does nothing: what the parent has open is closed there already.
        """
        if self._home.is_left:
            return
        self._desk.draining = True
        try:
            await self._executions.cut_off(UNWINDING_S_MAX)
        finally:
            await self._closing.aclose()

    async def _open(self) -> None:
        self._closing.enter_context(standstill.watching())
        self._closing.callback(self._documents.close)
        if self._threads is not None:
            self._closing.callback(self._threads.shutdown, wait=False, cancel_futures=True)
        description = self._offering.describe(self.instance_id)
        options = self._options
        runner = AgentServer(self._desk, description, options.token, options.endpoint).make_runner()
        self._closing.push_async_callback(runner.cleanup)
        await runner.setup()
        if runner.server is not None:
            closed_in_child(runner.server, _descriptors)
        await _bind(runner, options)
        self._endpoint = options.endpoint or _url_of(runner.addresses[0])
        if options.register is not None:
            self._register_with(options.register)

    def _register_with(self, server_url: str) -> None:
        self._registrar = registrar = Registrar(server_url, self._registration(), self._options.api_key, self._give_way)
        self._closing.push_async_callback(registrar.close)
        heartbeats = asyncio.get_running_loop().create_task(registrar.run())  # cancelled and awaited by close()
        self._closing.push_async_callback(_cancel, heartbeats)

    def _registration(self) -> Registration:
        offering, token = self._offering, self._options.token
        return Registration(
            endpoint=self._endpoint,
            agent_id=offering.agent_id,
            instance_id=self.instance_id,
            capabilities=tuple(offer.capability for offer in offering.offers.values()),
            max_concurrent_tasks=offering.max_concurrent_tasks,
            name=offering.name,
            labels=offering.labels,
            auth=None if token is None else AgentAuth(token),
        )

    def _give_way(self) -> None:
        self._desk.draining = True
        if self._on_replaced is not None:
            self._on_replaced()


class _Site(web.TCPSite):
    """A bound address that forked children do not keep."""

    async def start(self) -> None:
        await super().start()
        closed_in_child(self, _Site.descriptors)

    def descriptors(self) -> Iterator[int]:
        """The sockets that listen."""
        return (bound.fileno() for bound in getattr(self._server, "sockets", ()))


def _descriptors(server: web.Server) -> Iterator[int]:
    """The sockets of the connections that callers have made."""
    for connection in list(server.connections):
        if connection.transport is not None:
            yield connection.transport.get_extra_info("socket").fileno()


async def _bind(runner: web.ServerRunner, options: AgentOptions) -> None:
    try:
        await _Site(runner, options.host, options.port, backlog=BACKLOG).start()
    except OSError as error:
        raise SettingsError(_why_not_bound(error, options)) from error


def _why_not_bound(error: OSError, options: AgentOptions) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {options.port} on {options.host} is in use: stop what uses it, or choose another port."
    if error.errno == errno.EACCES:
        return f"Port {options.port} on {options.host} is not allowed to this user: choose one above 1023."
    return f"{options.host}:{options.port} cannot be bound ({error.strerror or error}): check the host."


def _url_of(address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


def _make_threads(offering: Offering) -> ThreadPoolExecutor | None:
    if not offering.has_plain_functions:
        return None
    return ThreadPoolExecutor(offering.max_concurrent_tasks, thread_name_prefix=offering.agent_id)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
