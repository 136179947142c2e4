"""The replies that transports have in common."""

from aicp.model.outcome import Outcome, Reply
from aicp.model.wire import AgentError

REASON_CHARS_MAX = 200
TOO_LARGE = "too large"
"""The symptom of a result over a limit of size or nesting."""


def fault(reason: str, *, symptom: str = "") -> Reply:
    """The agent is at fault, and may have done the work.

    Args:
        reason: Why.
        symptom: As in `Reply`: given when a living agent failed in time, so that the task may be at fault.
    """
    return Reply(Outcome.AGENT_FAULT, reason=one_line(reason), symptom=symptom)


def late(what: str, timeout_s: float) -> Reply:
    """The call's own time was over before the agent was done.

    Args:
        what: What did not come, as `no answer`.
        timeout_s: Within how many seconds.
    """
    return Reply(Outcome.AGENT_FAULT, reason=f"{what} within {timeout_s:.3g} s", timed_out=True)


def unavailable(reason: str, *, timed_out: bool = False) -> Reply:
    """The agent was not reached: nothing was executed.

    Args:
        reason: Why.
        timed_out: True when the call's own time was over before there was a connection.
    """
    return Reply(Outcome.UNAVAILABLE, reason=one_line(reason), repeatable=True, whole_agent=True, timed_out=timed_out)


def local_trouble(reason: str) -> Reply:
    """The agent was not reached for a reason of our own, which says nothing about it."""
    return Reply(Outcome.UNAVAILABLE, reason=one_line(reason), repeatable=True, evidence=False)


def misconfigured(reason: str, *, whole_agent: bool = True) -> Reply:
    """The agent cannot be called as it is registered."""
    return Reply(Outcome.MISCONFIGURED, reason=one_line(reason), repeatable=True, whole_agent=whole_agent)


def refusal(error: AgentError) -> Reply:
    """The agent says no: about the task, or (retryable) about itself."""
    reason, told = one_line(error.message or error.code), error.as_task_error()
    if not error.retryable:
        return Reply(Outcome.TASK_FAILED, error=told, reason=reason)
    return Reply(
        Outcome.AGENT_FAULT, error=told, reason=reason, repeatable=True, symptom=f"error {told.code}", transient=True
    )


def one_line(message: str) -> str:
    """A message of somebody else's on one line of at most 200 characters, fit for tables and logs."""
    line = " ".join(message[: 2 * REASON_CHARS_MAX].split())
    return line if len(line) <= REASON_CHARS_MAX else f"{line[: REASON_CHARS_MAX - 1]}…"


SHUT_DOWN = local_trouble("this node is shutting down")
