"""`aicp chain …`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from aicp.cli.connection import ask
from aicp.cli.exits import OK, WORK_FAILED
from aicp.cli.output import Format, Output, facts, write
from aicp.model.task import TaskStatus

app = typer.Typer(help="Chains of tasks.", no_args_is_help=True)

ChainId = Annotated[str, typer.Argument(help="The id that `aicp chain run` told.")]


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="The chain, JSON, YAML or TOML.")],
    agents: Annotated[
        Path | None, typer.Option(help="Run it in this process with the agents of this file; without, at the server.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Run a chain to its end and show its steps."""
    from aicp.runtime.files import read_agents, read_chain

    spec = read_chain(file)
    from aicp.cli.steps import run_at_server, tell_standing, write_steps

    if agents is None:
        view = run_at_server(spec)
    else:
        from aicp.cli.embedded import run_embedded

        view = asyncio.run(run_embedded(spec, read_agents(agents), agents))
    write_steps(view, output)
    tell_standing(view)
    raise typer.Exit(OK if view.status is TaskStatus.COMPLETED else WORK_FAILED)


@app.command()
def show(chain_id: ChainId, output: Output = Format.TABLE) -> None:
    """Show where a chain and each of its tasks stand."""
    from aicp.cli.steps import tell_standing, write_steps

    view = ask(lambda client: client.get_chain(chain_id))
    write_steps(view, output)
    tell_standing(view)


@app.command()
def cancel(chain_id: ChainId, output: Output = Format.TABLE) -> None:
    """Cancel a chain; one that has ended stays as it is."""
    standing = ask(lambda client: client.cancel_chain(chain_id))
    write(standing, output, facts(chain=standing.chain_id, status=standing.status))


@app.command()
def retry(chain_id: ChainId, output: Output = Format.TABLE) -> None:
    """Run a chain that has ended again, as a new one: only what has no good result yet is done."""
    retried = ask(lambda client: client.retry_chain(chain_id))
    write({"chain_id": retried, "retry_of": chain_id}, output, facts(chain=retried, retry_of=chain_id))
