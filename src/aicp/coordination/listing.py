"""Lists of chains and tasks, newest first, a page at a time: what is on record, and what its owner has in flight.

There is no table of tasks: a page of tasks walks chains and folds the facts of each, which costs a submit nothing and a
page some tens of microseconds a task. Chains that have no task of the status asked for are left out by an index of the
journal, and by their owner's memory for RUNNING. A page looks at a bounded number of tasks, and one that is asked for
what is rare otherwise (a capability) may end before it is full; the place where it ended leads on.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import msgspec

from aicp.coordination.chain_status import InFlight, fold_in_parts, graph_in_parts, view_task
from aicp.coordination.readiness import Readiness
from aicp.coordination.recovery import has_ended
from aicp.coordination.run import ChainRun
from aicp.errors import ChainNotFound, NewerVersion, RecordDamaged, TaskNotFound
from aicp.model.chain import ChainSpec
from aicp.model.event import ChainSubmitted
from aicp.model.run_id import chain_of, global_id, run_in_chain
from aicp.model.task import Phase, TaskStatus
from aicp.model.validation import ChainGraph
from aicp.model.views import ChainPage, ListedChain, ListedTask, TaskPage, TaskView
from aicp.ports import ChainQuery, ChainRecord, ChainSummary, Journal
from aicp.registry.naming import wanted_key

CHAINS_LOOKED_AT_MAX = 1_000
TASKS_LOOKED_AT_MAX = 2_000
CHAINS_AT_ONCE_MAX = 500
TASKS_AT_ONCE_MAX = 200
_UNFINISHED = frozenset({TaskStatus.PENDING, TaskStatus.RUNNING})
_OF_OWNER = frozenset({Phase.IN_LINE, Phase.AT_AGENT})


class TaskQuery(msgspec.Struct, frozen=True):
    """Which tasks to list.

    Attributes:
        tenant: Whose; None for everybody's.
        status: Only tasks that stand here; None for all.
        capability: Only tasks that ask for this, `name` or `name@major`; None for all.
        phase: Only tasks in this phase; None for all.
        limit: At most this many, more than 0.
        after: Only tasks behind this global id in the list (the place where the page before ended).
    """

    tenant: str | None = None
    status: TaskStatus | None = None
    capability: str | None = None
    phase: Phase | None = None
    limit: int = 50
    after: str | None = None

    @property
    def is_of_unfinished(self) -> bool:
        """True when only tasks without an end are asked for."""
        return self.status in _UNFINISHED or (self.status is None and self.phase is not None)

    @property
    def is_of_none(self) -> bool:
        """True for a phase of tasks that have ended, which have none."""
        return self.phase is not None and not self.is_of_unfinished

    def wants(self, task: ListedTask) -> bool:
        """True when status, phase and capability are those asked for."""
        has_status = self.status in {None, task.status} and self.phase in {None, task.phase}
        return has_status and (self.capability is None or wanted_key(self.capability) == wanted_key(task.capability))


class _Chain(msgspec.Struct, frozen=True):
    """Where a chain stands, and what of it is in flight; tasks are made one by one, as far as somebody looks."""

    submitted: ChainSubmitted
    standing: Readiness
    in_flight: Mapping[str, InFlight] = {}

    def tasks(self) -> Iterator[ListedTask]:
        return self._listed(iter(self.standing.graph.tasks))

    def tasks_behind(self, local_id: str) -> Iterator[ListedTask]:
        names = iter(self.standing.graph.tasks)
        # Looks for it, and leaves the iterator right behind it.
        if local_id not in names:
            raise TaskNotFound(f"There is no task '{global_id(self.submitted.chain_id, local_id[:80])}'.")
        return self._listed(names)

    def _listed(self, names: Iterator[str]) -> Iterator[ListedTask]:
        submitted = self.submitted
        for name in names:
            yield _listed_task(submitted, view_task(submitted.chain_id, name, self.standing, self.in_flight))


class Listing:
    """Answers queries.

    Args:
        journal: Has the chains.
        runs: Those that run here, by id.
    """

    def __init__(self, journal: Journal, runs: Mapping[str, ChainRun]) -> None:
        self._journal = journal
        self._runs = runs

    async def chains(self, query: ChainQuery) -> ChainPage:
        """One page. Asked for PENDING or RUNNING ones it looks at 1,000 unfinished ones at most.

        Raises:
            ChainNotFound: `query.before` is no chain of the tenant, or is forgotten.
        """
        # Only the owner of a chain knows that its first task is under way, so these two are told apart here.
        is_live = query.status in _UNFINISHED
        looks = max(query.limit, CHAINS_LOOKED_AT_MAX) if is_live else query.limit
        asked = msgspec.structs.replace(query, limit=looks + 1)
        if is_live:
            asked = msgspec.structs.replace(asked, status=None, unfinished=True)
        found = await self._summaries(asked)
        page: list[ListedChain] = []
        for summary in found[:looks]:
            chain = self._listed(summary)
            if query.status in {None, chain.status}:
                page.append(chain)
            if len(page) == query.limit:
                return ChainPage(page, None if summary is found[-1] else chain.chain_id)
        return ChainPage(page, found[looks - 1].chain_id if len(found) > looks else None)

    async def tasks(self, query: TaskQuery) -> TaskPage:
        """One page: of the newest chain first, in the order in which a chain has them. Looks at 2,000 tasks at most.

        Chains without a task of the status asked for cost no look.

        Raises:
            ChainNotFound: The chain of `query.after` is none of the tenant, or is forgotten.
            TaskNotFound: `query.after` is no task of it.
        """
        page: list[ListedTask] = []
        looks = 0
        if query.is_of_none:
            return TaskPage(page, None)
        async for task in self._tasks_behind(query):
            if query.wants(task):
                if len(page) == query.limit:
                    return TaskPage(page, page[-1].task_id)
                page.append(task)
            looks += 1
            if looks == TASKS_LOOKED_AT_MAX:
                return TaskPage(page, task.task_id)
            if not looks % TASKS_AT_ONCE_MAX:
                # All of them may be of one chain.
                await asyncio.sleep(0)
        return TaskPage(page, None)

    async def _tasks_behind(self, query: TaskQuery) -> AsyncIterator[ListedTask]:
        chain_id = None
        if query.after is not None:
            chain_id, local_id = chain_of(query.after), run_in_chain(query.after)
            for task in (await self._chain(chain_id, query.tenant)).tasks_behind(local_id):
                yield task
        ends = None if query.is_of_unfinished else query.status
        chains = ChainQuery(query.tenant, None, query.limit + 1, chain_id, query.is_of_unfinished, ends)
        # A chain that is forgotten on the way was among the oldest: then the list ends there.
        while found := await self._journal.list_chains(chains):
            for some in _few_tasks(self._worth_a_look(found, query)):
                for chain in await self._chains(some):
                    for task in chain.tasks():
                        yield task
            # Who found little so far looks at more at once.
            more = min(2 * chains.limit, CHAINS_AT_ONCE_MAX)
            chains = msgspec.structs.replace(chains, before=found[-1].chain_id, limit=more)

    def _worth_a_look(self, found: Sequence[ChainSummary], query: TaskQuery) -> list[ChainSummary]:
        """Without chains that run here and have no task under way, where such are asked for.

        Whether a task waits for an agent or is at one, only the owner of its chain knows.
        """
        is_of_owner = query.phase in _OF_OWNER
        if query.status is not TaskStatus.RUNNING and not is_of_owner:
            return list(found)
        runs = ((summary, self._runs.get(summary.chain_id)) for summary in found)
        return [summary for summary, run in runs if (not is_of_owner if run is None else run.has_running)]

    async def _chain(self, chain_id: str, tenant: str | None) -> _Chain:
        for chain in await self._chains([chain_id]):
            if tenant in {None, chain.submitted.tenant}:
                return chain
        raise _forgotten(chain_id)

    async def _chains(self, chain_ids: Sequence[str]) -> list[_Chain]:
        """Those of these that are there, in their order."""
        runs = {name: run for name in chain_ids if (run := self._runs.get(name)) is not None}
        recorded = await self._journal.outlines([name for name in chain_ids if name not in runs])
        # Other work goes on between any two batches, also when the journal never waits.
        await asyncio.sleep(0)
        found = {record.submitted.chain_id: _Chain(record.submitted, await _standing(record)) for record in recorded}
        found |= {name: _Chain(run.submitted, run.standing, run.in_flight()) for name, run in runs.items()}
        return [found[name] for name in chain_ids if name in found]

    async def _summaries(self, query: ChainQuery) -> Sequence[ChainSummary]:
        found = await self._journal.list_chains(query)
        if not found and query.before is not None:
            await self._check_place(query.before, query.tenant)
        return found

    async def _check_place(self, chain_id: str, tenant: str | None) -> None:
        """An empty page behind a chain that is not there would say that the list has ended."""
        try:
            found = await self._journal.read(chain_id)
        except (RecordDamaged, NewerVersion):
            return  # It is there, and its row was listed.
        if found is None or tenant not in {None, found.submitted.tenant}:
            raise _forgotten(chain_id)

    def _listed(self, summary: ChainSummary) -> ListedChain:
        run = None if summary.status.is_terminal else self._runs.get(summary.chain_id)
        end = None if run is None else run.end
        return ListedChain(
            chain_id=summary.chain_id,
            name=summary.name,
            status=summary.status if run is None else run.status,
            total_tasks=summary.total_tasks,
            started_at=summary.submitted_at,
            ended_at=summary.ended_at if end is None else end.at,
            retry_of=summary.retry_of,
        )


def _few_tasks(chains: Sequence[ChainSummary]) -> Iterator[list[str]]:
    """The ids of chains, in their order, so many at a time that they have few tasks together; one at least."""
    some, tasks = list[str](), 0
    for chain in chains:
        if some and tasks + chain.total_tasks > TASKS_AT_ONCE_MAX:
            yield some
            some, tasks = [], 0
        some.append(chain.chain_id)
        tasks += chain.total_tasks
    if some:
        yield some


async def _standing(record: ChainRecord) -> Readiness:
    """Where a recorded chain stands. Nothing of one that ended waits for anything: who waited for whom is left out."""
    spec = record.submitted.spec
    return await fold_in_parts(record, _without_edges(spec) if has_ended(record) else await graph_in_parts(spec))


def _without_edges(spec: ChainSpec) -> ChainGraph:
    tasks = {task.id: task for task in spec.tasks}
    none: dict[str, tuple[str, ...]] = dict.fromkeys(tasks, ())
    return ChainGraph(spec, tasks, none, none)


def _listed_task(submitted: ChainSubmitted, view: TaskView) -> ListedTask:
    return ListedTask(
        task_id=view.task_id,
        chain_id=submitted.chain_id,
        capability=view.capability,
        status=view.status,
        error=view.error,
        agent_id=view.agent_id,
        attempts=view.attempts,
        timings=view.timings,
        submitted_at=submitted.at,
        ready_at=view.ready_at,
        started_at=view.started_at,
        ended_at=view.ended_at,
        kind=view.kind,
        phase=view.phase,
    )


def _forgotten(chain_id: str) -> ChainNotFound:
    return ChainNotFound(f"There is no chain '{chain_id[:80]}', or it is forgotten.")
