"""Tasks on their own: submit, look, cancel."""

from typing import Any

from litestar import Router, get, post
from litestar.params import FromPath

from aicp.coordination.task_coordinator import parallel_chain, split_task_id
from aicp.errors import Conflict, Fault, InvalidChain, InvalidTask
from aicp.model.chain import ChainSpec
from aicp.model.task import Task, TaskStatus
from aicp.model.validation import parse_chain
from aicp.model.views import Explanation, ParallelAccepted, TaskStanding, TaskView
from aicp.server.auth import Scope, needs
from aicp.server.body import BODY_BYTES_MAX, CallerRequest, read_as, read_document, submit_key
from aicp.server.routes.parameters import TheNode, TheWaits, WaitS


@post("/", status_code=202, opt=needs(Scope.TASKS_SUBMIT))
async def submit_task(request: CallerRequest, node: TheNode) -> TaskStanding:
    """Accept a task on its own."""
    document = await read_document(request)
    task = read_as(document, Task, InvalidTask)
    key = submit_key(request, document)
    try:
        task_id = await node.coordinator.submit_task(task, tenant=request.user.tenant, key=key)
    except InvalidChain as error:
        raise _about_the_task(error) from None
    return TaskStanding(task_id, TaskStatus.PENDING)


@post("/parallel", status_code=202, opt=needs(Scope.TASKS_SUBMIT))
async def submit_parallel(request: CallerRequest, node: TheNode) -> ParallelAccepted:
    """Accept tasks that run side by side, each to its own end."""
    document = await read_document(request)
    spec = _side_by_side(document)
    key = submit_key(request, document)
    chain_id = await node.coordinator.submit(spec, tenant=request.user.tenant, key=key)
    return ParallelAccepted(chain_id, [f"{chain_id}.{task.id}" for task in spec.tasks])


@get("/{task_id:str}", opt=needs(Scope.TASKS_READ))
async def show_task(task_id: FromPath[str], node: TheNode, waits: TheWaits, wait_s: WaitS = 0.0) -> TaskView:
    """Where a task stands, whatever chain it is part of."""
    chain_id, _ = split_task_id(task_id)
    return await waits.for_end((task_id, chain_id), lambda: node.coordinator.view_task(task_id), wait_s)


@get("/{task_id:str}/explain", opt=needs(Scope.TASKS_READ))
async def explain_task(task_id: FromPath[str], node: TheNode) -> Explanation:
    """Why a task went where it went, and who could do it now."""
    return await node.coordinator.explain(task_id)


@post("/{task_id:str}/cancel", status_code=200, opt=needs(Scope.TASKS_CANCEL))
async def cancel_task(task_id: FromPath[str], node: TheNode) -> TaskStanding:
    """Cancel a task that was submitted on its own; once this answers no attempt of it starts any more."""
    view = await node.coordinator.view_task(task_id)
    chain_id, _ = split_task_id(task_id)
    if not view.status.is_terminal and (await node.coordinator.view(chain_id)).total_tasks > 1:
        raise Conflict(f"Task {task_id} is part of a chain: cancel the chain {chain_id}.")
    await node.coordinator.cancel(chain_id)
    return TaskStanding(task_id, (await node.coordinator.view_task(task_id)).status)


tasks_router = Router(
    "/api/tasks",
    route_handlers=[submit_task, submit_parallel, show_task, explain_task, cancel_task],
    request_max_body_size=BODY_BYTES_MAX,
    tags=["tasks"],
)


def _side_by_side(document: Any) -> ChainSpec:
    if not isinstance(document, dict):
        raise InvalidChain("must be an object with 'tasks'")
    faults = [Fault(f"/{field}", "is no field of a parallel submit") for field in document if field != "tasks"]
    if faults:
        raise InvalidChain(faults)
    tasks = parse_chain(document).tasks
    awaiting = [index for index, task in enumerate(tasks) if task.depends_on]
    if awaiting:
        told = "tasks of a parallel submit wait for nobody; submit a chain"
        raise InvalidChain([Fault(f"/tasks/{index}/depends_on", told) for index in awaiting])
    return parallel_chain(tasks)


def _about_the_task(error: InvalidChain) -> InvalidTask:
    return InvalidTask([Fault(fault.place.removeprefix("/tasks/0"), fault.message) for fault in error.faults])
