"""One tree of errors: stable codes, typed fields, sentences for people."""

import inspect
import re

import pytest

from aicp import errors
from aicp.errors import (
    AicpError,
    AllAgentsFailed,
    CircuitBreakerOpen,
    Fault,
    InvalidChain,
    InvalidInput,
    NoAgentAvailable,
    NoCapableAgent,
    QueueFull,
    TaskNotFound,
)
from aicp.model.outcome import Outcome

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, AicpError)]


class Tried:
    """An attempt, as far as an error looks at it."""

    def __init__(self, agent_id: str, outcome: Outcome, reason: str) -> None:
        self.agent_id = agent_id
        self.outcome = outcome
        self.reason = reason


def drawn_tree() -> dict[str, str]:
    """The parent of each class as it is drawn on top of the module."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"( +(?:[│├└─ ]*))([A-Z]\w+)\b", line)
        if found is None or found[2] not in vars(errors):
            continue
        depth, name = len(found[1]), found[2]
        above = [pair for pair in above if pair[0] < depth]
        if above:
            parents[name] = above[-1][1]
        above.append((depth, name))
    return parents


def test_the_tree_is_as_it_is_drawn() -> None:
    real = {error.__name__: error.__bases__[0].__name__ for error in CLASSES if error is not AicpError}
    assert drawn_tree() == real


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)
    assert all("code" in vars(error) for error in CLASSES), "none is inherited by mistake"


@pytest.mark.parametrize("error", CLASSES)
def test_the_first_line_of_the_docstring_is_a_sentence(error: type[AicpError]) -> None:
    assert error.default_message().endswith(".")
    assert error.default_message()[0].isupper()


def test_an_error_without_a_message_says_its_docstring() -> None:
    assert TaskNotFound().message == str(TaskNotFound()) == "There is no such task."
    assert TaskNotFound("There is no task 'x'.").message == "There is no task 'x'."


def test_an_invalid_input_tells_its_faults_with_their_places() -> None:
    error = InvalidChain([Fault("/tasks/0/id", "is empty"), Fault("", "makes no sense")])
    assert error.message == "The chain cannot be used: /tasks/0/id: is empty; makes no sense"
    assert error.faults == (Fault("/tasks/0/id", "is empty"), Fault("", "makes no sense"))


def test_an_invalid_input_may_be_one_sentence() -> None:
    error = InvalidInput("must be an object")
    assert error.faults == (Fault("", "must be an object"),)
    assert error.message == "The input cannot be used: must be an object"


def test_a_message_stays_readable_however_many_faults_there_are() -> None:
    error = InvalidInput([Fault(f"/{number}", "is wrong") for number in range(1_000)])
    assert error.message.endswith("/4: is wrong (and 995 more)")
    assert len(error.faults) == 1_000


def test_no_agent_available_says_why_and_when_to_come_back() -> None:
    error = NoAgentAvailable("image.label", 2.5, [f"eyes-{number}: circuit open" for number in range(20)])
    assert error.reasons == tuple(f"eyes-{number}: circuit open" for number in range(8))
    assert error.message.startswith("No agent for 'image.label' is available (eyes-0: circuit open; ")
    assert error.message.endswith("; retry after 2.5 s.")
    assert (error.retry_after_s, error.retryable) == (2.5, True)


def test_all_agents_failed_tells_the_last_attempts() -> None:
    attempts = [Tried(f"eyes-{number}", Outcome.AGENT_FAULT, "status 500") for number in range(20)]
    error = AllAgentsFailed("c.label", attempts)
    assert len(error.attempts) == 20
    assert "Task c.label failed at every agent tried, 20 attempts (eyes-12: AGENT_FAULT status 500; " in error.message
    assert "at every agent tried, 1 attempt (eyes-0: " in AllAgentsFailed("c.label", attempts[:1]).message


def test_no_capable_agent_names_the_capability() -> None:
    error = NoCapableAgent("image.lable")
    assert (error.capability, error.retryable) == ("image.lable", False)
    assert "'image.lable'" in error.message


def test_an_open_circuit_makes_its_sentence_only_when_read() -> None:
    error = CircuitBreakerOpen("eyes-1", 1.234)
    assert error.args == ("eyes-1", 1.234)
    assert error.message == str(error) == "Circuit 'eyes-1' is open; retry after 1.23 s."


def test_a_full_queue_says_when_a_submit_has_a_chance() -> None:
    assert QueueFull("100 tasks are unfinished.", 1.5).retry_after_s == 1.5
