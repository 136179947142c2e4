"""Chains: submit, list, look, draw, cancel, retry."""

from typing import Annotated

from litestar import MediaType, Router, get, post
from litestar.params import FromPath, QueryParameter

from aicp.coordination.chain_changes import NOWHERE, Place, parse_place
from aicp.coordination.chain_graph import mermaid
from aicp.errors import ChainNotFound, Fault, InvalidInput
from aicp.model.task import TaskStatus
from aicp.model.trace import parse_traceparent
from aicp.model.validation import check_chain, parse_chain
from aicp.model.views import ChainChanges, ChainPage, ChainStanding, ChainView
from aicp.model.wire import TRACE_HEADER
from aicp.ports import ChainQuery
from aicp.scheduling.slices import in_slices
from aicp.server.auth import Scope, check_may_wait, needs, tell_object
from aicp.server.body import CHAIN_BYTES_MAX, CallerRequest, read_submit, submit_key
from aicp.server.routes.answers import warned
from aicp.server.routes.parameters import (
    LISTED,
    ListCursor,
    ListLimit,
    NamePrefix,
    Status,
    SubmittedFrom,
    SubmittedTo,
    SubmitWaitS,
    TheNode,
    TheNodeAndWaits,
    WaitS,
    check_name_prefix,
    cursor_fault,
    times_between,
)

Results = Annotated[
    bool, QueryParameter(description="False for tasks in short, without results: those are asked for one by one.")
]
Since = Annotated[
    str, QueryParameter(description="With `results=false`: only tasks that changed since the answer with this `seq`.")
]


@post("/", status_code=202, opt=needs(Scope.TASKS_SUBMIT))
async def submit_chain(
    request: CallerRequest, node_and_waits: TheNodeAndWaits, wait_s: SubmitWaitS = 0.0
) -> ChainStanding | ChainView:
    """Accept a chain, or refuse it whole with every fault and its place; with `wait_s`, answer as a look at it does."""
    check_may_wait(request.user, wait_s)
    node, waits = node_and_waits
    spec, key = await read_submit(request, parse_chain, lambda document: check_chain(parse_chain(document)))
    caller, trace = request.user, parse_traceparent(request.headers.get(TRACE_HEADER))
    chain_id = await node.coordinator.submit(spec, tenant=caller.tenant, key=key, traceparent=trace, grant=caller.grant)
    tell_object(request, chain_id)
    expected = node.coordinator.expected(chain_id)
    if wait_s:
        view = await waits.for_end((chain_id,), lambda: node.coordinator.view(chain_id), wait_s)
        return warned(view, expected)
    return warned(ChainStanding(chain_id, TaskStatus.PENDING), expected)


@get("/", opt=needs(Scope.TASKS_READ))
async def list_chains(
    request: CallerRequest,
    node: TheNode,
    status: Status = None,
    name: NamePrefix = "",
    submitted_from: SubmittedFrom = "",
    submitted_to: SubmittedTo = "",
    limit: ListLimit = LISTED,
    cursor: ListCursor = "",
) -> ChainPage:
    """Chains, newest first; a page may have fewer than `limit`, and yet a `next_cursor`."""
    check_name_prefix(name)
    first, last = times_between(submitted_from, submitted_to)
    query = ChainQuery(
        request.user.sees, status, limit, cursor or None, name=name, submitted_from=first, submitted_to=last
    )
    try:
        return await node.coordinator.list_chains(query)
    except ChainNotFound as error:
        raise cursor_fault(error) from None


@get("/{chain_id:str}", opt=needs(Scope.TASKS_READ))
async def show_chain(
    request: CallerRequest,
    chain_id: FromPath[str],
    node_and_waits: TheNodeAndWaits,
    wait_s: WaitS = 0.0,
    results: Results = True,  # noqa: FBT002 - a parameter of the query
    since: Since = "",
) -> ChainView | ChainChanges:
    """Where a chain and each of its tasks stand; in short, and only what changed, for whoever follows a large one."""
    node, waits = node_and_waits
    coordinator, sees = node.coordinator, request.user.sees
    if results:
        if since:
            raise InvalidInput([Fault("?since", "tells changes in short: add results=false")])
        return await waits.for_end((chain_id,), lambda: coordinator.view(chain_id, sees), wait_s)
    place = _place(since)
    return await waits.for_end((chain_id,), lambda: coordinator.changes(chain_id, place, sees), wait_s)


@get("/{chain_id:str}/graph", media_type=MediaType.TEXT, opt=needs(Scope.TASKS_READ))
async def draw_chain(request: CallerRequest, chain_id: FromPath[str], node: TheNode) -> str:
    """A chain as text that Mermaid draws: every task with its status and attempts, and who waits for whom."""
    return await in_slices(mermaid(await node.coordinator.view(chain_id, request.user.sees)))


@post("/{chain_id:str}/cancel", status_code=200, opt=needs(Scope.TASKS_CANCEL))
async def cancel_chain(request: CallerRequest, chain_id: FromPath[str], node: TheNode) -> ChainStanding:
    """Cancel a chain; once this answers no attempt of it starts any more. One that ended stays as it is.

    `cancelling` is true when another replica runs it and has not come to it: it will, and nobody need ask again.
    """
    await node.coordinator.cancel(chain_id, request.user.sees)
    status = await node.coordinator.status_of(chain_id)
    return ChainStanding(chain_id, status, cancelling=not status.is_terminal)


@post("/{chain_id:str}/retry", status_code=202, opt=needs(Scope.TASKS_SUBMIT))
async def retry_chain(request: CallerRequest, chain_id: FromPath[str], node: TheNode) -> ChainStanding:
    """Accept a chain that ended again, as a new one: results that are good already are copied."""
    retried = await node.coordinator.retry(
        chain_id,
        tenant=request.user.sees,
        key=submit_key(request, None),
        traceparent=parse_traceparent(request.headers.get(TRACE_HEADER)),
        grant=request.user.grant,
    )
    tell_object(request, retried)
    return warned(ChainStanding(retried, TaskStatus.PENDING), node.coordinator.expected(retried))


chains_router = Router(
    "/api/tasks/chain",
    route_handlers=[submit_chain, list_chains, show_chain, draw_chain, cancel_chain, retry_chain],
    request_max_body_size=CHAIN_BYTES_MAX,
    tags=["chains"],
)


def _place(since: str) -> Place:
    if not since:
        return NOWHERE
    if (place := parse_place(since)) is None:
        raise InvalidInput([Fault("?since", "is no 'seq' that an answer gave: leave it out for every task")])
    return place
