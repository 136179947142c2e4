"""64 levels are as deep as JSON may be, wherever it comes from or goes."""

import json
from typing import Any

import pytest

from aicp.model.nesting import is_deeper_than, is_too_deep
from aicp.model.outcome import Outcome
from aicp.model.task import Call
from aicp.transports import verdict
from aicp.transports.sending import Refused, encode

CALL = Call("c.t", "x", {})


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(("levels", "too_deep"), [(0, False), (1, False), (64, False), (65, True), (500, True)])
def test_depth_is_counted_from_the_first_bracket(levels: int, too_deep: bool) -> None:  # noqa: FBT001 - a parameter
    value = nested(levels)
    assert is_deeper_than(value) is too_deep
    assert is_too_deep(value, json.dumps(value).encode()) is too_deep


def test_many_brackets_side_by_side_are_not_deep() -> None:
    value: list[Any] = [[] for _ in range(1_000)]
    assert not is_too_deep(value, json.dumps(value).encode())


@pytest.mark.parametrize(("levels", "outcome"), [(64, Outcome.SUCCESS), (65, Outcome.AGENT_FAULT)])
def test_answer_of_an_agent_may_be_so_deep(levels: int, outcome: Outcome) -> None:
    body = json.dumps({"task_id": "c.t", "result": nested(levels)}).encode()
    assert verdict.of_answer(body, CALL).outcome is outcome


def test_params_that_grew_too_deep_by_what_was_put_in_are_not_sent() -> None:
    assert encode(Call("c.t", "x", {"in": nested(63)}))
    with pytest.raises(Refused) as refused:
        encode(Call("c.t", "x", {"in": nested(64)}))
    assert refused.value.reply.outcome is Outcome.CALLER_FAULT
