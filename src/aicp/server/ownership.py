"""Whose an agent is, and what follows from that for who may see, use and change it.

| the agent | its owner's key | other keys of its tenant | `admin` of its tenant | other tenants |
|---|---|---|---|---|
| see it | yes | yes | yes | only if shared |
| reset, open, disable its circuits | yes | yes | yes | 404, or 403 if shared |
| replace, heartbeat, drain, delete it | yes | 403 | yes | 404 (register: 409), or 403 if shared |

A key of every tenant counts as one of the agent's.
"""

from collections.abc import Callable

from msgspec.structs import replace

from aicp.errors import CapabilityRefused, Conflict, Forbidden
from aicp.model.access import Scope
from aicp.model.agent import AgentProfile
from aicp.registry.directory import no_agent
from aicp.registry.naming import offered_key
from aicp.runtime.node import Node
from aicp.server.keys import Caller, Keys
from aicp.server.problems import NotOwner


def seen_agent(node: Node, caller: Caller, agent_id: str) -> AgentProfile:
    """An agent that the caller may see.

    Raises:
        AgentNotFound: There is none, as far as the caller may know.
    """
    profile = node.ains.get(agent_id)
    if not caller.sees_agent(profile):
        raise no_agent(agent_id)
    return profile


def operated_agent(node: Node, caller: Caller, agent_id: str) -> AgentProfile:
    """An agent whose circuits the caller may operate.

    Raises:
        AgentNotFound: There is none, as far as the caller may know.
        NotOwner: It is of another tenant, which shares it.
    """
    profile = seen_agent(node, caller, agent_id)
    if not caller.is_of(profile.tenant):
        raise NotOwner(f"Agent '{agent_id}' is another tenant's: it may be used, and not be operated.")
    return profile


async def owned_agent(node: Node, keys: Keys, caller: Caller, agent_id: str) -> AgentProfile:
    """An agent that the caller may replace, keep alive, drain and delete.

    Raises:
        AgentNotFound: There is none, as far as the caller may know.
        NotOwner: It is another key's.
    """
    profile = operated_agent(node, caller, agent_id)
    if profile.owner not in {"", caller.owner}:
        await keys.learn_of(profile.owner)
    if not _owns(keys, caller, profile):
        raise NotOwner(f"Agent '{agent_id}' was registered with another key: use that one, or one with scope 'admin'.")
    return profile


def may_share(caller: Caller) -> bool:
    """True when the agents of a caller may serve every tenant: whoever shares an agent gets others' tasks."""
    return caller.sees is None and caller.may(Scope.ADMIN)


def claim_check(keys: Keys, caller: Caller) -> Callable[[AgentProfile, AgentProfile | None], AgentProfile]:
    """What decides on a registration at the moment it would take its place.

    What it returns takes the new profile and that of who has the id now, and gives the profile to put there: whoever
    replaces an agent for somebody else leaves it with its owner and tenant. It raises Forbidden, NotOwner, or Conflict
    for an id that is another tenant's, of which no more is told than that it cannot be had.
    """

    def check(new: AgentProfile, old: AgentProfile | None) -> AgentProfile:
        if new.shared and not may_share(caller):
            raise Forbidden("Only an admin of every tenant may share an agent: leave out 'shared'.")
        _check_capabilities(caller, new)
        if old is None:
            return new
        if not caller.is_of(old.tenant):
            if old.shared:
                raise NotOwner(f"Agent '{old.agent_id}' is another tenant's: choose another id.")
            raise Conflict(f"The agent id '{old.agent_id}' cannot be used here: choose another one.")
        if not _owns(keys, caller, old):
            raise NotOwner(f"Agent '{old.agent_id}' was registered with another key: use that one, or another id.")
        return _left_with_its_owner(keys, new, old)

    return check


def _check_capabilities(caller: Caller, profile: AgentProfile) -> None:
    """A key that is made for some capabilities must not draw the tasks of others to an agent of its own."""
    allowed = caller.grant.capabilities
    if allowed is None:
        return
    for key in map(offered_key, profile.capabilities):
        if key not in allowed:
            raise CapabilityRefused(key, "register agents")


def _owns(keys: Keys, caller: Caller, profile: AgentProfile) -> bool:
    """An agent whose key is good no more is any key's of its tenant, so that keys can be changed."""
    if caller.may(Scope.ADMIN) or profile.owner == caller.owner:
        return True
    return bool(profile.owner) and not keys.is_good(profile.owner)


def _left_with_its_owner(keys: Keys, new: AgentProfile, old: AgentProfile) -> AgentProfile:
    """A key of every tenant makes new agents for a tenant of its own, and these are somebody's."""
    return replace(new, tenant=old.tenant, owner=old.owner if keys.is_good(old.owner) else new.owner)
