"""Chains: submit, look, cancel, retry."""

from litestar import Router, get, post
from litestar.params import FromPath

from aicp.model.task import TaskStatus
from aicp.model.validation import parse_chain
from aicp.model.views import ChainStanding, ChainView
from aicp.server.auth import Scope, needs
from aicp.server.body import CHAIN_BYTES_MAX, CallerRequest, read_document, submit_key
from aicp.server.routes.parameters import TheNode, TheWaits, WaitS


@post("/", status_code=202, opt=needs(Scope.TASKS_SUBMIT))
async def submit_chain(request: CallerRequest, node: TheNode) -> ChainStanding:
    """Accept a chain, or refuse it whole with every fault and its place."""
    document = await read_document(request)
    spec = parse_chain(document)
    key = submit_key(request, document)
    chain_id = await node.coordinator.submit(spec, tenant=request.user.tenant, key=key)
    return ChainStanding(chain_id, TaskStatus.PENDING)


@get("/{chain_id:str}", opt=needs(Scope.TASKS_READ))
async def show_chain(chain_id: FromPath[str], node: TheNode, waits: TheWaits, wait_s: WaitS = 0.0) -> ChainView:
    """Where a chain and each of its tasks stand."""
    return await waits.for_end((chain_id,), lambda: node.coordinator.view(chain_id), wait_s)


@post("/{chain_id:str}/cancel", status_code=200, opt=needs(Scope.TASKS_CANCEL))
async def cancel_chain(chain_id: FromPath[str], node: TheNode) -> ChainStanding:
    """Cancel a chain; once this answers no attempt of it starts any more. One that ended stays as it is."""
    await node.coordinator.cancel(chain_id)
    return ChainStanding(chain_id, (await node.coordinator.view(chain_id)).status)


@post("/{chain_id:str}/retry", status_code=202, opt=needs(Scope.TASKS_SUBMIT))
async def retry_chain(request: CallerRequest, chain_id: FromPath[str], node: TheNode) -> ChainStanding:
    """Accept a chain that ended again, as a new one: results that are good already are copied."""
    retried = await node.coordinator.retry(chain_id, key=submit_key(request, None))
    return ChainStanding(retried, TaskStatus.PENDING)


chains_router = Router(
    "/api/tasks/chain",
    route_handlers=[submit_chain, show_chain, cancel_chain, retry_chain],
    request_max_body_size=CHAIN_BYTES_MAX,
    tags=["chains"],
)
