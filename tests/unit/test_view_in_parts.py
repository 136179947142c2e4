"""A view of a large chain is made in parts, and is of one moment all the same."""

import asyncio
from datetime import UTC, datetime

from aicp.coordination.chain_status import PART, fold_in_parts, graph_in_parts, view_in_parts
from aicp.coordination.readiness import Readiness
from aicp.model.chain import ChainSpec
from aicp.model.event import ChainSubmitted, TaskEnded
from aicp.model.task import Task, TaskResult, TaskStatus
from aicp.model.validation import check_chain, graph_of
from aicp.ports import ChainRecord

COUNT = 5 * PART + 1
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = ChainSpec(tuple(Task("work", id=f"t{n}", depends_on=(f"t{n - 1}",) if n else ()) for n in range(COUNT)))
SUBMITTED = ChainSubmitted("a" * 32, SPEC, NOW, "default")


def ended(number: int) -> TaskEnded:
    name = f"t{number}"
    result = TaskResult(f"{SUBMITTED.chain_id}.{name}", "work", TaskStatus.COMPLETED, number, ended_at=NOW)
    return TaskEnded(SUBMITTED.chain_id, name, result)


def test_what_ends_while_a_view_is_made_is_not_in_it() -> None:
    async def main() -> None:
        standing = Readiness(check_chain(SPEC))
        standing.apply(ended(0))
        viewing = asyncio.create_task(view_in_parts(SUBMITTED, standing, {}))
        await asyncio.sleep(0)
        for number in range(1, COUNT):
            standing.apply(ended(number))
        assert not viewing.done()
        view = await viewing
        assert view.completed_tasks == 1
        assert list(view.tasks) == [task.id for task in SPEC.tasks]

    asyncio.run(main())


def test_graph_and_fold_in_parts_are_those_of_one_go() -> None:
    async def main() -> None:
        graph = await graph_in_parts(SPEC)
        assert graph == graph_of(SPEC)
        record = ChainRecord(SUBMITTED, tuple(map(ended, range(COUNT))))
        assert (await fold_in_parts(record, graph)).is_over()

    asyncio.run(main())
