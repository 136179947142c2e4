"""The async client of the server's HTTP API: a method for each route under `/api` and `/ains`."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import msgspec

from aicp.client.exchange import Exchange
from aicp.client.following import follow
from aicp.client.problems import ServerRefused
from aicp.errors import AgentNotFound, ChainNotFound, KeyNotFound, NotFound, TaskNotFound
from aicp.model.access import (
    ApiKey,
    AuditPage,
    CurrentKey,
    KeyList,
    KeyMade,
    KeyRequest,
    SessionCode,
    SessionMade,
    SessionRequest,
)
from aicp.model.agent import Registration
from aicp.model.chain import ChainSpec, TaskChain
from aicp.model.converting import convert_in_pieces
from aicp.model.history import History, HistoryMetric
from aicp.model.live import LiveEvent
from aicp.model.nesting import NESTING_MAX
from aicp.model.pieces import decode_in_pieces, is_large
from aicp.model.run_id import chain_of, run_in_chain
from aicp.model.task import Phase, Task, TaskStatus
from aicp.model.views import (
    AgentPage,
    AgentState,
    AgentView,
    ChainChanges,
    ChainPage,
    ChainStanding,
    ChainView,
    Explanation,
    Failure,
    FleetHealth,
    Heard,
    Info,
    ParallelAccepted,
    Registered,
    SchedulerStatus,
    TaskPage,
    TaskStanding,
    TaskView,
)

TIMEOUT_S = 30.0
RETRIES_MAX = 4
POLL_S = 30.0
SHORTEST_WAIT_S = 0.001
FAILURES_SHOWN = 100
LISTED = 100
ID_CHARS_SHOWN_MAX = 160
LEVELS_MAX = NESTING_MAX + 16
"""How deep an answer may be nested: a view adds some levels to params and results."""
T = TypeVar("T")


class Client:
    """Talks to an AICP server.

        async with Client("http://127.0.0.1:8420", key) as client:
            print((await client.run_task(Task("image.label", {"url": url}))).result)

    Every request is safe to send twice (submits carry an `Idempotency-Key`, made here when none is given), so one that
    found no answer, or 429 or 503, is sent again a few times. What the server refuses comes back as the error of
    `aicp.errors` with that code. An id that cannot be one is not found without asking.

    Args:
        url: Base URL of the server.
        api_key: The key to show; None for none.
        timeout_s: How long one answer may take, seconds, besides a `wait_s`.
        retries_max: How often a request is sent again.

    Raises:
        SettingsError: The URL or the key cannot be used.
    """

    def __init__(
        self, url: str, api_key: str | None = None, *, timeout_s: float = TIMEOUT_S, retries_max: int = RETRIES_MAX
    ) -> None:
        self._exchange = Exchange(url, api_key, timeout_s=timeout_s, retries_max=retries_max)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return self._exchange.url

    async def close(self) -> None:
        """Give back every connection."""
        await self._exchange.close()

    async def submit_task(self, task: Task, *, key: str | None = None) -> str:
        """Submit a task and return its global id; with the same `key` and task again, the same id.

        Raises:
            InvalidTask: With every fault and its place.
            NoCapableAgent: Nobody has ever offered the capability.
            QueueFull: Too much accepted work is unfinished, even after some waiting.
            IdempotencyConflict: The key was used with another body.
        """
        return (await self.accept_task(task, key=key)).task_id

    async def accept_task(self, task: Task, *, key: str | None = None) -> TaskStanding:
        """As `submit_task`, with the whole answer: its `warning` when the task will probably outlast its deadline."""
        return await self._submit("/api/tasks", task, key, TaskStanding)

    async def submit_parallel(self, tasks: Sequence[Task], *, key: str | None = None) -> ParallelAccepted:
        """Submit tasks that run side by side, each to its own end.

        Raises:
            InvalidChain: A task cannot be used.
            NoCapableAgent: Nobody has ever offered a capability.
            QueueFull: Too much accepted work is unfinished, even after some waiting.
            IdempotencyConflict: The key was used with another body.
        """
        return await self._submit("/api/tasks/parallel", {"tasks": tasks}, key, ParallelAccepted)

    async def submit_chain(self, chain: TaskChain | ChainSpec, *, key: str | None = None) -> str:
        """Submit a chain and return its id.

        Raises:
            InvalidChain: With every fault and its place.
            NoCapableAgent: Nobody has ever offered a capability.
            QueueFull: Too much accepted work is unfinished, even after some waiting.
            IdempotencyConflict: The key was used with another body.
        """
        return (await self.accept_chain(chain, key=key)).chain_id

    async def accept_chain(self, chain: TaskChain | ChainSpec, *, key: str | None = None) -> ChainStanding:
        """As `submit_chain`, with the whole answer: its `warning` when the chain will probably outlast its deadline."""
        return await self._submit("/api/tasks/chain", _spec_of(chain), key, ChainStanding)

    async def run_task(self, task: Task, *, key: str | None = None, timeout_s: float | None = None) -> TaskView:
        """Submit a task and say how it ended, or where it stands after `timeout_s` seconds: look at its `status`.

        In one request, where `submit_task` and `wait_task` take two. The same `key` and task again are the same task.

        Raises:
            InvalidTask: With every fault and its place.
            NoCapableAgent: Nobody has ever offered the capability.
            QueueFull: Too much accepted work is unfinished, even after some waiting.
            IdempotencyConflict: The key was used with another body.
        """
        patience = _Patience(timeout_s)
        view = await self._submit("/api/tasks", task, key, TaskView, wait_s=patience.first_wait_s())
        if view.status.is_terminal or patience.is_over:
            return view
        return await self._wait_task(view.task_id, patience)

    async def run_parallel(
        self, tasks: Sequence[Task], *, key: str | None = None, timeout_s: float | None = None
    ) -> ChainView:
        """Submit tasks that run side by side and say how they ended, as `run_task`; errors are `submit_parallel`'s."""
        return await self._run_chain("/api/tasks/parallel", {"tasks": tasks}, key, timeout_s)

    async def run_chain(
        self, chain: TaskChain | ChainSpec, *, key: str | None = None, timeout_s: float | None = None
    ) -> ChainView:
        """Submit a chain and say how it ended, as `run_task` does; errors are those of `submit_chain`."""
        return await self._run_chain("/api/tasks/chain", _spec_of(chain), key, timeout_s)

    async def get_task(self, task_id: str, *, wait_s: float = 0.0) -> TaskView:
        """Where a task stands, once it has ended or after `wait_s` seconds (at most 60).

        Raises:
            TaskNotFound: There is none.
        """
        return await self._ask("GET", _task_path(task_id), TaskView, wait_s=wait_s)

    async def explain_task(self, task_id: str) -> Explanation:
        """Why a task went where it went, and who could do it now.

        Raises:
            TaskNotFound: There is none.
        """
        return await self._ask("GET", f"{_task_path(task_id)}/explain", Explanation)

    async def get_chain(self, chain_id: str, *, wait_s: float = 0.0) -> ChainView:
        """Where a chain stands, once it has ended or after `wait_s` seconds (at most 60).

        Raises:
            ChainNotFound: There is none.
        """
        return await self._ask("GET", _chain_path(chain_id), ChainView, wait_s=wait_s)

    async def follow_chain(self, chain_id: str, *, since: str = "", wait_s: float = 0.0) -> ChainChanges:
        """A chain in short: without results, and only with the tasks that changed since an earlier answer.

        Args:
            chain_id: Its id.
            since: `seq` of that answer; empty for every task, and the edges.
            wait_s: Answer once the chain has ended, or after so many seconds (at most 60).

        Raises:
            ChainNotFound: There is none.
            InvalidInput: `since` is nothing that an answer gave.
        """
        return await self._ask("GET", _chain_path(chain_id), ChainChanges, results="false", since=since, wait_s=wait_s)

    async def list_tasks(
        self,
        *,
        status: TaskStatus | None = None,
        phase: Phase | None = None,
        capability: str | None = None,
        limit: int = LISTED,
        cursor: str | None = None,
    ) -> TaskPage:
        """One page of tasks, those of the newest chain first.

        Args:
            status: Only those that stand here.
            phase: Only those in this phase; whether a task is in line or at an agent, only the server that runs its
                chain knows.
            capability: Only those that ask for this, `name` or `name@major`.
            limit: At most this many, 1 to 1,000; a page may have fewer, and yet a `next_cursor`.
            cursor: `next_cursor` of the page before.

        Raises:
            InvalidInput: The capability cannot be one, or the cursor's place is forgotten: begin again without it.
        """
        return await self._ask(
            "GET", "/api/tasks", TaskPage, status=status, phase=phase, capability=capability, limit=limit, cursor=cursor
        )

    async def list_chains(
        self,
        *,
        status: TaskStatus | None = None,
        name: str | None = None,
        submitted_from: datetime | None = None,
        submitted_to: datetime | None = None,
        limit: int = LISTED,
        cursor: str | None = None,
    ) -> ChainPage:
        """One page of chains, newest first.

        Args:
            status: Only those that stand here.
            name: Only those whose name begins so.
            submitted_from: Only those submitted at this time or later; one without a zone is local time.
            submitted_to: Only those submitted before this time.
            limit: At most this many, 1 to 1,000; a page may have fewer, and yet a `next_cursor`.
            cursor: `next_cursor` of the page before.

        Raises:
            InvalidInput: No time lies between the two, or the cursor's place is forgotten: begin again without it.
        """
        times = {"from": submitted_from, "to": submitted_to}
        told = {place: at.astimezone(UTC).isoformat() for place, at in times.items() if at is not None}
        return await self._ask(
            "GET", "/api/tasks/chain", ChainPage, status=status, name=name, limit=limit, cursor=cursor, **told
        )

    async def draw_chain(self, chain_id: str) -> str:
        """A chain as text that Mermaid draws.

        Raises:
            ChainNotFound: There is none.
        """
        drawn = await self._exchange.send("GET", f"{_chain_path(chain_id)}/graph")
        return drawn.decode("utf-8", "replace")

    async def wait_task(self, task_id: str, *, timeout_s: float | None = None) -> TaskView:
        """How a task ended, or where it stands after `timeout_s` seconds: look at its `status`.

        Raises:
            TaskNotFound: There is none.
        """
        return await self._wait_task(task_id, _Patience(timeout_s))

    async def wait_chain(self, chain_id: str, *, timeout_s: float | None = None) -> ChainView:
        """How a chain ended, or where it stands after `timeout_s` seconds: look at its `status`.

        Raises:
            ChainNotFound: There is none.
        """
        return await self._wait_chain(chain_id, _Patience(timeout_s))

    async def cancel_task(self, task_id: str) -> TaskStanding:
        """Cancel a task that was submitted on its own; one that ended stays as it is.

        Raises:
            TaskNotFound: There is none.
            Conflict: It is part of a chain of several tasks.
        """
        return await self._ask("POST", f"{_task_path(task_id)}/cancel", TaskStanding)

    async def cancel_chain(self, chain_id: str) -> ChainStanding:
        """Cancel a chain; one that ended stays as it is.

        Raises:
            ChainNotFound: There is none.
        """
        return await self._ask("POST", f"{_chain_path(chain_id)}/cancel", ChainStanding)

    async def retry_chain(self, chain_id: str, *, key: str | None = None) -> str:
        """Submit a chain that ended again and return the id of the new one; results that are good already are copied.

        Raises:
            ChainNotFound: There is none.
            Conflict: It has not ended.
            NoCapableAgent: Nobody has ever offered a capability.
            QueueFull: Too much accepted work is unfinished, even after some waiting.
            IdempotencyConflict: The key was used with another body.
        """
        return (await self.accept_retry(chain_id, key=key)).chain_id

    async def accept_retry(self, chain_id: str, *, key: str | None = None) -> ChainStanding:
        """As `retry_chain`, with the whole answer: its `warning` when it will probably outlast its deadline."""
        return await self._submit(f"{_chain_path(chain_id)}/retry", msgspec.UNSET, key, ChainStanding)

    async def register_agent(self, registration: Registration) -> Registered:
        """Make an agent known; what the registration leaves out the server asks the agent.

        Raises:
            InvalidAgent: It cannot be used, or did not say what it is.
        """
        return await self._answer(Registered, "POST", "/ains/agents", body=registration)

    async def heartbeat(self, agent_id: str, instance_id: str) -> Heard:
        """Say for an agent that it lives.

        Raises:
            AgentNotFound: It has no lease; register it again.
            AgentReplaced: Another instance registered under its id.
        """
        body = {"instance_id": instance_id}
        return await self._answer(Heard, "POST", f"{_agent_path(agent_id)}/heartbeat", body=body)

    async def drain_agent(self, agent_id: str) -> AgentView:
        """Let an agent have no more tasks, but keep it.

        Raises:
            AgentNotFound: There is none.
        """
        return await self._ask("POST", f"{_agent_path(agent_id)}/drain", AgentView)

    async def remove_agent(self, agent_id: str) -> None:
        """Have an agent forgotten; tasks it has go on.

        Raises:
            AgentNotFound: There is none.
        """
        await self._exchange.send("DELETE", _agent_path(agent_id))

    async def agent(self, agent_id: str) -> AgentView:
        """One agent.

        Raises:
            AgentNotFound: There is none.
        """
        return await self._ask("GET", _agent_path(agent_id), AgentView)

    async def agents(
        self, capability: str | None = None, *, name: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[AgentView]:
        """Every agent by id; a request for each thousand.

        Args:
            capability: Only those who offer it: `name` or `name@major`.
            name: Only those who are called so; without a name, by their id.
            labels: Only those who carry all of these.

        Raises:
            InvalidInput: The capability or a label cannot be one.
        """
        query: dict[str, str | list[str]] = {}
        if capability is not None:
            query["capability"] = capability
        if name:
            query["name"] = name
        if labels:
            query["label"] = [f"{key}={value}" for key, value in labels.items()]
        path = "/ains/search" if query else "/ains/agents"
        found: list[AgentView] = []
        while True:
            page = await self._ask("GET", path, AgentPage, **query)
            found += page.agents
            if page.next_cursor is None:
                return found
            query["cursor"] = page.next_cursor

    async def health(self) -> FleetHealth:
        """Every agent's circuits and counters, and the capabilities that have nobody."""
        return await self._ask("GET", "/api/circuit-breaker/health", FleetHealth)

    async def failures(self, limit: int = FAILURES_SHOWN) -> list[Failure]:
        """The latest attempts that failed, newest first; `limit` is 1 to 1,000."""
        return await self._ask("GET", "/api/circuit-breaker/failures", list[Failure], limit=limit)

    async def reset(self, agent_id: str) -> AgentState:
        """Close an agent's circuits, forget that it was set aside, and use it again at once.

        Raises:
            AgentNotFound: There is none.
        """
        return await self._ask("POST", f"/api/circuit-breaker/reset/{_agent_step(agent_id)}", AgentState)

    async def open_agent(self, agent_id: str) -> AgentState:
        """Open an agent's circuits by hand: it gets no task until they are reset or disabled.

        Raises:
            AgentNotFound: There is none.
        """
        return await self._ask("POST", f"/api/circuit-breaker/open/{_agent_step(agent_id)}", AgentState)

    async def disable_agent(self, agent_id: str) -> AgentState:
        """Disable an agent's circuits: it gets tasks whatever becomes of them, until they are reset or opened.

        Raises:
            AgentNotFound: There is none.
        """
        return await self._ask("POST", f"/api/circuit-breaker/disable/{_agent_step(agent_id)}", AgentState)

    async def history(
        self, *, capability: str = "", agent_id: str = "", metric: HistoryMetric | None = None
    ) -> History:
        """The last 15 minutes of the server in buckets of 5 s, as rates of each capability and each agent.

        Args:
            capability: Only of this one, `name` or `name@major`; empty, without `agent_id`, for everything.
            agent_id: Only of this agent; empty, without `capability`, for everything.
            metric: Only this one; None for all.

        Raises:
            InvalidInput: What can be no capability, agent or metric.
        """
        return await self._ask("GET", "/api/history", History, capability=capability, agent_id=agent_id, metric=metric)

    async def scheduler_status(self) -> SchedulerStatus:
        """Capacity, load and lines."""
        return await self._ask("GET", "/api/scheduler/status", SchedulerStatus)

    def events(
        self, *, chain_id: str = "", agent_id: str = "", kinds: Iterable[str] = (), after: str | None = None
    ) -> AsyncGenerator[LiveEvent, None]:
        """What happens from now on, without an end: `async for event in client.events(): …`.

        A broken connection is made anew, and goes on where it broke. An event of kind `gap` says that some were lost:
        then look again at what you follow. Whoever stops early closes the iterator, or the client.

        Args:
            chain_id: Only of this chain; empty for any.
            agent_id: Only about this agent; empty for any.
            kinds: Only these kinds; empty for all.
            after: The id of an event, to go on behind it.

        Raises:
            ServerUnreachable: The server could not be reached, however often it was tried.
        """
        said = {"chain_id": chain_id, "agent_id": agent_id, "kind": ",".join(kinds)}
        return follow(self._exchange, "/api/events", {name: value for name, value in said.items() if value}, after)

    async def info(self) -> Info:
        """What the server is."""
        return await self._ask("GET", "/api/info", Info)

    async def create_key(self, request: KeyRequest) -> KeyMade:
        """Make a key that opens the API; its secret is told here, and never again.

        When an answer got lost, the request that is sent again makes another one: the first opens nothing, since nobody
        knows its secret.

        Raises:
            InvalidInput: With every fault and its place.
            Forbidden: This client's key may not give so much.
            Conflict: There are too many keys.
        """
        return await self._answer(KeyMade, "POST", "/api/keys", body=request)

    async def list_keys(self) -> list[ApiKey]:
        """Every key, oldest first, those that ended in the last 30 days included."""
        return (await self._ask("GET", "/api/keys", KeyList)).keys

    async def current_key(self) -> CurrentKey:
        """What this client's key may do."""
        return await self._ask("GET", "/api/keys/current", CurrentKey)

    async def revoke_key(self, key_id: str) -> ApiKey:
        """Have a key open nothing any more.

        Raises:
            KeyNotFound: There is none.
        """
        return await self._ask("POST", f"/api/keys/{_step(key_id, KeyNotFound)}/revoke", ApiKey)

    async def create_session_code(self) -> SessionCode:
        """A code for a session of this client's key: a page that is given it, within 60 s, opens one, once.

        Raises:
            Forbidden: This client's key is that of a session.
        """
        return await self._ask("POST", "/api/sessions/codes", SessionCode)

    async def open_session(self, code: str) -> SessionMade:
        """Exchange a code for a session: a key that is good for 12 hours at most. This client needs no key for it.

        Raises:
            AccessDenied: The code is wrong, was used, or has expired.
        """
        return await self._answer(SessionMade, "POST", "/api/sessions", body=SessionRequest(code))

    async def close_session(self) -> None:
        """End the session whose key this client has.

        Raises:
            Conflict: Its key is that of no session.
        """
        await self._exchange.send("DELETE", "/api/sessions/current")

    async def list_audit(self, *, limit: int = LISTED, cursor: str | None = None) -> AuditPage:
        """One page of who changed what, newest first; `limit` is 1 to 1,000."""
        return await self._ask("GET", "/api/audit", AuditPage, limit=limit, cursor=cursor)

    async def _run_chain(self, path: str, body: Any, key: str | None, timeout_s: float | None) -> ChainView:
        patience = _Patience(timeout_s)
        view = await self._submit(path, body, key, ChainView, wait_s=patience.first_wait_s())
        if view.status.is_terminal or patience.is_over:
            return view
        return await self._wait_chain(view.chain_id, patience)

    async def _wait_task(self, task_id: str, patience: "_Patience") -> TaskView:
        while True:
            view = await self.get_task(task_id, wait_s=patience.next_wait_s())
            if view.status.is_terminal or patience.is_over:
                return view

    async def _wait_chain(self, chain_id: str, patience: "_Patience") -> ChainView:
        while True:
            view = await self.get_chain(chain_id, wait_s=patience.next_wait_s())
            if view.status.is_terminal or patience.is_over:
                return view

    async def _submit(self, path: str, body: Any, key: str | None, kind: type[T], *, wait_s: float = 0.0) -> T:
        key, query = key or uuid.uuid4().hex, {"wait_s": str(wait_s)} if wait_s else {}
        return await self._answer(kind, "POST", path, query=query, body=body, key=key, patience_s=wait_s)

    async def _ask(self, method: str, path: str, kind: type[T], **query: Any) -> T:
        said = {name: value if isinstance(value, list) else str(value) for name, value in query.items() if value}
        patience_s = float(query.get("wait_s", 0.0))
        return await self._answer(kind, method, path, query=said, patience_s=patience_s)

    async def _answer(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        body = await self._exchange.send(method, path, **options)
        return await self._exchange.documents.read(body, lambda: _decode(body, kind), waits=True)


class _Patience:
    """How long to go on waiting, cut into pieces that one request may take."""

    def __init__(self, timeout_s: float | None) -> None:
        self._clock = asyncio.get_running_loop().time
        self._ends_at = None if timeout_s is None else self._clock() + timeout_s

    def first_wait_s(self) -> float:
        """Of a submit: never nothing, which would ask for another answer."""
        return max(SHORTEST_WAIT_S, self.next_wait_s())

    def next_wait_s(self) -> float:
        left_s = POLL_S if self._ends_at is None else self._ends_at - self._clock()
        return round(min(POLL_S, max(0.0, left_s)), 3)

    @property
    def is_over(self) -> bool:
        return self._ends_at is not None and self._clock() >= self._ends_at


def _decode(body: bytes, kind: type[T]) -> T:
    """An answer as what it should be; for a thread when it is large."""
    try:
        if not is_large(body):
            return msgspec.json.decode(body, type=kind)
        return convert_in_pieces(decode_in_pieces(body, levels_max=LEVELS_MAX), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServerRefused(f"What answers there is no AICP server of this version: {error}.", 200) from error


def _spec_of(chain: TaskChain | ChainSpec) -> ChainSpec:
    return chain.freeze() if isinstance(chain, TaskChain) else chain


def _task_path(task_id: str) -> str:
    if not (chain_of(task_id) and run_in_chain(task_id)):
        raise TaskNotFound(f"There is no task '{task_id[:ID_CHARS_SHOWN_MAX]}'; a task id looks like <chain>.<task>.")
    return f"/api/tasks/{_step(task_id, TaskNotFound)}"


def _chain_path(chain_id: str) -> str:
    return f"/api/tasks/chain/{_step(chain_id, ChainNotFound)}"


def _agent_path(agent_id: str) -> str:
    return f"/ains/agents/{_agent_step(agent_id)}"


def _agent_step(agent_id: str) -> str:
    return _step(agent_id, AgentNotFound)


def _step(name: str, missing: type[NotFound]) -> str:
    """An id as a step of a path; what could not be one would lead to another route."""
    try:
        step = quote(name, safe="")
    except UnicodeEncodeError:
        step = ""
    if step in {"", ".", ".."}:
        raise missing(f"{missing.default_message().removesuffix('.')}: '{name}' cannot be an id.")
    return step
