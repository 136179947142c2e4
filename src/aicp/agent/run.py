"""Runs an agent as a process of its own: what `aicp agent run` does."""

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from aicp.agent.agent import Agent
from aicp.agent.options import AgentOptions
from aicp.agent.process import Departure, Reason, serve_until_stopped
from aicp.agent.served import ServedAgent
from aicp.model.collector import quieten_collector

EXIT_CUT_OFF = 1
EXIT_REPLACED = 1
EXIT_SIGNAL = 128

logger = logging.getLogger("aicp.agent")


def run_agent(agent: Agent, options: AgentOptions) -> int:
    """Serve until a signal, a closed standard input (if asked for) or a newer instance ends it.

    Writes one line on stderr when it serves: `eyes-1 serves image.label on http://127.0.0.1:9001`. Uses uvloop when it
    is installed. A handler that cannot be stopped (a thread) ends with the process: then this function does not return.

    Returns:
        The exit code: 0 after a drain, 1 when calls were cut off or another instance took over, 128 + n when a second
        signal n made it hurry.

    Raises:
        SettingsError: The options cannot be used, or the address cannot be bound.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        departure = runner.run(serve_until_stopped(agent.offering(), options, _tell))
        code = _exit_code(departure)
        if departure.still_running:
            logger.error("%d handlers would not stop and end with the process", departure.still_running)
            _leave(code)
    return code


def _tell(served: ServedAgent) -> None:
    quieten_collector()
    sys.stderr.write(f"{served.agent_id} serves {served.capability_names} on {served.endpoint}\n")
    sys.stderr.flush()


def _exit_code(departure: Departure) -> int:
    if departure.hurried_by:
        return EXIT_SIGNAL + departure.hurried_by
    if departure.reason is Reason.REPLACED:
        return EXIT_REPLACED
    return EXIT_CUT_OFF if departure.cut_off else 0


def _leave(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter would wait for the threads of the pool for ever.
    os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory
