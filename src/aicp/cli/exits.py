"""What the exit code of `aicp` says, and the sentence on stderr that goes with it."""

import sys
from contextlib import suppress

from aicp.errors import AicpError

OK = 0
WORK_FAILED = 1
BAD_INPUT = 2
SERVER = 3
DEFECT = 70
UNWRITTEN = 74
INTERRUPTED = 130
PIPE_CLOSED = 141

EPILOG = (
    "Exit codes: 0 done; 1 the work failed; 2 the command or its input cannot be used; 3 the server, or every agent, "
    "could not be reached or refused; 70 a defect of AICP; 74 the output could not be written; 130 interrupted."
)

_REFUSED = frozenset(
    {
        "server_unreachable", "server_refused", "access_denied", "forbidden", "capability_refused", "queue_full",
        "storage_error", "nobody_alive",
    }
)  # fmt: skip
_FAILED = frozenset(
    {
        "error", "routing_error", "no_agent_available", "all_agents_failed", "attempt_timed_out", "deadline_exceeded",
        "circuit_open",
    }
)  # fmt: skip


def code_of(error: AicpError) -> int:
    """The exit code for an error that ends a command."""
    if error.code in _REFUSED:
        return SERVER
    return WORK_FAILED if error.code in _FAILED else BAD_INPUT


def say(sentence: str) -> None:
    """Tell a person something, on stderr, in one line."""
    # Where even this cannot be written, the exit code says it alone.
    with suppress(OSError):
        sys.stderr.write(printable(" ".join(sentence.split())) + "\n")
        sys.stderr.flush()


def printable(text: str) -> str:
    """The text without what could steer a terminal; agents and servers choose some of the words that are shown."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
