"""The whole demo: a server, seven agent processes, one chain over HTTP, one death on the way.

Call `aicp.demo.extra.check_extra` before this module is imported.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import msgspec

from aicp.client import Client
from aicp.demo.cast import CAST, LABEL
from aicp.demo.files import DemoReport, OutputFiles, make_report
from aicp.demo.killing import Killing
from aicp.demo.loopback import LoopbackServer, loopback_server
from aicp.demo.processes import AgentProcess, Surroundings, agent_processes
from aicp.demo.progress import AgentStarted, Progress
from aicp.demo.receipts import RECEIPT_S_MAX, Receipt
from aicp.demo.rollcall import RollCall
from aicp.demo.source import Source, find_source
from aicp.demo.story import Story, tell_story
from aicp.demo.watch import Watch
from aicp.demo.workflow import DEADLINE_S, make_chain
from aicp.errors import AicpError
from aicp.model.access import dashboard_link
from aicp.model.outcome import Outcome
from aicp.model.task import TaskStatus
from aicp.model.views import ChainView
from aicp.runtime.node import Node
from aicp.runtime.settings import Settings
from aicp.server import RunningServer, running_server

# The server itself ends the chain at its deadline; this is for a server that does not.
_PATIENCE_S = DEADLINE_S + 10.0

Tell = Callable[[Progress], None]


class Onlooker(Protocol):
    """Somebody who watches the demo on the dashboard, for as long as they like."""

    async def begin(self, link: str) -> None:
        """The run has begun; the link opens the page with it, once."""

    async def stay(self, result: "DemoResult", link: str) -> None:
        """The run has ended; return when everything may end. The link is a new one."""


class DemoOrder(msgspec.Struct, frozen=True):
    """What the user asked for.

    Attributes:
        out: Directory of the output files.
        image: Path or URL of the picture; None for the sample.
        kills: False to let every agent live.
    """

    out: Path
    image: str | None = None
    kills: bool = True


class DemoResult(msgspec.Struct, frozen=True):
    """What the demo came to.

    Attributes:
        story: Who did what.
        report: What was found; also in the report file.
        files: Where it was written.
    """

    story: Story
    report: DemoReport
    files: OutputFiles


class PictureRefused(AicpError):
    """The picture cannot be used."""

    code = "picture_refused"


class DemoFailed(AicpError):
    """The chain did not succeed."""


async def run_demo(order: DemoOrder, tell: Tell, onlooker: Onlooker | None = None) -> DemoResult:
    """Run the demo, in about ten seconds; whatever it started has ended when this returns or raises.

    Args:
        order: What the user asked for.
        tell: Called in this loop with each progress.
        onlooker: Watches it on the dashboard.

    Raises:
        InvalidInput: The picture's path or URL cannot be used.
        PictureRefused: FETCH says that the picture cannot be had or used.
        SettingsError: The output cannot be written.
        AgentMissing: An agent did not come up.
        DemoFailed: The chain failed.
    """
    source = await asyncio.to_thread(find_source, order.image)
    files = OutputFiles(order.out)
    async with _stage(order, tell) as stage:
        view = await stage.play(source, onlooker)
        story = tell_story(view, stage.pids, stage.killing.killed, stage.startup_s)
        combined = view.tasks["combine"].result
        result = DemoResult(story, make_report(combined["report"], story), files)
        files.write(result.report, combined["annotated_png_base64"])
        if onlooker is not None:
            await onlooker.stay(result, await stage.link_to(view.chain_id))
    return result


class _Stage:
    """Everything that runs while the demo does."""

    def __init__(
        self,
        server: RunningServer,
        loopback: LoopbackServer,
        agents: Mapping[str, AgentProcess],
        roll_call: RollCall,
        killing: Killing,
    ) -> None:
        self.killing = killing
        self.pids = {agent_id: agent.pid for agent_id, agent in agents.items()}
        self.startup_s = 0.0
        self._began_at = time.monotonic()
        self._server = server
        self._loopback = loopback
        self._agents = agents
        self._roll_call = roll_call

    async def play(self, source: Source, onlooker: Onlooker | None) -> ChainView:
        """The run, to its end."""
        # The sample is made while the agents load what they need.
        self._loopback.picture = await asyncio.to_thread(source.read)
        await self._roll_call.complete(self._agents)
        self.startup_s = time.monotonic() - self._began_at
        chain = make_chain(source.locate(self._loopback.picture_url), source.name)
        async with Client(self._server.url, self._server.admin_key) as client:
            chain_id = await client.submit_chain(chain)
            if onlooker is not None:
                await onlooker.begin(await self.link_to(chain_id))
            return _checked(await client.wait_chain(chain_id, timeout_s=_PATIENCE_S))

    async def link_to(self, chain_id: str) -> str:
        """What opens the dashboard with a run on it, once."""
        async with Client(self._server.url, self._server.admin_key) as client:
            made = await client.create_session_code()
        return dashboard_link(self._server.url, made.code, f"runs/{chain_id}")


@asynccontextmanager
async def _stage(order: DemoOrder, tell: Tell) -> AsyncIterator[_Stage]:
    roll_call = RollCall(part.agent_id for part in CAST)
    agents: dict[str, AgentProcess] = {}
    killing = Killing(LABEL if order.kills else None, agents, tell)
    with TemporaryDirectory(prefix="aicp-demo-") as directory:
        # A data directory of its own: the demo knows nothing of the user's keys.
        settings = Settings(port=0, data_dir=Path(directory))
        async with Node(policy=settings.policy) as node, running_server(settings, node) as server:
            node.observe(roll_call)
            node.observe(Watch(tell))
            with loopback_server(server.admin_key, _in_this_loop(killing.on_receipt)) as loopback:
                given = Surroundings(server.url, loopback.url, server.admin_key, settings.data_dir)
                async with agent_processes(given) as started:
                    agents.update(started)
                    for agent in agents.values():
                        tell(AgentStarted(agent.agent_id, agent.pid))
                    yield _Stage(server, loopback, agents, roll_call, killing)


def _in_this_loop(take: Callable[[Receipt], None]) -> Callable[[Receipt], None]:
    """`take`, for other threads: they wait until the loop has called it."""
    loop = asyncio.get_running_loop()

    async def taken(receipt: Receipt) -> None:
        take(receipt)

    return lambda receipt: asyncio.run_coroutine_threadsafe(taken(receipt), loop).result(RECEIPT_S_MAX)


def _checked(view: ChainView) -> ChainView:
    if view.status is TaskStatus.COMPLETED:
        return view
    for name, task in view.tasks.items():
        if task.status is not TaskStatus.FAILED or task.error is None:
            continue
        if name == "fetch" and task.attempts and task.attempts[-1].outcome is Outcome.TASK_FAILED:
            raise PictureRefused(task.error.message)
        raise DemoFailed(f"{name.upper()} failed: {task.error.message}")
    told = f": {view.error.message}" if view.error else ""
    raise DemoFailed(f"The chain is {view.status}{told}")
