"""What an agent is: as its registration says, and for the rest as it says itself."""

import inspect
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

from aicp.errors import Fault, InvalidAgent
from aicp.model.agent import (
    BEARER_CHARS_MAX,
    BEARER_PATTERN,
    CAPABILITIES_MAX,
    AgentAuth,
    AgentProfile,
    Capability,
    Registration,
)
from aicp.model.text import kind_of
from aicp.model.wire import AgentDescription

NAME_CHARS_SHOWN_MAX = 80


class Describer(Protocol):
    """Reaches agents that run in their own process."""

    async def check(self, endpoint: str) -> None:
        """Refuse a URL at which no agent may live.

        Raises:
            InvalidAgent: Says why.
        """

    async def describe(self, endpoint: str, auth: AgentAuth | None) -> AgentDescription:
        """Ask an agent what it is."""


async def remote_profile(said: Registration, tenant: str, describer: Describer) -> AgentProfile:
    """The profile of an agent in its own process, which is asked for what its registration leaves out.

    Raises:
        InvalidAgent: It may not live where it says, or did not say what it is.
    """
    _check_bearer(said.auth)
    await describer.check(said.endpoint)
    described = None
    if said.agent_id is None or said.capabilities is None or said.max_concurrent_tasks is None:
        described = await describer.describe(said.endpoint, said.auth)
    return AgentProfile(
        agent_id=_first(said.agent_id, described and described.agent_id, ""),
        capabilities=_first(said.capabilities, described and described.capabilities, ()),
        max_concurrent_tasks=_first(said.max_concurrent_tasks, described and described.max_concurrent_tasks, 1),
        endpoint=said.endpoint,
        instance_id=_first(said.instance_id, described and described.instance_id, ""),
        name=said.name,
        labels=said.labels,
        auth=said.auth,
        tenant=tenant,
        shared=said.shared,
        lease=said.lease,
    )


def local_profile(
    agent_id: str, handlers: Mapping[str, Any] | object, max_concurrent_tasks: int, labels: dict[str, str] | None
) -> AgentProfile:
    """The profile of a local agent: each key of `handlers` is `name` or `name@major`.

    Raises:
        InvalidAgent: A key is not such a name, or its value is not a function that takes the params.
    """
    if not isinstance(handlers, Mapping):
        kind = kind_of(handlers)
        raise InvalidAgent(f"handlers must map capabilities to functions, like {{'image.label': label}}, not {kind}")
    if faults := list(_handler_faults(handlers)):
        raise InvalidAgent(faults)
    capabilities = []
    for name in handlers:
        bare, _, major = name.partition("@")
        capabilities.append(Capability(bare, version=f"{major or 1}.0"))
    return AgentProfile(agent_id, tuple(capabilities), max_concurrent_tasks, labels=labels or {}, lease=False)


def _handler_faults(handlers: Mapping[Any, Any]) -> Iterator[Fault]:
    for name, handler in islice(handlers.items(), CAPABILITIES_MAX + 1):
        place = f"/capabilities/{str(name)[:NAME_CHARS_SHOWN_MAX]}"
        bare, at, major = name.partition("@") if isinstance(name, str) else ("", "", "")
        if not bare or (at and not major.isdecimal()):
            yield Fault(place, "must be a name or name@major, like image.label@2")
        elif fault := _why_not_a_handler(handler):
            yield Fault(place, fault)


def _why_not_a_handler(function: object) -> str:
    """Why a function cannot be called with the params; empty when it can, or when it does not show its signature."""
    if not callable(function):
        return f"must be a function that takes the params, not {kind_of(function)}"
    try:
        inspect.signature(function).bind({})
    except TypeError as error:
        return f"must be a function that takes the params as its one argument: {error}"
    except ValueError:
        # Functions written in C may not have a signature to look at.
        return ""
    return ""


def _check_bearer(auth: AgentAuth | None) -> None:
    if auth is not None and not BEARER_PATTERN.fullmatch(auth.bearer):
        told = f"must be 1 to {BEARER_CHARS_MAX:,} printable ASCII characters, without blanks"
        raise InvalidAgent([Fault("/auth/bearer", told)])


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
