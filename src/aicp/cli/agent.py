"""`aicp agent …`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aicp.cli.completion import agent_ids, capabilities
from aicp.cli.connection import ask
from aicp.cli.exits import say
from aicp.cli.output import Format, Output, Sheet, facts, write
from aicp.cli.pairs import pairs_of
from aicp.model.agent import Capability, Registration
from aicp.model.views import AgentView
from aicp.runtime.bearers import bearer_in_file

app = typer.Typer(help="Agents: run one, make one known, see who is there.", no_args_is_help=True)

DRAIN_S = 30.0
AgentId = Annotated[str, typer.Argument(metavar="AGENT_ID", help="Which.", autocompletion=agent_ids)]
LabelOptions = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label; may be repeated.")
]


@app.command()
def run(
    target: Annotated[str, typer.Argument(metavar="MODULE:AGENT", help="Where the agent is, such as eyes:agent.")],
    host: Annotated[str, typer.Option(help="Address to bind; anything but loopback needs --token-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind; 0 for any free one.")] = 0,
    register: Annotated[str | None, typer.Option(metavar="URL", help="Register with the AICP server there.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with the token that callers must show; AICP is told.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Where AICP reaches the agent, if not at the bound address.")
    ] = None,
    drain_s: Annotated[
        float, typer.Option("--drain-s", help="Seconds that calls in flight may take when it stops.")
    ] = DRAIN_S,
    until_stdin_closes: Annotated[
        bool, typer.Option("--until-stdin-closes", help="Stop when standard input ends, as when the parent dies.")
    ] = False,
) -> None:
    """Run an agent in this process until SIGTERM or Ctrl-C, then let its calls end."""
    from aicp.agent import AgentOptions, load_agent, run_agent

    options = AgentOptions(
        host=host,
        port=port,
        register=register,
        token_file=token_file,
        endpoint=endpoint,
        drain_s=drain_s,
        until_stdin_closes=until_stdin_closes,
    )
    raise typer.Exit(run_agent(load_agent(target), options))


@app.command()
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where it answers, such as http://127.0.0.1:9001.")],
    agent_id: Annotated[str | None, typer.Option("--id", help="Under which it is known; else as it says.")] = None,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="How many tasks it takes at once; else as it says itself.")
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What it can do, name or name@version; may be repeated. Else as it says."),
    ] = None,
    label: LabelOptions = None,
    token_file: Annotated[Path | None, typer.Option(help="A file with the token to show it with every call.")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="It serves every tenant.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Make an agent known that runs already; what is left out it is asked for, at its /describe.

    It sends no heartbeats: the server asks it every 15 s how it is. Adding it again takes over what changed.
    """
    registration = Registration(
        url,
        agent_id,
        name=name or "",
        auth=None if token_file is None else bearer_in_file(token_file),
        capabilities=tuple(map(_capability, capability)) if capability else None,
        max_concurrent_tasks=slots,
        labels=pairs_of(label or (), "--label"),
        shared=shared,
        lease=False,
    )

    async def added(client: Any) -> AgentView:
        registered = await client.register_agent(registration)
        for warning in registered.warnings:
            say(f"{warning.place}: {warning.message}.")
        view: AgentView = await client.agent(registered.agent_id)
        return view

    agent = ask(added)
    write(agent, output, _facts(agent))


@app.command("list")
def list_agents(
    capability: Annotated[
        str | None, typer.Option(help="Only those who offer it: name, or name@major.", autocompletion=capabilities)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only those who are called so.")] = None,
    label: LabelOptions = None,
    output: Output = Format.TABLE,
) -> None:
    """Show every agent that is registered, or those who offer, are called and carry what is asked for."""
    labels = pairs_of(label or (), "--label")
    found = ask(lambda client: client.agents(capability, name=name, labels=labels))
    rows = [
        (
            agent.agent_id, _offer(agent), _liveness(agent), agent.state, _busy(agent), _milliseconds(agent),
            _percent(agent), agent.endpoint, _why_out(agent),
        )
        for agent in found
    ]  # fmt: skip
    columns = ("agent", "capabilities", "heard", "circuits", "busy", "latency", "success", "endpoint", "out because")
    write(found, output, Sheet(columns, rows))


@app.command()
def show(agent_id: AgentId, output: Output = Format.TABLE) -> None:
    """Show one agent."""
    agent = ask(lambda client: client.agent(agent_id))
    write(agent, output, _facts(agent))


@app.command()
def drain(agent_id: AgentId, output: Output = Format.TABLE) -> None:
    """Give an agent no more tasks, but keep it; what it has it ends. Registering it again ends that."""
    agent = ask(lambda client: client.drain_agent(agent_id))
    write(agent, output, _facts(agent))


@app.command()
def remove(agent_id: AgentId, output: Output = Format.TABLE) -> None:
    """Forget an agent; tasks it has go on. One that sends heartbeats comes back with the next."""
    ask(lambda client: client.remove_agent(agent_id))
    write({"agent_id": agent_id, "removed": True}, output, facts(agent=agent_id, removed=True))


def _facts(agent: AgentView) -> Sheet:
    return facts(
        agent=agent.agent_id,
        name=agent.name,
        endpoint=agent.endpoint,
        capabilities=", ".join(f"{each.name} {each.version}" for each in agent.capabilities),
        busy=_busy(agent),
        heard=_liveness(agent),
        heartbeats=agent.lease,
        circuits=agent.state,
        out_because=_why_out(agent),
        latency=_milliseconds(agent),
        success=_percent(agent),
        draining=agent.draining,
        shared=agent.shared,
        tenant=agent.tenant,
        owner=agent.owner,
        labels=", ".join(f"{key}={value}" for key, value in agent.labels.items()),
        registered=agent.registered_at,
        instance=agent.instance_id,
    )


def _offer(agent: AgentView) -> str:
    """What it can do, with the major where a task has to name it."""
    majors = ((each.name, each.version.partition(".")[0]) for each in agent.capabilities)
    return ", ".join(name if major == "1" else f"{name}@{major}" for name, major in majors)


def _busy(agent: AgentView) -> str:
    return f"{agent.taken} of {agent.max_concurrent_tasks}"


def _liveness(agent: AgentView) -> str:
    if agent.silent_s is None or agent.liveness == "HEARD":
        return agent.liveness
    return f"{agent.liveness} {agent.silent_s:.0f} s"


def _why_out(agent: AgentView) -> str:
    """Why it may not be used: once when that holds for all it offers, else for each."""
    reasons = set(agent.why_out.values())
    if len(reasons) == 1 and len(agent.why_out) == len(agent.capabilities):
        return reasons.pop()
    return "; ".join(f"{key}: {why}" for key, why in agent.why_out.items())


def _milliseconds(agent: AgentView) -> str | None:
    return None if agent.latency_ms is None else f"{agent.latency_ms:.0f} ms"


def _percent(agent: AgentView) -> str | None:
    return None if agent.success_rate is None else f"{agent.success_rate:.1%}"


def _capability(told: str) -> Capability:
    name, at, version = told.partition("@")
    return Capability(name, version if at else "1.0")
