"""`aicp agent …`."""

from pathlib import Path
from typing import Annotated

import typer

from aicp.cli.connection import ask
from aicp.cli.output import Format, Output, Sheet, facts, write

app = typer.Typer(help="Agents: run one, see who is there.", no_args_is_help=True)

DRAIN_S = 30.0


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


@app.command("list")
def list_agents(
    capability: Annotated[str | None, typer.Option(help="Only those who offer it.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show every agent that is registered."""
    found = ask(lambda client: client.agents(capability))
    rows = [
        (
            agent.agent_id,
            ", ".join(each.name for each in agent.capabilities),
            agent.liveness,
            agent.state,
            f"{agent.taken} of {agent.max_concurrent_tasks}",
            agent.endpoint,
        )
        for agent in found
    ]
    write(found, output, Sheet(("agent", "capabilities", "heard", "circuits", "busy", "endpoint"), rows))


@app.command()
def show(agent_id: Annotated[str, typer.Argument(help="Which.")], output: Output = Format.TABLE) -> None:
    """Show one agent."""
    agent = ask(lambda client: client.agent(agent_id))
    sheet = facts(
        agent=agent.agent_id,
        name=agent.name,
        endpoint=agent.endpoint,
        capabilities=", ".join(f"{each.name} {each.version}" for each in agent.capabilities),
        busy=f"{agent.taken} of {agent.max_concurrent_tasks}",
        heard=agent.liveness,
        circuits=agent.state,
        draining=agent.draining,
        labels=", ".join(f"{key}={value}" for key, value in agent.labels.items()),
        registered=agent.registered_at,
        instance=agent.instance_id,
    )
    write(agent, output, sheet)
