"""AINS over HTTP: agents register, send heartbeats, are found, leave."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated

import msgspec
from litestar import Router, delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from aicp.errors import Fault, InvalidAgent, InvalidInput
from aicp.model.agent import LABELS_MAX, AgentProfile, Registration
from aicp.model.endpoint import Endpoint
from aicp.model.views import AgentPage, AgentView, Heard, Registered
from aicp.registry.directory import is_wanted, why_no_name
from aicp.routing.health import agent_health, why_out
from aicp.runtime.node import Node
from aicp.scheduling.slices import Steps, in_slices
from aicp.server.auth import Caller, Scope, needs, tell_object
from aicp.server.body import (
    BODY_BYTES_MAX,
    REGISTRATION_BYTES_MAX,
    CallerRequest,
    read_as,
    read_document,
    read_document_if_any,
)
from aicp.server.ownership import claim_check, owned_agent, seen_agent
from aicp.server.routes.parameters import TheKeys, TheNode, check_capability

PAGE_MAX = 1_000
AGENTS_A_STEP = 1_000
LOOKS_A_STEP = 200
LOOKS_OF_AGENT = 2
"""What a view of an agent costs besides its capabilities."""

Wanted = Callable[[AgentProfile], bool]
Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX, description="At most so many.")]
Cursor = Annotated[str, QueryParameter(description="`next_cursor` of the page before; empty for the first.")]

Name = Annotated[str, QueryParameter(description="Only those who are called so, by name or, without one, by id.")]
Labels = Annotated[
    list[str] | None,
    QueryParameter(description="Only those who carry this label, `key=value`; may be repeated.", max_items=LABELS_MAX),
]


class Heartbeat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an agent says to stay known.

    Attributes:
        instance_id: As it registered.
    """

    instance_id: str


class Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an agent may say that asks for no more tasks.

    Attributes:
        instance_id: As it registered; it changes nothing.
    """

    instance_id: str = ""


@post("/agents", status_code=201, opt=needs(Scope.AGENTS_WRITE), request_max_body_size=REGISTRATION_BYTES_MAX)
async def register_agent(request: CallerRequest, node: TheNode, keys: TheKeys) -> Registered:
    """Take an agent in, or take over what changed of it."""
    registration = read_as(await read_document(request), Registration, InvalidAgent)
    endpoint, caller = Endpoint.parse(registration.endpoint), request.user
    # Whose the id is may be a key that another server has just made.
    await keys.refresh_if_possible()
    registered = await node.ains.register(
        msgspec.structs.replace(registration, endpoint=endpoint.url), caller.tenant, owner=caller.owner,
        claim=claim_check(keys, caller),
    )  # fmt: skip
    tell_object(request, registered.agent_id)
    return registered


@post("/agents/{agent_id:str}/heartbeat", status_code=200, opt=needs(Scope.AGENTS_WRITE, audited=False))
async def heartbeat(request: CallerRequest, agent_id: FromPath[str], node: TheNode, keys: TheKeys) -> Heard:
    """An agent says that it lives."""
    await owned_agent(node, keys, request.user, agent_id)
    beat = read_as(await read_document(request), Heartbeat, InvalidInput)
    _check_instance(beat.instance_id)
    return Heard(node.ains.heartbeat(agent_id, beat.instance_id))


@post("/agents/{agent_id:str}/drain", status_code=200, opt=needs(Scope.AGENTS_WRITE))
async def drain_agent(request: CallerRequest, agent_id: FromPath[str], node: TheNode, keys: TheKeys) -> AgentView:
    """Give an agent no more tasks, but keep it."""
    await owned_agent(node, keys, request.user, agent_id)
    _check_instance(read_as(await read_document_if_any(request), Drain, InvalidInput).instance_id)
    node.drain_agent(agent_id)
    await node.tell_replicas()
    return _view(node, node.ains.get(agent_id), request.user)


@delete("/agents/{agent_id:str}", status_code=204, opt=needs(Scope.AGENTS_WRITE))
async def remove_agent(request: CallerRequest, agent_id: FromPath[str], node: TheNode, keys: TheKeys) -> None:
    """Forget an agent; tasks it has go on."""
    await owned_agent(node, keys, request.user, agent_id)
    node.remove_agent(agent_id)
    await node.tell_replicas()


@get("/agents/{agent_id:str}", opt=needs(Scope.AGENTS_READ))
async def show_agent(request: CallerRequest, agent_id: FromPath[str], node: TheNode) -> AgentView:
    """One agent."""
    return _view(node, seen_agent(node, request.user, agent_id), request.user)


@get("/agents", opt=needs(Scope.AGENTS_READ))
async def list_agents(request: CallerRequest, node: TheNode, limit: Limit = PAGE_MAX, cursor: Cursor = "") -> AgentPage:
    """Every agent, by id."""
    return await in_slices(_page(node, request.user, node.ains.agents(), _anybody, limit, cursor))


@get("/search", opt=needs(Scope.AGENTS_READ))
async def search_agents(
    request: CallerRequest,
    node: TheNode,
    capability: FromQuery[str] = "",
    name: Name = "",
    label: Labels = None,
    limit: Limit = PAGE_MAX,
    cursor: Cursor = "",
) -> AgentPage:
    """Everybody who offers a capability, `name` or `name@major`, is called so, and carries these labels, by id."""
    if capability or not (name or label):
        check_capability(capability)
    labels = _labels(label or [])
    some = node.ains.search(capability) if capability else node.ains.agents()
    return await in_slices(
        _page(node, request.user, some, lambda profile: is_wanted(profile, name, labels), limit, cursor)
    )


agents_router = Router(
    "/ains",
    route_handlers=[
        register_agent,
        heartbeat,
        drain_agent,
        remove_agent,
        show_agent,
        list_agents,
        search_agents,
    ],
    request_max_body_size=BODY_BYTES_MAX,
    tags=["agents"],
)


def _check_instance(instance_id: str) -> None:
    if told := why_no_name(instance_id):
        raise InvalidInput([Fault("/instance_id", told)])


def _anybody(_profile: AgentProfile) -> bool:
    return True


def _page(
    node: Node, caller: Caller, profiles: Sequence[AgentProfile], wanted: Wanted, limit: int, cursor: str
) -> Steps[AgentPage]:
    """The first behind the cursor that are wanted and seen by the caller; without those that leave meanwhile."""
    found: list[AgentProfile] = []
    for first in range(0, len(profiles), AGENTS_A_STEP):
        some = profiles[first : first + AGENTS_A_STEP]
        found += (each for each in some if each.agent_id > cursor and wanted(each) and caller.sees_agent(each))
        found.sort(key=attrgetter("agent_id"))
        del found[limit + 1 :]
        yield
    agents: list[AgentView] = []
    looks = 0
    for profile in found[:limit]:
        if node.scheduler.find_member(profile.agent_id) is not None:
            agents.append(_view(node, profile, caller))
        looks += LOOKS_OF_AGENT + len(profile.capabilities)
        if looks >= LOOKS_A_STEP:
            looks = 0
            yield
    return AgentPage(agents, found[limit - 1].agent_id if len(found) > limit else None)


def _view(node: Node, profile: AgentProfile, caller: Caller) -> AgentView:
    member = node.scheduler.member(profile.agent_id)
    health = agent_health(member, node.board)
    is_theirs = caller.is_of(profile.tenant)
    return AgentView(
        agent_id=profile.agent_id,
        name=profile.name,
        endpoint=profile.endpoint,
        instance_id=profile.instance_id,
        capabilities=profile.capabilities,
        max_concurrent_tasks=profile.max_concurrent_tasks,
        taken=member.taken,
        labels=profile.labels,
        shared=profile.shared,
        liveness=node.ains.liveness(profile.agent_id),
        state=node.board.get_state(profile.agent_id),
        draining=member.trouble.is_draining,
        registered_at=node.ains.registered_at(profile.agent_id),
        lease=profile.lease,
        silent_s=node.ains.silent_s(profile.agent_id),
        latency_ms=health.latency_ms,
        success_rate=health.success_rate,
        why_out=why_out(health),
        tenant=profile.tenant if is_theirs else None,
        owner=profile.owner or None if is_theirs else None,
    )


def _labels(told: list[str]) -> dict[str, str]:
    """What `label=key=value` asks for."""
    labels = dict(label.split("=", 1) for label in told if "=" in label)
    if len(labels) != len(told):
        raise InvalidInput([Fault("?label", "must be key=value, each key once")])
    return labels
