import dataclasses
import math
from typing import Any

import msgspec
import pytest

from aicp.agent.answers import UnusableAnswer, encode_answer, encode_failure, encode_refusal
from aicp.model.wire import ANSWER_BYTES_MAX, AgentError


@dataclasses.dataclass
class Face:
    left: float
    name: str | None


def test_answer_carries_the_task_and_the_result_none_included() -> None:
    assert encode_answer("t-1", {"faces": []}) == b'{"task_id":"t-1","result":{"faces":[]}}'
    assert encode_answer("t-1", None) == b'{"task_id":"t-1","result":null}'


def test_dataclasses_are_written_as_objects() -> None:
    assert msgspec.json.decode(encode_answer("t-1", Face(1.5, None)))["result"] == {"left": 1.5, "name": None}


@pytest.mark.parametrize(
    "result",
    [math.nan, math.inf, {"a": [1, {"b": -math.inf}]}, (1, math.nan), Face(math.nan, "x"), {"a": None, "b": math.nan}],
)
def test_answer_with_nan_or_infinity_is_refused_and_not_written_as_null(result: Any) -> None:
    with pytest.raises(UnusableAnswer, match="NaN or infinity"):
        encode_answer("t-1", result)


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize("result", [object(), {"a": {(1, 2): 3}}, "\ud800", lambda: 0, _deep()])
def test_answer_that_is_no_json_is_refused(result: Any) -> None:
    with pytest.raises(UnusableAnswer, match="JSON cannot express"):
        encode_answer("t-1", result)


def test_answer_above_16_mib_is_refused() -> None:
    with pytest.raises(UnusableAnswer, match="at most 16777216"):
        encode_answer("t-1", "x" * ANSWER_BYTES_MAX)


def test_failures_and_refusals_are_written_as_the_wire_says() -> None:
    failure = msgspec.json.decode(encode_failure("t-1", AgentError("no_face", "There is none.", retryable=True)))
    assert failure == {"task_id": "t-1", "error": {"code": "no_face", "message": "There is none.", "retryable": True}}
    refusal = msgspec.json.decode(encode_refusal("full", "all taken", 50))
    assert refusal == {"error": {"code": "full", "message": "all taken"}, "retry_after_ms": 50}


def test_messages_are_cut_and_made_fit_for_utf8() -> None:
    refusal = msgspec.json.decode(encode_refusal("x", "\ud800" + "y" * 5_000))
    assert refusal["error"]["message"].startswith("?y")
    assert len(refusal["error"]["message"]) == 1_000
