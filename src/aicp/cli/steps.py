"""The steps of a chain: followed to its end, written as a table, told in a sentence."""

from aicp.cli.connection import ask
from aicp.cli.exits import say
from aicp.cli.output import Format, Sheet, seconds, write
from aicp.cli.progress import follow
from aicp.client import Client
from aicp.model.chain import ChainSpec
from aicp.model.views import ChainView, TaskView


def run_at_server(spec: ChainSpec) -> ChainView:
    """Submit a chain to the server and follow it to its end; interrupted, it goes on there."""
    chain_id = ask(lambda client: client.submit_chain(spec))
    say(f"Chain {chain_id} is accepted.")
    try:
        return ask(lambda client: _follow(client, chain_id))
    except KeyboardInterrupt:
        say(f"Chain {chain_id} goes on; see `aicp chain show {chain_id}`, or `aicp chain cancel {chain_id}`.")
        raise


def write_steps(view: ChainView, output: Format) -> None:
    """Write every task of a chain: who did it, in how many attempts, how long it took."""
    rows = [_row(name, task) for name, task in view.tasks.items()]
    columns = ("task", "capability", "status", "agent", "attempts", "time", "error")
    write(view, output, Sheet(columns, rows), list(view.tasks.values()))


def tell_standing(view: ChainView) -> None:
    """Say on stderr where a chain stands."""
    ended = "" if view.ended_at is None else f" after {(view.ended_at - view.started_at).total_seconds():.3f} s"
    why = f": {view.error.message.removesuffix('.')}" if view.error else ""
    say(f"Chain {view.chain_id} is {view.status}{ended}, {view.completed_tasks} of {view.total_tasks} tasks{why}.")


async def _follow(client: Client, chain_id: str) -> ChainView:
    async def capabilities_out() -> list[str]:
        return (await client.health()).capabilities_out

    return await follow(lambda wait_s: client.get_chain(chain_id, wait_s=wait_s), capabilities_out)


def _row(name: str, task: TaskView) -> tuple[object, ...]:
    told = task.error.message if task.error else None
    taken = seconds(task.timings.total_s)
    return name, task.capability, task.status, task.agent_id, len(task.attempts), taken, told
