"""One of the demo's agents as a process: `python -m aicp.demo.agents label-1 --register URL --receipts URL`.

It loads what its work needs, then registers, and ends when its standard input does. The key comes from `AICP_API_KEY`.
"""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any

from aicp.agent import Agent, AgentOptions, Context, TaskFailed, run_agent
from aicp.agent.keys import find_api_key
from aicp.demo.cast import CAST, Part
from aicp.demo.receipts import Receipt, Receipts
from aicp.errors import InvalidInput

# A page full of small print takes a slow machine this long.
ATTEMPT_S_MAX = 120.0

Work = Callable[[dict[str, Any]], dict[str, Any]]

# Named, not imported: a process that finds colours does not load the reader's models.
_WORKS = {
    "fetch": "aicp.demo.download:fetch_url",
    "label": "aicp.demo.agents.label:label",
    "extract": "aicp.demo.agents.extract:extract",
    "analyze": "aicp.demo.agents.analyze:analyze",
    "combine": "aicp.demo.agents.combine:combine",
}
_WARM_UPS = {"extract": "aicp.demo.text:warm_up"}
_PARTS = {part.agent_id: part for part in CAST}


def make_agent(part: Part, work: Work, receipts: Receipts) -> Agent:
    """An agent with one slot that says of each task that it has begun, does it, and answers."""
    agent = Agent(part.agent_id)

    @agent.capability(part.capability, timeout_s=ATTEMPT_S_MAX)
    def handle(params: dict[str, Any], context: Context) -> dict[str, Any]:
        with receipts.announced(Receipt(part.agent_id, context.task_id)):
            return _done(work, params)

    return agent


def main() -> int:
    """Be one agent until standard input ends; returns the exit code."""
    asked = _parser().parse_args()
    part = _PARTS[asked.agent_id]
    with _dying_with_the_demo():
        work = _load(part.step)
    receipts = Receipts(asked.receipts, find_api_key(None, asked.register) or "")
    options = AgentOptions(register=asked.register, drain_s=0.0, until_stdin_closes=True)
    return run_agent(make_agent(part, work, receipts), options)


def _load(step: str) -> Work:
    """Import what the work needs, and warm it up: up to some seconds."""
    work: Work = resolve_name(_WORKS[step])
    if step in _WARM_UPS:
        resolve_name(_WARM_UPS[step])()
    return work


@contextmanager
def _dying_with_the_demo() -> Iterator[None]:
    """End the process at once if standard input ends inside the block; after it the agent itself looks there."""
    loaded = threading.Event()

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        if not loaded.is_set():
            os._exit(1)

    threading.Thread(target=watch, name="stdin while loading", daemon=True).start()
    yield
    loaded.set()


def _done(work: Work, params: dict[str, Any]) -> dict[str, Any]:
    try:
        return work(params)
    except InvalidInput as error:
        raise TaskFailed(error.code, error.message) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aicp.demo.agents", description="One of the demo's agents.")
    parser.add_argument("agent_id", choices=sorted(_PARTS))
    parser.add_argument("--register", required=True, metavar="URL", help="the AICP server")
    parser.add_argument("--receipts", required=True, metavar="URL", help="the demo's own server")
    return parser


if __name__ == "__main__":
    sys.exit(main())
