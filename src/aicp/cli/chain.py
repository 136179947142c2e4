"""`aicp chain …`."""

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from aicp.cli.completion import chain_ids
from aicp.cli.connection import ask, run_to_end
from aicp.cli.lists import LIMIT, TIMES, ChainFilters, Limit, Status, show_chains
from aicp.cli.output import Format, Output, facts, tell_warning, write, write_plain

app = typer.Typer(help="Chains of tasks.", no_args_is_help=True)

ChainId = Annotated[str, typer.Argument(help="The id that `aicp chain run` told.", autocompletion=chain_ids)]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for its end, and say by the exit code how that was.")]


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="The chain, JSON, YAML or TOML.")],
    agents: Annotated[
        Path | None, typer.Option(help="Run it in this process with the agents of this file; without, at the server.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Run a chain to its end and show its steps."""
    from aicp.runtime.agents_file import read_agents
    from aicp.runtime.files import read_chain

    spec = read_chain(file)
    from aicp.cli.steps import exit_with, run_at_server, tell_standing, write_steps

    if agents is None:
        view = run_at_server(spec)
    else:
        from aicp.cli.embedded import run_embedded

        view = run_to_end(partial(run_embedded, spec, read_agents(agents), agents))
    write_steps(view, output)
    tell_standing(view)
    raise exit_with(view)


@app.command()
def show(chain_id: ChainId, wait: Wait = False, output: Output = Format.TABLE) -> None:
    """Show where a chain and each of its tasks stand, and when who did what."""
    from aicp.cli.steps import exit_with, follow_at_server, tell_standing, write_steps, write_timeline

    view = follow_at_server(chain_id) if wait else ask(lambda client: client.get_chain(chain_id))
    write_steps(view, output)
    if output is Format.TABLE:
        write_timeline(view)
    tell_standing(view)
    if wait:
        raise exit_with(view)


@app.command("list")
def list_chains(
    status: Status = None,
    name: Annotated[str | None, typer.Option("--name", help="Only those whose name begins so.")] = None,
    submitted_from: Annotated[
        datetime | None,
        typer.Option("--from", formats=TIMES, help="Only those submitted then or later; local time without a zone."),
    ] = None,
    submitted_to: Annotated[
        datetime | None, typer.Option("--to", formats=TIMES, help="Only those submitted before then.")
    ] = None,
    limit: Limit = LIMIT,
    output: Output = Format.TABLE,
) -> None:
    """Show the newest chains."""
    show_chains(ChainFilters(status, name, submitted_from, submitted_to), limit, output)


@app.command()
def graph(chain_id: ChainId, output: Output = Format.TABLE) -> None:
    """Draw a chain: text for Mermaid, with every task, its status and its attempts."""
    drawn = ask(lambda client: client.draw_chain(chain_id))
    if output is Format.TABLE:
        write_plain(drawn)
    else:
        write({"chain_id": chain_id, "mermaid": drawn}, output, facts())


@app.command()
def cancel(chain_id: ChainId, output: Output = Format.TABLE) -> None:
    """Cancel a chain; one that has ended stays as it is."""
    standing = ask(lambda client: client.cancel_chain(chain_id))
    write(standing, output, facts(chain=standing.chain_id, status=standing.status))


@app.command()
def retry(chain_id: ChainId, wait: Wait = False, output: Output = Format.TABLE) -> None:
    """Run a chain that has ended again, as a new one: only what has no good result yet is done.

    If it will probably outlast its deadline, a warning on stderr says so.
    """
    accepted = ask(lambda client: client.accept_retry(chain_id))
    retried = accepted.chain_id
    warned = tell_warning(accepted)
    if wait:
        _show_end(retried, output)
    write({"chain_id": retried, "retry_of": chain_id, **warned}, output, facts(chain=retried, retry_of=chain_id))


def _show_end(chain_id: str, output: Format) -> None:
    from aicp.cli.steps import exit_with, follow_at_server, tell_standing, write_steps

    view = follow_at_server(chain_id)
    write_steps(view, output)
    tell_standing(view)
    raise exit_with(view)
