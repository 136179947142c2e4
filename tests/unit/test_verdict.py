"""Section 1 of the semantics, as far as it is a function of status, headers and body."""

from datetime import UTC, datetime

import msgspec
import pytest

from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call
from aicp.model.wire import AgentError
from aicp.transports import verdict

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
CALL = Call("chain.task", "test.echo", {})


def of_status(status: int, retry_after: str | None = None, body: bytes = b"") -> Reply:
    return verdict.of_status(status, retry_after, body, NOW)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (101, Outcome.AGENT_FAULT),
        (201, Outcome.AGENT_FAULT),
        (202, Outcome.AGENT_FAULT),
        (204, Outcome.AGENT_FAULT),
        (299, Outcome.AGENT_FAULT),
        (300, Outcome.MISCONFIGURED),
        (301, Outcome.MISCONFIGURED),
        (304, Outcome.MISCONFIGURED),
        (307, Outcome.MISCONFIGURED),
        (400, Outcome.CALLER_FAULT),
        (401, Outcome.MISCONFIGURED),
        (402, Outcome.CALLER_FAULT),
        (403, Outcome.MISCONFIGURED),
        (404, Outcome.MISCONFIGURED),
        (405, Outcome.MISCONFIGURED),
        (406, Outcome.MISCONFIGURED),
        (407, Outcome.MISCONFIGURED),
        (408, Outcome.AGENT_FAULT),
        (409, Outcome.CALLER_FAULT),
        (410, Outcome.CALLER_FAULT),
        (413, Outcome.CALLER_FAULT),
        (415, Outcome.MISCONFIGURED),
        (418, Outcome.CALLER_FAULT),
        (422, Outcome.CALLER_FAULT),
        (425, Outcome.OVERLOADED),
        (429, Outcome.OVERLOADED),
        (451, Outcome.CALLER_FAULT),
        (499, Outcome.CALLER_FAULT),
        (500, Outcome.AGENT_FAULT),
        (501, Outcome.MISCONFIGURED),
        (502, Outcome.AGENT_FAULT),
        (503, Outcome.UNAVAILABLE),
        (504, Outcome.AGENT_FAULT),
        (599, Outcome.AGENT_FAULT),
        (999, Outcome.AGENT_FAULT),
    ],
)
def test_each_status_has_its_outcome(status: int, outcome: Outcome) -> None:
    reply = of_status(status)
    assert reply.outcome is outcome
    assert reply.reason == f"answered {status}"
    assert not reply.stale


@pytest.mark.parametrize("status", [301, 401, 403, 407])
def test_agent_that_is_closed_to_us_is_set_aside_as_a_whole(status: int) -> None:
    assert of_status(status).whole_agent


@pytest.mark.parametrize("status", [302, 401, 404, 501])
def test_what_an_agent_says_of_a_task_is_not_why_it_is_set_aside_for_everybody(status: int) -> None:
    reply = of_status(status, None, b'{"error": {"code": "no", "message": "no such patient: Ada"}}')
    assert reply.reason == f"answered {status}"
    assert reply.error is not None
    assert reply.error.message == "no such patient: Ada"


def test_error_of_an_agent_is_remembered_so_far_as_a_person_reads() -> None:
    error = AgentError("c" * 1_000, "m" * 5_000_000).as_task_error()
    assert (error.code, error.message) == ("c" * 199 + "…", "m" * 3_999 + "…")
    whole = AgentError("c" * 200, "m" * 4_000).as_task_error()
    assert (len(whole.code), len(whole.message)) == (200, 4_000)


@pytest.mark.parametrize("status", [404, 405, 406, 415, 501])
def test_capability_that_is_not_there_is_set_aside_alone(status: int) -> None:
    assert not of_status(status).whole_agent


def test_full_agent_with_retry_after_is_overloaded_and_was_not_executing() -> None:
    reply = of_status(503, "7")
    assert (reply.outcome, reply.retry_after_s, reply.repeatable) == (Outcome.OVERLOADED, 7.0, True)


def test_full_agent_that_says_when_in_the_body_alone_is_overloaded() -> None:
    reply = of_status(503, None, b'{"retry_after_ms": 1500}')
    assert (reply.outcome, reply.retry_after_s) == (Outcome.OVERLOADED, 1.5)


def test_503_without_retry_after_is_not_sure_to_be_unexecuted() -> None:
    reply = of_status(503)
    assert (reply.outcome, reply.repeatable, reply.whole_agent) == (Outcome.UNAVAILABLE, False, True)


def test_body_is_believed_before_the_header() -> None:
    assert of_status(429, "60", b'{"retry_after_ms": 250}').retry_after_s == 0.25


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        ("0", 0.05),
        ("301", 300.0),
        ("9" * 5000, 300.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 13:00:30 +0100", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.05),
        ("Fri, 01 Jan 2027 00:00:00 GMT", 300.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_bounds(header: str | None, seconds: float | None) -> None:
    assert of_status(429, header).retry_after_s == seconds


@pytest.mark.parametrize(("told_ms", "seconds"), [(1, 0.05), (0, 0.05), (-100, 0.05), (10**9, 300.0)])
def test_retry_after_of_the_body_is_bounded_too(told_ms: int, seconds: float) -> None:
    assert of_status(429, None, msgspec.json.encode({"retry_after_ms": told_ms})).retry_after_s == seconds


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"retry_after_ms": "soon"}', b"\xff", b"[" * 100_000])
def test_refusal_with_a_useless_body_is_judged_by_its_status(body: bytes) -> None:
    assert of_status(429, None, body) == of_status(429)


def test_stale_token_means_that_ownership_was_lost() -> None:
    reply = of_status(409, None, b'{"error": {"code": "stale_token"}}')
    assert (reply.outcome, reply.stale) == (Outcome.CANCELLED, True)


def test_stale_token_at_another_status_means_nothing() -> None:
    reply = of_status(400, None, b'{"error": {"code": "stale_token"}}')
    assert (reply.outcome, reply.stale) == (Outcome.CALLER_FAULT, False)


def test_what_the_agent_says_goes_into_the_reason_on_one_short_line() -> None:
    message = "no such\n\tcolumn " + "x" * 10_000
    reply = of_status(422, None, msgspec.json.encode({"error": {"code": "bad_column", "message": message}}))
    assert reply.reason.startswith("answered 422: no such column x")
    assert len(reply.reason) <= 200
    assert reply.error is not None
    assert reply.error.code == "bad_column"


def answer(**fields: object) -> bytes:
    return msgspec.json.encode({"task_id": CALL.task_id, **fields})


@pytest.mark.parametrize("result", [None, 0, False, "", [], {}, {"a": [1, 2.5, "ü"]}, 2**70])
def test_result_of_any_json_is_success(result: object) -> None:
    assert verdict.of_answer(answer(result=result), CALL) == Reply(Outcome.SUCCESS, result)


def test_error_of_the_agent_is_task_failed() -> None:
    reply = verdict.of_answer(answer(error={"code": "no_face", "message": "There is no face."}), CALL)
    assert (reply.outcome, reply.reason, reply.repeatable) == (Outcome.TASK_FAILED, "There is no face.", False)
    assert reply.error is not None
    assert (reply.error.code, reply.error.message) == ("no_face", "There is no face.")


def test_retryable_error_of_the_agent_is_its_fault_and_repeatable() -> None:
    reply = verdict.of_answer(answer(error={"code": "gpu_lost", "retryable": True}), CALL)
    assert (reply.outcome, reply.repeatable, reply.reason) == (Outcome.AGENT_FAULT, True, "gpu_lost")
    # It is doubted too, and never alike: the agent says that again may help.
    assert (reply.symptom, reply.transient) == ("error gpu_lost", True)


def test_error_beside_a_result_counts() -> None:
    assert verdict.of_answer(answer(result=1, error={"code": "x"}), CALL).outcome is Outcome.TASK_FAILED


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"task_id": "chain.task", "result": 1', "not JSON"),
        (b'{"task_id": "chain.task", "result": NaN}', "not JSON"),
        (b'{"task_id": "chain.task", "result": "\xff"}', "not JSON"),
        (b"[]", "agreed form"),
        (b'{"result": 1}', "agreed form"),
        (b'{"task_id": 7, "result": 1}', "agreed form"),
        (b'{"task_id": "chain.task", "error": "no"}', "agreed form"),
        (b'{"task_id": "chain.task"}', "neither result nor error"),
        (b'{"task_id": "other.task", "result": 1}', "another task"),
        (b'{"task_id": "chain.task", "result": ' + b"[" * 100 + b"]" * 100 + b"}", "nested"),
        (b'{"task_id": "chain.task", "result": ' + b'{"a":' * 100 + b"1" + b"}" * 101, "nested"),
        (b'{"task_id": "chain.task", "result": ' + b"[" * 100_000, "nested"),
    ],
)
def test_answer_that_breaks_the_contract_is_the_agents_fault(body: bytes, told: str) -> None:
    reply = verdict.of_answer(body, CALL)
    assert reply.outcome is Outcome.AGENT_FAULT
    assert told in reply.reason
    assert reply.evidence
    assert not reply.repeatable
    # Garbage is never the task's fault; a result that is too large may be.
    assert reply.symptom == ("too large" if told == "nested" else "")


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 505, 507, 599])
def test_fault_that_a_living_agent_answers_in_time_is_doubted_by_status_and_code(status: int) -> None:
    coded = b'{"error": {"code": "%b", "message": "for this task only"}}'
    plain, again = of_status(status), of_status(status, None, b"<html>another page</html>")
    assert plain.symptom == again.symptom == str(status)
    one, other = (of_status(status, None, coded % code) for code in (b"no_gpu", b"no_disk"))
    assert (one.symptom, other.symptom) == (f"{status} no_gpu", f"{status} no_disk")
    # There the agent says that again may help, so such failures are never alike.
    assert plain.transient is (status in {502, 503, 504})


@pytest.mark.parametrize("status", [101, 201, 202, 204, 299])
def test_status_that_no_agent_may_answer_with_counts_at_once(status: int) -> None:
    reply = of_status(status)
    assert (reply.outcome, reply.symptom, reply.evidence) == (Outcome.AGENT_FAULT, "", True)


def test_wide_answer_is_not_taken_for_a_deep_one() -> None:
    wide: list[object] = [[{"a": []}] for _ in range(200)]
    assert verdict.of_answer(answer(result=wide), CALL).result == wide


@pytest.mark.parametrize("status", [200, 204, 404, 405, 501])
def test_agent_that_answers_a_probe_somehow_is_alive(status: int) -> None:
    assert verdict.of_probe(status, None, b"", NOW) == Reply(Outcome.SUCCESS)


@pytest.mark.parametrize("status", [429, 503])
def test_full_agent_cools_down_on_a_probe(status: int) -> None:
    reply = verdict.of_probe(status, "4", b"", NOW)
    assert (reply.outcome, reply.retry_after_s) == (Outcome.OVERLOADED, 4.0)


@pytest.mark.parametrize("status", [301, 400, 401, 500, 502, 503])
def test_agent_that_answers_a_probe_badly_is_not_healed(status: int) -> None:
    assert verdict.of_probe(status, None, b"", NOW).outcome not in {Outcome.SUCCESS, Outcome.OVERLOADED}
