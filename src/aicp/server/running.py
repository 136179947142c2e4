"""Runs the HTTP API: inside another program for as long as a block lasts, or as the process that `aicp serve` is."""

import asyncio
import contextlib
import errno
import importlib
import logging
import math
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn

from aicp import standstill
from aicp.errors import AicpError, SettingsError
from aicp.forks import close_socket_in_child, closed_in_child, signals_reset_in_child
from aicp.model.access import dashboard_link
from aicp.model.collector import quieten_collector
from aicp.model.endpoint import is_loopback_host
from aicp.private_files import warn_of_exposures
from aicp.runtime.node import Node
from aicp.runtime.onlookers import Onlookers, set_up_logs
from aicp.runtime.secrets_on_disk import files_of_server
from aicp.runtime.settings import ADMIN_KEY_FILE, LogFormat, Settings, Tls, find_or_make_admin_key
from aicp.runtime.static_agents import static_agents
from aicp.server.access import Access, access_with
from aicp.server.app import entry_guard, make_app
from aicp.server.auth import Keys, loopback_hosts
from aicp.server.connections import Limits, connections_within, limits_of_process, look_at, widen_open_files
from aicp.server.door import ASGIApp, Door
from aicp.server.express import Express
from aicp.server.routes.parameters import NodeAndWaits
from aicp.server.sessions import Sessions
from aicp.server.waits import Waits

GRACE_S = 5
STOP_S_MAX = GRACE_S + 5.0
SILENT_DRAIN_S = 0.5
BACKLOG = 2048
LOOKED_LATE_S = 0.15
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger("aicp.server")


class RunningServer:
    """A server that answers.

    Attributes:
        url: Its base URL, with the real port.
        admin_key: The key that opens everything.
        keys: The others: to make some, and to revoke them.
    """

    def __init__(self, url: str, admin_key: str, keys: Keys) -> None:
        self.url = url
        self.admin_key = admin_key
        self.keys = keys


@contextlib.asynccontextmanager
async def running_server(settings: Settings, node: Node, limits: Limits | None = None) -> AsyncIterator[RunningServer]:
    """Serve a running node until the block ends; then finish requests for at most 5 s and close.

    Listens to no signal. When it ends, requests that wait with `wait_s` are answered at once, and live events end.

    Args:
        settings: Where it listens.
        node: Does the work.
        limits: What a connection may take; None for what this process can bear.

    Raises:
        SettingsError: The address cannot be bound, or the admin key cannot be had.
    """
    admin_key = find_or_make_admin_key(settings.data_dir)
    async with access_with(admin_key, node, settings.audit_max) as access:
        bound = _bind(settings.host, settings.port)
        with contextlib.closing(bound):
            async with _serving(settings, node, limits or limits_of_process(), access, bound):
                yield RunningServer(_url(bound, settings.tls), admin_key, access.keys)


@contextlib.asynccontextmanager
async def _serving(
    settings: Settings, node: Node, limits: Limits, access: Access, bound: socket.socket
) -> AsyncIterator[None]:
    waits = Waits()
    onlookers = Onlookers(node, log_events=settings.log_format is LogFormat.JSON)
    hosts = loopback_hosts(settings.host) if _is_private(settings) else None
    scheme = "https" if settings.tls or settings.behind_tls_proxy else "http"
    app = make_app(
        node, access.keys, hosts=hosts, scheme=scheme, waits=waits, onlookers=onlookers, auditing=access.auditing
    )
    express = Express(app, entry_guard(node, access.keys, hosts=hosts, scheme=scheme), NodeAndWaits(node, waits))
    server = _Server(_config(Door(express, access.auditing), limits, settings.tls))
    stop_observing, stop_listening = node.observe(waits), node.listen(waits)
    onlookers.begin()
    standstill.standstills_of(asyncio.get_running_loop()).begin_again()
    serving = asyncio.create_task(server.serve(sockets=[bound]), name="http server")
    try:
        await _until_started(server, serving)
        yield
    finally:
        waits.close()
        onlookers.end()
        server.should_exit = True
        await _ended(serving)
        stop_observing()
        stop_listening()


def serve_forever(settings: Settings) -> None:
    """Run a node and its server until SIGTERM or SIGINT, then stop both; what `aicp serve` does.

    One line on stderr says where it listens, where the admin key is, and where it remembers what it accepted. Somebody
    at a terminal of this machine is told a link to the dashboard, too, which is good once, for 60 s. A signal
    makes it unready at once: it takes no more work, starts no more attempts, and gives those under way the drain time
    of its settings to end. A second signal does not wait for them.

    Raises:
        SettingsError: The database cannot be used, the address cannot be bound, or a key cannot be had.
        StorageError: The disk failed at the start.
    """
    set_up_logs(settings.log_format)
    widen_open_files()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve_until_signal(settings))


async def _serve_until_signal(settings: Settings) -> None:
    asked, hurried = asyncio.Event(), asyncio.Event()
    say = _log.info if settings.log_format is LogFormat.JSON else _say

    def signalled() -> None:
        (hurried if asked.is_set() else asked).set()

    with _signals_call(signalled):
        async with (
            _node(settings) as node,
            static_agents(settings.agents_file, node.ains, say),
            running_server(settings, node) as server,
        ):
            quieten_collector()
            warn_of_exposures(_log, files_of_server(settings))
            key = settings.data_dir / ADMIN_KEY_FILE
            say(f"AICP serves {server.url}; the admin key is in {key}; {_told_of_journal(node)}")
            if settings.log_format is LogFormat.TEXT and sys.stderr.isatty() and _is_private(settings):
                say(await _told_of_dashboard(server))
            await asked.wait()
            await _drain(node, settings.drain_s, hurried, say)
            if unfinished := node.coordinator.unfinished:
                durable = node.stores.journal.durable
                say(f"Stopping; {unfinished} unfinished tasks {'go on at the next start' if durable else 'are lost'}.")


async def _drain(node: Node, within_s: float, hurried: asyncio.Event, say: Callable[[str], None]) -> None:
    """Let what is under way end, unless somebody is in a hurry."""
    draining = asyncio.create_task(node.drain(within_s))
    hurrying = asyncio.create_task(hurried.wait())
    done, _ = await asyncio.wait((draining, hurrying), timeout=SILENT_DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        say(f"Stopping: what is under way has {within_s:g} s to end; a second signal does not wait for it.")
    try:
        await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (draining, hurrying):
            task.cancel()
        await asyncio.wait((draining, hurrying))


def _node(settings: Settings) -> Node:
    return Node(
        database=settings.database,
        data_dir=settings.data_dir,
        retention_s=settings.retention_s,
        policy=settings.policy,
    )


def _is_private(settings: Settings) -> bool:
    """True when only programs of this machine reach it."""
    return is_loopback_host(settings.host) and not settings.behind_tls_proxy


async def _told_of_dashboard(server: RunningServer) -> str:
    """How to open it. The code is for somebody at a terminal: what else reads this would keep it."""
    code, admin = "", server.keys.find(server.admin_key)
    if admin is not None:
        # Where it cannot be recorded, the page asks for a key.
        with contextlib.suppress(AicpError):
            code = (await Sessions(server.keys).make_code(admin)).code
    link = dashboard_link(server.url, code)
    return f"Dashboard: {link} (signs in once, within 60 s; `aicp dashboard` makes another link)"


def _told_of_journal(node: Node) -> str:
    if node.stores.journal.durable:
        return f"what it accepts is kept in {node.stores.place}."
    return "the journal is in memory, so not durable: what is unfinished when this process ends is lost."


@contextlib.contextmanager
def _signals_call(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        with signals_reset_in_child(_SIGNALS):
            yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """uvicorn's server: signals are its owner's business, it says when it has started, and looks at its connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()
        closed_in_child(self, _descriptors)
        self._looked_at = math.inf

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        standstill.standstills_of(asyncio.get_running_loop()).begin_again()
        self.has_started.set()

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() - self._looked_at > LOOKED_LATE_S:
            await standstill.read_first()
        self._looked_at = now = time.monotonic()
        look_at(self.server_state.connections, now)
        return await super().on_tick(counter)


def _descriptors(server: _Server) -> Iterator[int]:
    """The sockets of the connections that clients have made."""
    for connection in list(server.server_state.connections):
        opened = connection.transport.get_extra_info("socket")
        if opened is not None:
            yield opened.fileno()


def _config(app: ASGIApp, limits: Limits, tls: Tls | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=connections_within(limits),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=limits.idle_s,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )


async def _until_started(server: _Server, serving: asyncio.Task[None]) -> None:
    started = asyncio.create_task(server.has_started.wait())
    try:
        await asyncio.wait((started, serving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        started.cancel()


async def _ended(serving: asyncio.Task[None]) -> None:
    """Wait for the server's own graceful end, and not for ever."""
    try:
        await asyncio.wait((serving,), timeout=STOP_S_MAX)
    finally:
        if not serving.done():
            serving.cancel()
            await asyncio.wait((serving,))


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise SettingsError(f"The host '{host}' is no address of this machine: {error.strerror}.") from error
    bound = close_socket_in_child(socket.socket(family, kind, protocol))
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise SettingsError(_why_not_bound(error, host, port)) from error
    return bound


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use: stop what uses it, or choose another port with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} on {host} is not allowed to this user: choose one above 1023 with --port."
    return f"{host}:{port} cannot be bound: {error.strerror or error}."


def _url(bound: socket.socket, tls: Tls | None) -> str:
    host, port = bound.getsockname()[:2]
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory
