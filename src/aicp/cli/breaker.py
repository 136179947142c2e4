"""`aicp breaker …`."""

from typing import Annotated

import typer

from aicp.cli.completion import agent_ids
from aicp.cli.connection import ask
from aicp.cli.output import Format, Output, Sheet, facts, seconds, write

app = typer.Typer(help="The circuits between AICP and its agents.", no_args_is_help=True)

AgentId = Annotated[str, typer.Argument(help="Whose circuits.", autocompletion=agent_ids)]


@app.command("list")
def list_breakers(output: Output = Format.TABLE) -> None:
    """Show every agent's circuit for every capability, and why it may not be used."""
    health = ask(lambda client: client.health())
    rows = [
        (
            agent_id, key, each.state, f"{each.why_out}: {each.reason}" if each.reason else each.why_out,
            seconds(each.retry_after_s), agent.success_count, agent.failure_count,
        )
        for agent_id, agent in health.agents.items()
        for key, each in agent.capabilities.items()
    ]  # fmt: skip
    columns = ("agent", "capability", "state", "out because", "retry in", "successes", "failures")
    lines = [{"agent_id": agent_id, "health": agent} for agent_id, agent in health.agents.items()]
    write(health, output, Sheet(columns, rows), lines)


@app.command()
def reset(agent_id: AgentId, output: Output = Format.TABLE) -> None:
    """Close an agent's circuits, forget that it was set aside, and use it again at once."""
    state = ask(lambda client: client.reset(agent_id))
    write(state, output, facts(agent=state.agent_id, state=state.state))


@app.command("open")
def open_breaker(agent_id: AgentId, output: Output = Format.TABLE) -> None:
    """Open an agent's circuits by hand: it gets no task until they are reset."""
    state = ask(lambda client: client.open_agent(agent_id))
    write(state, output, facts(agent=state.agent_id, state=state.state))


@app.command()
def disable(agent_id: AgentId, output: Output = Format.TABLE) -> None:
    """Disable an agent's circuits: it gets tasks whatever becomes of them, until they are reset."""
    state = ask(lambda client: client.disable_agent(agent_id))
    write(state, output, facts(agent=state.agent_id, state=state.state))
