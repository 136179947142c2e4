"""Runs a chain in this process, with the agents of a file."""

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from aicp.agent import load_agent
from aicp.cli.exits import say
from aicp.cli.progress import follow
from aicp.errors import AicpError, InvalidAgent, SettingsError
from aicp.model.agent import AgentAuth, AgentProfile, Registration
from aicp.model.chain import ChainSpec
from aicp.model.outcome import Outcome
from aicp.model.views import ChainView
from aicp.registry.naming import offered_key, wanted_key
from aicp.runtime.agents_file import AgentEntry, PythonAgent
from aicp.runtime.node import Node

REASONS_TOLD_MAX = 5
_ALIVE = frozenset({Outcome.SUCCESS, Outcome.OVERLOADED})


class NobodyAlive(AicpError):
    """No agent that the work needs is alive."""

    code = "nobody_alive"


class _Enlisted(msgspec.Struct, frozen=True):
    """An agent of the file: known with its profile or not, alive (no trouble) or not."""

    profile: AgentProfile | None
    trouble: str = ""


async def run_embedded(spec: ChainSpec, entries: Sequence[AgentEntry], file: Path) -> ChainView:
    """Run a chain on a node of its own and return how it ended.

    Agents that are Python objects are served in this process, on loopback and behind a token of their own. Agents that
    do not answer are told on stderr; the chain runs if for each capability somebody is alive.

    Raises:
        SettingsError: A Python agent cannot be loaded, two agents have one id, or nobody offers a capability.
        NobodyAlive: Who offers a capability does not answer.
    """
    async with AsyncExitStack() as running:
        registrations = [await _served(entry, running) for entry in entries]
        node = await running.enter_async_context(Node())
        enlisted = await asyncio.gather(*(_enlist(node, registration) for registration in registrations))
        _check_ids(enlisted, file)
        _check_alive(spec, enlisted, file)
        return await _follow(node, await node.coordinator.submit(spec))


async def _follow(node: Node, chain_id: str) -> ChainView:
    async def look(wait_s: float) -> ChainView:
        view = await node.coordinator.wait(chain_id, wait_s)
        return msgspec.convert(msgspec.to_builtins(view), ChainView)

    async def capabilities_out() -> list[str]:
        return node.scheduler.capabilities_out()

    return await follow(look, capabilities_out)


async def _served(entry: AgentEntry, running: AsyncExitStack) -> Registration:
    if isinstance(entry, Registration):
        return msgspec.structs.replace(entry, lease=False)
    return await _serve(entry, running)


async def _serve(entry: PythonAgent, running: AsyncExitStack) -> Registration:
    agent = load_agent(entry.python)
    token = secrets.token_urlsafe()
    served = await running.enter_async_context(agent.serving(token=token, drain_s=0.0))
    return Registration(
        served.endpoint,
        auth=AgentAuth(token),
        name=agent.name,
        max_concurrent_tasks=entry.max_concurrent_tasks,
        labels={**agent.labels, **entry.labels},
        lease=False,
    )


async def _enlist(node: Node, registration: Registration) -> _Enlisted:
    try:
        registered = await node.ains.register(registration)
    except InvalidAgent as error:
        return _Enlisted(None, f"{registration.endpoint}: {error.faults[0].message}")
    profile = node.ains.get(registered.agent_id)
    reply = await node.transport.probe(profile)
    trouble = "" if reply.outcome in _ALIVE else f"{profile.agent_id} ({profile.endpoint}): {reply.reason}"
    return _Enlisted(profile, trouble)


def _check_ids(enlisted: Iterable[_Enlisted], file: Path) -> None:
    seen: set[str] = set()
    for each in enlisted:
        if each.profile is not None and each.profile.agent_id in seen:
            raise SettingsError(f"{file} has two agents with the id '{each.profile.agent_id}'; give one another.")
        seen |= {each.profile.agent_id} if each.profile is not None else set()


def _check_alive(spec: ChainSpec, enlisted: Sequence[_Enlisted], file: Path) -> None:
    troubles = [each.trouble for each in enlisted if each.trouble]
    told = "; ".join(troubles[:REASONS_TOLD_MAX])
    offered = {key for each in enlisted for key in _keys(each)}
    alive = {key for each in enlisted if not each.trouble for key in _keys(each)}
    for key in {wanted_key(task.capability): None for task in spec.tasks}:
        if key in alive:
            continue
        if key not in offered and not troubles:
            raise SettingsError(f"No agent of {file} offers '{key}': they offer {', '.join(sorted(offered))}.")
        raise NobodyAlive(f"No agent of {file} that is alive offers '{key}' ({told}): start one, or correct the file.")
    if troubles:
        say(f"Some agents of {file} do not answer, the others do their work: {told}.")


def _keys(each: _Enlisted) -> list[str]:
    return [offered_key(capability) for capability in each.profile.capabilities] if each.profile is not None else []
