"""Tasks: submit, list, look, cancel."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from litestar import Router, get, post
from litestar.params import FromPath, FromQuery

from aicp.coordination.listing import TaskQuery
from aicp.coordination.task_coordinator import split_task_id
from aicp.errors import Fault, InvalidChain, NotFound
from aicp.model.chain import ChainSpec, parallel_chain
from aicp.model.reading import besides, place_of_key
from aicp.model.reference import RESULT_KEY, Reference, place_of, scan
from aicp.model.run_id import chain_of, global_id
from aicp.model.task import Task, TaskStatus
from aicp.model.trace import parse_traceparent
from aicp.model.validation import check_chain, check_single, draft_chain, parse_task, with_faults_of_chain
from aicp.model.views import ChainView, Explanation, ParallelAccepted, TaskPage, TaskStanding, TaskView
from aicp.model.wire import TRACE_HEADER
from aicp.runtime.node import Node
from aicp.server.auth import Scope, check_may_wait, needs, tell_object
from aicp.server.body import BODY_BYTES_MAX, CallerRequest, read_submit
from aicp.server.problems import FAULTS_TOLD_MAX
from aicp.server.routes.answers import warned
from aicp.server.routes.parameters import (
    LISTED,
    InPhase,
    ListCursor,
    ListLimit,
    Status,
    SubmitWaitS,
    TheNode,
    TheNodeAndWaits,
    WaitS,
    check_capability,
    cursor_fault,
)
from aicp.server.waits import Waits

_WAITS = "tasks of a parallel submit wait for nobody; submit a chain"


@post("/", status_code=202, opt=needs(Scope.TASKS_SUBMIT))
async def submit_task(
    request: CallerRequest, node_and_waits: TheNodeAndWaits, wait_s: SubmitWaitS = 0.0
) -> TaskStanding | TaskView:
    """Accept a task on its own; with `wait_s`, answer what a look at it answers."""
    check_may_wait(request.user, wait_s)
    node, waits = node_and_waits
    task, key = await read_submit(request, parse_task, lambda document: check_single(parse_task(document)))
    caller, trace = request.user, parse_traceparent(request.headers.get(TRACE_HEADER))
    task_id = await node.coordinator.submit_task(
        task, tenant=caller.tenant, key=key, traceparent=trace, grant=caller.grant
    )
    tell_object(request, task_id)
    expected = node.coordinator.expected(chain_of(task_id))
    if not wait_s:
        return warned(TaskStanding(task_id, TaskStatus.PENDING), expected)
    return warned(await _view_by(task_id, None, node, waits, wait_s), expected)


@post("/parallel", status_code=202, opt=needs(Scope.TASKS_SUBMIT))
async def submit_parallel(
    request: CallerRequest, node_and_waits: TheNodeAndWaits, wait_s: SubmitWaitS = 0.0
) -> ParallelAccepted | ChainView:
    """Accept tasks that run side by side, each to its own end; with `wait_s`, answer what a look at them answers."""
    check_may_wait(request.user, wait_s)
    node, waits = node_and_waits
    spec, key = await read_submit(request, _side_by_side, lambda document: check_chain(_side_by_side(document)))
    caller, trace = request.user, parse_traceparent(request.headers.get(TRACE_HEADER))
    chain_id = await node.coordinator.submit(spec, tenant=caller.tenant, key=key, traceparent=trace, grant=caller.grant)
    tell_object(request, chain_id)
    expected = node.coordinator.expected(chain_id)
    if wait_s:
        view = await waits.for_end((chain_id,), lambda: node.coordinator.view(chain_id), wait_s)
        return warned(view, expected)
    tasks = spec.tasks if isinstance(spec, ChainSpec) else spec.tasks.values()
    return warned(ParallelAccepted(chain_id, [global_id(chain_id, task.id) for task in tasks]), expected)


@get("/", opt=needs(Scope.TASKS_READ))
async def list_tasks(
    request: CallerRequest,
    node: TheNode,
    status: Status = None,
    phase: InPhase = None,
    capability: FromQuery[str | None] = None,
    limit: ListLimit = LISTED,
    cursor: ListCursor = "",
) -> TaskPage:
    """Tasks, those of the newest chain first; a page may have fewer than `limit`, and yet a `next_cursor`."""
    if capability is not None:
        check_capability(capability)
    try:
        query = TaskQuery(request.user.sees, status, capability, phase, limit, cursor or None)
        return await node.coordinator.list_tasks(query)
    except NotFound as error:
        raise cursor_fault(error) from None


@get("/{task_id:str}", opt=needs(Scope.TASKS_READ))
async def show_task(
    request: CallerRequest, task_id: FromPath[str], node_and_waits: TheNodeAndWaits, wait_s: WaitS = 0.0
) -> TaskView:
    """Where a task stands, whatever chain it is part of."""
    return await _view_by(task_id, request.user.sees, *node_and_waits, wait_s)


@get("/{task_id:str}/explain", opt=needs(Scope.TASKS_READ))
async def explain_task(request: CallerRequest, task_id: FromPath[str], node: TheNode) -> Explanation:
    """Why a task went where it went, and who could do it now."""
    return await node.coordinator.explain(task_id, request.user.sees)


@post("/{task_id:str}/cancel", status_code=200, opt=needs(Scope.TASKS_CANCEL))
async def cancel_task(request: CallerRequest, task_id: FromPath[str], node: TheNode) -> TaskStanding:
    """Cancel a task that was submitted on its own; once this answers no attempt of it starts any more."""
    status = await node.coordinator.cancel_task(task_id, request.user.sees)
    return TaskStanding(task_id, status, cancelling=not status.is_terminal)


tasks_router = Router(
    "/api/tasks",
    route_handlers=[submit_task, submit_parallel, list_tasks, show_task, explain_task, cancel_task],
    request_max_body_size=BODY_BYTES_MAX,
    tags=["tasks"],
)


async def _view_by(task_id: str, tenant: str | None, node: Node, waits: Waits, wait_s: float) -> TaskView:
    """Where a task stands, once it has ended or after so many seconds."""
    chain_id, _ = split_task_id(task_id)
    return await waits.for_end((task_id, chain_id), lambda: node.coordinator.view_task(task_id, tenant), wait_s)


def _side_by_side(document: Any) -> ChainSpec:
    draft = draft_chain(document)
    spec = parallel_chain(draft.spec.tasks)
    faults = [*besides(_untaken(document), draft.faults), *islice(_waiting(draft.spec.tasks), FAULTS_TOLD_MAX)]
    if faults:
        raise InvalidChain(with_faults_of_chain(faults, spec))
    return spec


def _untaken(document: Any) -> Iterator[Fault]:
    for field in islice((field for field in document if field != "tasks"), FAULTS_TOLD_MAX):
        yield Fault(place_of_key(field, ""), "is no field of a parallel submit")


def _waiting(tasks: Sequence[Task]) -> Iterator[Fault]:
    """Where tasks say that they wait for others; what is wrong with a reference is told with all other faults."""
    for index, task in enumerate(tasks):
        if task.depends_on:
            yield Fault(f"/tasks/{index}/depends_on", _WAITS)
        for trail, found in scan(task.params):
            if isinstance(found, Reference):
                yield Fault(place_of((*trail, RESULT_KEY), f"/tasks/{index}/params"), _WAITS)
