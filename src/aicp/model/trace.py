"""W3C trace context: which trace a task belongs to, as agents are told in `traceparent`.

The trace is the submitter's, if its request named one; else it is the chain's own, and its id is the chain's id.
What runs for a task says so in `subject`, so that a line of the log can tell what it is about.
"""

import hashlib
import re
from contextvars import ContextVar

import msgspec

from aicp.model.run_id import chain_of

_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SAMPLED = 1


class Subject(msgspec.Struct, frozen=True, gc=False):
    """What is being worked on.

    Attributes:
        chain_id: The chain.
        task_id: The task, global id; empty for the chain as a whole.
        agent_id: Who has the task; empty for nobody.
        traceparent: Its trace context; None for the chain's own trace.
    """

    chain_id: str
    task_id: str = ""
    agent_id: str = ""
    traceparent: str | None = None

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return task_traceparent(self.task_id or self.chain_id, self.traceparent)[3:35]


subject: ContextVar[Subject | None] = ContextVar("aicp_subject", default=None)
"""What the running code works on; None when it is no task's."""


def parse_traceparent(header: str | None) -> str | None:
    """The trace context of a request, in version 00; None when it names none, or one that cannot be understood.

    Source: https://www.w3.org/TR/trace-context/ (whoever cannot understand it starts a trace of its own).
    """
    found = _FORM.fullmatch(header.strip()) if header else None
    if found is None or (found[1] == "00" and found[5]):
        return None
    return f"00-{found[2]}-{found[3]}-{int(found[4], 16) & _SAMPLED:02x}"


def task_traceparent(task_id: str, parent: str | None = None) -> str:
    """The trace context that goes with every attempt at a task; the same whenever and wherever it is asked.

    Args:
        task_id: Global id; the task's span is made from it.
        parent: The submitter's, as `parse_traceparent` gives it; None for a trace of the chain's own.
    """
    trace_id, flags = (parent[3:35], parent[-2:]) if parent else (_own_trace(chain_of(task_id)), "01")
    return f"00-{trace_id}-{_digest(task_id)[:16]}-{flags}"


def _own_trace(chain_id: str) -> str:
    return chain_id if _TRACE_ID.fullmatch(chain_id) else _digest(chain_id)[:32]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
