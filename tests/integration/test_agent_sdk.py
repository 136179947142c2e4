"""The agent SDK on real sockets: the wire contract, and what happens when callers misbehave."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from aicp.agent import Agent, AgentFailure, Context, ServedAgent, incoming
from aicp.errors import SettingsError
from aicp.model.wire import ANSWER_BYTES_MAX, PARAMS_BYTES_MAX, AgentDescription, Answer, Refusal
from tests.integration.agent_sdk_kit import BOUND_S, Answered, Caller, FakeAins, Work, calling, echoing, run
from tests.postgres_server import free_port

# -- the wire


def test_answer_carries_task_and_result_and_fits_the_models() -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            answered = await caller.invoke("c.t-1", {"url": "x"})
            assert (answered.status, answered.body) == (200, {"task_id": "c.t-1", "result": {"url": "x"}})
            assert msgspec.convert(answered.body, Answer).result == {"url": "x"}
            assert answered.headers["content-type"] == "application/json"

    run(main)


def test_describe_and_healthz_answer() -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            description = msgspec.convert((await caller.send("GET", "/describe")).body, AgentDescription)
            assert (description.agent_id, description.max_concurrent_tasks) == ("eyes-1", 4)
            assert description.instance_id == caller.served.instance_id
            assert [capability.name for capability in description.capabilities] == ["work"]
            assert (await caller.send("GET", "/healthz")).status == 200

    run(main)


def test_handler_learns_its_call_from_the_context() -> None:
    async def main() -> None:
        work = Work()
        work.let_go.set()
        async with calling(work.agent) as caller:
            headers = {"X-AICP-Deadline-Ms": "5000", "X-AICP-Fencing-Token": "3.2"}
            await caller.invoke("c.t-1", headers=headers, attempt=2)
            context = work.contexts[0]
            assert (context.task_id, context.attempt, context.fencing_token) == ("c.t-1", 2, "3.2")
            assert context.remaining_s is not None
            assert 0 < context.remaining_s <= 5.0
            assert not context.cancelled

    run(main)


def test_handler_that_says_no_is_answered_200_with_its_error_and_not_remembered() -> None:
    async def main() -> None:
        agent, seen = Agent("eyes-1"), []

        @agent.capability("work")
        async def refuse(params: dict[str, Any]) -> None:
            seen.append(params)
            raise AgentFailure("no_face", "There is none.", retryable=len(seen) == 1)

        async with calling(agent) as caller:
            first, second = await caller.invoke(), await caller.invoke()
            error = {"code": "no_face", "message": "There is none."}
            assert (first.status, first.body) == (200, {"task_id": "c.t-1", "error": {**error, "retryable": True}})
            assert second.body == {"task_id": "c.t-1", "error": error}

    run(main)


def test_handler_that_breaks_is_answered_500_and_its_traceback_stays_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        agent = Agent("eyes-1")

        @agent.capability("work")
        async def divide(params: dict[str, Any]) -> float:
            return 1 / params["by"]  # type: ignore[no-any-return] # params are anybody's

        async with calling(agent) as caller:
            answered = await caller.invoke(params={"by": 0})
            assert (answered.status, answered.code) == (500, "handler_error")
            assert (
                answered.body["error"]["message"] == "the handler of 'work' raised ZeroDivisionError: division by zero"
            )
            assert (await caller.invoke(params={"by": 2})).body["result"] == 0.5

    run(main)
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(1), asyncio.CancelledError()])
@pytest.mark.parametrize("plain", [False, True])
def test_handler_cannot_end_the_agent(error: BaseException, *, plain: bool) -> None:
    async def main() -> None:
        agent = Agent("eyes-1")

        def leave(params: dict[str, Any]) -> None:
            raise error

        async def leave_too(params: dict[str, Any]) -> None:
            raise error

        agent.capability("work")(leave if plain else leave_too)
        async with calling(agent) as caller:
            assert (await caller.invoke()).status == 500
            assert (await caller.invoke()).status == 500

    run(main)


@pytest.mark.parametrize("result", [float("nan"), {"a": float("inf")}, object(), "x" * ANSWER_BYTES_MAX])
def test_answer_that_cannot_be_sent_is_a_500_that_says_why(result: Any) -> None:
    async def main() -> None:
        agent = Agent("eyes-1")

        @agent.capability("work")
        async def answer(params: dict[str, Any]) -> Any:
            return result

        async with calling(agent) as caller:
            answered = await caller.invoke()
            assert (answered.status, answered.code) == (500, "unusable_answer")
            assert "the handler of 'work' returned" in answered.body["error"]["message"]

    run(main)


def test_plain_functions_run_side_by_side_in_threads() -> None:
    async def main() -> None:
        agent, together = Agent("eyes-1", max_concurrent_tasks=2), threading.Barrier(2, timeout=BOUND_S)

        @agent.capability("work")
        def meet(params: dict[str, Any], context: Context) -> str:
            together.wait()
            return f"{context.task_id} {threading.current_thread() is threading.main_thread()}"

        async with calling(agent) as caller:
            answers = await asyncio.gather(caller.invoke("a"), caller.invoke("b"))
            assert [answered.body["result"] for answered in answers] == ["a False", "b False"]

    run(main)


# -- input


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b'{"task_id":"t","capability":"work","params":{"x":NaN}}', 400, "JSON"),
        (b'{"task_id":"t","capability":"work","params":{"x":"\xff"}}', 400, "JSON"),
        (b'{"task_id":"t","capability":"work","params":{"x":' + b"[" * 100_000, 400, "JSON"),
        (b"[]", 422, "object"),
        (b'{"task_id":"t","capability":"work"}', 422, "params"),
        (b'{"task_id":"t","capability":"work","params":[1]}', 422, "/params: expected `object`, got `array`"),
        (b'{"task_id":7,"capability":"work","params":{}}', 422, "/task_id: expected `str`, got `int`"),
        (b'{"task_id":"t","capability":"work","params":{},"attempt":"1"}', 422, "/attempt"),
        (b'{"task_id":"t","capability":"work","params":{},"attempt":0}', 422, "/attempt"),
        (b'{"task_id":"","capability":"work","params":{}}', 422, "/task_id"),
        (b'{"task_id":"' + b"t" * 257 + b'","capability":"work","params":{}}', 422, "/task_id"),
        (b'{"task_id":"t","capability":"play","params":{}}', 404, "it has work"),
        (b'{"task_id":"t","capability":"work@2","params":{}}', 404, "it has work"),
    ],
)
def test_unusable_body_is_told_with_its_place(body: bytes, status: int, told: str) -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            answered = await caller.send_raw(body)
            assert answered.status == status
            assert told in answered.body["error"]["message"]

    run(main)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content_Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content_Encoding": "gzip"}, 415, "unsupported_encoding"),
        ({"X_AICP_Fencing_Token": "3"}, 400, "invalid_token"),
        ({"X_AICP_Deadline_Ms": "soon"}, 400, "invalid_deadline"),
        ({"X_AICP_Deadline_Ms": "-1"}, 400, "invalid_deadline"),
        ({"Idempotency_Key": "another"}, 422, "invalid_input"),
        ({"Content_Type": "application/json; charset=utf-8"}, 200, ""),
        ({"X_AICP_Deadline_Ms": "999999999999999"}, 200, ""),
    ],
)
def test_headers_are_checked(headers: dict[str, str], status: int, code: str) -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            answered = await caller.send_raw(b'{"task_id":"t","capability":"work","params":{}}', **headers)
            assert answered.status == status
            assert not code or answered.code == code

    run(main)


def test_unknown_path_and_method_are_told() -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            assert (await caller.send("GET", "/")).status == 404
            refused = await caller.send("GET", "/invoke")
            assert (refused.status, refused.headers["allow"]) == (405, "POST")
            assert (await caller.send("POST", "/describe")).status == 405
            async with caller.session.head(f"{caller.served.endpoint}/healthz") as response:
                assert (response.status, await response.read()) == (200, b"")

    run(main)


def _large(size: int) -> bytes:
    frame = b'{"task_id":"t","capability":"work","params":{"x":""}}'
    return frame.replace(b'""', b'"' + b"x" * (size - len(frame)) + b'"')


async def _piecewise(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1_000_000):
        yield body[start : start + 1_000_000]


@pytest.mark.parametrize("known_length", [True, False])
def test_body_is_read_up_to_16_mib_and_refused_above(*, known_length: bool) -> None:
    async def main() -> None:
        agent = Agent("eyes-1")

        @agent.capability("work")
        async def measure(params: dict[str, Any]) -> int:
            return len(params["x"])

        async with calling(agent) as caller:
            for size, status in ((PARAMS_BYTES_MAX, 200), (PARAMS_BYTES_MAX + 1, 413)):
                body = _large(size)
                headers = {"Content-Type": "application/json"}
                data = io.BytesIO(body) if known_length else _piecewise(body)
                assert (await caller.send("POST", "/invoke", data=data, headers=headers)).status == status

    run(main)


def test_caller_that_asks_before_it_sends_is_told_to_go_on() -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            body = b'{"task_id":"t","capability":"work","params":{}}'
            headers = {"Content-Type": "application/json"}
            answered = await caller.send("POST", "/invoke", data=body, headers=headers, expect100=True)
            assert answered.status == 200

    run(main)


def test_body_that_does_not_arrive_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "BODY_S_MAX", 0.05)

    async def main() -> None:
        async with calling(echoing()) as caller:
            assert b" 408 " in await _begin_body(caller.served, b"Content-Length: 9\r\n")

    run(main)


def test_malformed_http_is_refused_without_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            reader, writer = await _connect(caller.served)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n")
            assert b" 400 " in await reader.readline()
            writer.close()

    run(main)
    assert not caplog.records


@pytest.mark.parametrize(
    ("headers", "status"),
    [(b"Content-Length: 16777217\r\n", b" 413 "), (b"Idempotency-Key: b\r\nContent-Length: 9\r\n", b" 429 ")],
)
def test_body_that_would_not_be_used_is_not_waited_for(headers: bytes, status: bytes) -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            held = caller.start("a")
            await work.started.acquire()
            assert status in await _begin_body(caller.served, headers)
            work.let_go.set()
            await held

    run(main)


def test_bodies_that_arrive_slowly_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "READERS_SPARE", 0)

    async def main() -> None:
        async with calling(Work(slots=1).agent) as caller:
            calls = {asyncio.create_task(_begin_body(caller.served, b"Content-Length: 9\r\n")) for _ in range(2)}
            refused, reading = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            assert [b" 429 " in call.result() for call in refused] == [True]
            assert len(reading) == 1
            reading.pop().cancel()
            await asyncio.wait(calls)

    run(main)


async def _begin_body(served: ServedAgent, headers: bytes) -> bytes:
    """The status line that answers a call of whose body one byte comes."""
    reader, writer = await _connect(served)
    try:
        writer.write(
            b"POST /invoke HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + headers + b"\r\n{"
        )
        return await reader.readline()
    finally:
        writer.close()


async def _connect(served: ServedAgent) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = served.endpoint.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


# -- slots


def test_full_agent_refuses_with_429_and_says_when_to_come_again() -> None:
    async def main() -> None:
        work = Work(slots=2)
        async with calling(work.agent) as caller:
            held = [caller.start("a"), caller.start("b")]
            await work.started.acquire()
            await work.started.acquire()
            refused = await caller.invoke("c")
            assert refused.status == 429
            assert msgspec.convert(refused.body, Refusal).retry_after_ms == refused.body["retry_after_ms"]
            assert 50 <= refused.body["retry_after_ms"] <= 60_000
            assert int(refused.headers["retry-after"]) >= 1
            assert (await caller.send("GET", "/healthz")).status == 200
            work.let_go.set()
            assert [(await call).status for call in held] == [200, 200]
            assert (await caller.invoke("c")).status == 200

    run(main)


def test_full_agent_refuses_a_call_without_key_header_after_reading_it() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            held = caller.start("a")
            await work.started.acquire()
            refused = await caller.send_raw(b'{"task_id":"b","capability":"work","params":{}}')
            assert (refused.status, refused.code) == (429, "full")
            work.let_go.set()
            await held

    run(main)


# -- memory


def test_repeat_of_a_success_is_answered_from_memory() -> None:
    async def main() -> None:
        work = Work()
        work.let_go.set()
        async with calling(work.agent) as caller:
            first = await caller.invoke("a", {"x": 1, "y": 2})
            again = await caller.invoke("a", {"y": 2, "x": 1}, attempt=2)
            assert first.body == again.body == {"task_id": "a", "result": {"execution": 1, "x": 1, "y": 2}}
            assert work.executions == 1

    run(main)


def test_repeat_of_a_call_in_flight_joins_it_without_a_second_slot() -> None:
    async def main() -> None:
        work = Work(slots=1)
        async with calling(work.agent) as caller:
            first = caller.start("a", headers={"X-AICP-Deadline-Ms": "10000"})
            await work.started.acquire()
            again = await work.joined_by(caller, "a")
            assert (await caller.invoke("b")).status == 429
            work.let_go.set()
            assert (await first).body == (await again).body == {"task_id": "a", "result": {"execution": 1}}
            assert work.executions == 1

    run(main)


def test_same_key_with_another_call_is_a_conflict_in_flight_and_afterwards() -> None:
    async def main() -> None:
        work = Work(slots=2)
        async with calling(work.agent) as caller:
            first = caller.start("a", {"x": 1})
            await work.started.acquire()
            refused = await caller.invoke("a", {"x": 2})
            assert (refused.status, refused.code) == (409, "key_reused")
            work.let_go.set()
            assert (await first).status == 200
            refused = await caller.invoke("a", {"x": 2})
            assert (refused.status, refused.code) == (409, "key_reused")
            assert work.executions == 1

    run(main)


def test_failed_execution_is_done_again() -> None:
    async def main() -> None:
        agent, seen = Agent("eyes-1"), []

        @agent.capability("work")
        async def recover(params: dict[str, Any]) -> str:
            seen.append(1)
            if len(seen) == 1:
                raise ValueError
            return "well"

        async with calling(agent) as caller:
            assert (await caller.invoke()).status == 500
            assert (await caller.invoke(attempt=2)).body["result"] == "well"

    run(main)


# -- fencing


def test_older_token_is_refused_whatever_became_of_the_task() -> None:
    async def main() -> None:
        work = Work()
        work.let_go.set()
        async with calling(work.agent) as caller:
            assert (await caller.invoke("a", headers={"X-AICP-Fencing-Token": "2.1"})).status == 200
            for older in ("1.9", "2.0"):
                refused = await caller.invoke("a", headers={"X-AICP-Fencing-Token": older})
                assert (refused.status, refused.body["error"]["code"]) == (409, "stale_token")
            for newer in ("2.1", "2.2", "10.1"):
                assert (await caller.invoke("a", headers={"X-AICP-Fencing-Token": newer})).status == 200
            assert (await caller.invoke("b", headers={"X-AICP-Fencing-Token": "1.1"})).status == 200

    run(main)


def test_newer_token_joins_the_execution_in_flight_and_the_older_one_is_shut_out() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            first = caller.start("a", headers={"X-AICP-Fencing-Token": "1.1", "X-AICP-Deadline-Ms": "10000"})
            await work.started.acquire()
            second = await work.joined_by(caller, "a", token="2.1")
            refused = await caller.invoke("a", headers={"X-AICP-Fencing-Token": "1.1"})
            assert (refused.status, refused.code) == (409, "stale_token")
            work.let_go.set()
            assert [(await call).status for call in (first, second)] == [200, 200]
            assert work.executions == 1

    run(main)


def test_stale_token_is_told_even_by_a_full_agent() -> None:
    async def main() -> None:
        agent, held, let_go = Agent("eyes-1"), asyncio.Event(), asyncio.Event()

        @agent.capability("work")
        async def work(params: dict[str, Any]) -> None:
            if "fail" in params:
                raise AgentFailure("no")
            held.set()
            await let_go.wait()

        async with calling(agent) as caller:
            await caller.invoke("a", {"fail": 1}, headers={"X-AICP-Fencing-Token": "2.1"})
            call = caller.start("b")
            await held.wait()
            assert (await caller.invoke("a", {"fail": 1}, headers={"X-AICP-Fencing-Token": "1.1"})).status == 409
            assert (await caller.invoke("a", {"fail": 1}, headers={"X-AICP-Fencing-Token": "2.2"})).status == 429
            let_go.set()
            await call

    run(main)


# -- deadlines and callers that go


def test_handler_is_cancelled_at_the_deadline_and_its_slot_is_free() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            answered = await caller.invoke("a", headers={"X-AICP-Deadline-Ms": "60"})
            assert (answered.status, answered.code) == (408, "deadline_exceeded")
            await work.cancelled.wait()
            assert work.contexts[0].cancelled
            work.let_go.set()
            assert (await caller.invoke("b")).status == 200

    run(main)


def test_call_without_time_left_is_not_executed() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            assert (await caller.invoke(headers={"X-AICP-Deadline-Ms": "0"})).status == 408
            assert work.executions == 0

    run(main)


def test_timeout_of_the_capability_holds_without_a_deadline() -> None:
    async def main() -> None:
        work = Work(timeout_s=0.05)
        async with calling(work.agent) as caller:
            answered = await caller.invoke()
            assert (answered.status, answered.code) == (408, "deadline_exceeded")
            await work.cancelled.wait()

    run(main)


def test_deadline_of_one_caller_does_not_cut_off_another() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            patient = caller.start("a")
            await work.started.acquire()
            assert (await caller.invoke("a", headers={"X-AICP-Deadline-Ms": "30"})).status == 408
            assert not work.cancelled.is_set()
            work.let_go.set()
            assert (await patient).status == 200

    run(main)


def test_caller_that_goes_cancels_the_handler_and_frees_the_slot() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            await _go_away(caller.start("a"), work)
            await work.cancelled.wait()
            work.let_go.set()
            while (answered := await caller.invoke("b")).status == 429:
                pass  # the slot is free once the handler has ended
            assert answered.status == 200

    run(main)


def test_caller_that_goes_leaves_the_execution_to_those_who_still_wait() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            first = caller.start("a", headers={"X-AICP-Deadline-Ms": "10000"})
            await work.started.acquire()
            second = await work.joined_by(caller, "a")
            first.cancel()
            await asyncio.wait([first])
            for _ in range(3):  # by then the agent has seen the other connection close
                await caller.send("GET", "/healthz")
            assert not work.cancelled.is_set()
            work.let_go.set()
            assert (await second).status == 200

    run(main)


async def _go_away(call: "asyncio.Task[Answered]", work: Work) -> None:
    await work.started.acquire()
    call.cancel()
    await asyncio.wait([call])


def test_thread_keeps_its_slot_until_it_ends_and_its_late_success_is_remembered() -> None:
    async def main() -> None:
        agent, let_go = Agent("eyes-1"), threading.Event()
        cancelled_seen: list[bool] = []

        @agent.capability("work")
        def work(params: dict[str, Any], context: Context) -> str:
            let_go.wait(BOUND_S)
            cancelled_seen.append(context.cancelled)
            return "late"

        async with calling(agent) as caller:
            assert (await caller.invoke("a", headers={"X-AICP-Deadline-Ms": "30"})).status == 408
            assert (await caller.invoke("b")).status == 429
            again = await caller.invoke("a")
            assert (again.status, again.code) == (429, "still_ending")
            let_go.set()
            while (again := await caller.invoke("a")).status == 429:
                pass  # until the thread has told its result
            assert (again.status, again.body["result"]) == (200, "late")
            assert cancelled_seen == [True]

    run(main)


# -- token


def test_token_is_asked_for_everywhere() -> None:
    async def main() -> None:
        async with calling(echoing(), token="secret") as caller:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
                refused = await caller.invoke(headers=headers)
                assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
                assert (await caller.send("GET", "/healthz", headers=headers)).status == 401
                assert (await caller.send("GET", "/describe", headers=headers)).status == 401
            assert (await caller.invoke(headers={"Authorization": "Bearer secret"})).status == 200
            assert (await caller.send("GET", "/healthz", headers={"Authorization": "bearer secret"})).status == 200

    run(main)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:9001", "127.0.0.1.evil.example", "evil.example@127.0.0.1", "10.0.0.1:80", "[::2]",
        "0.0.0.0", "127.1", "[127.0.0.1", "localhost:9001:9001", "localhost.evil.example", ":9001", "local host", "",
    ],
)  # fmt: skip
def test_host_that_does_not_name_an_agent_without_a_token_is_refused_everywhere(host: str) -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            for method, path in (("POST", "/invoke"), ("GET", "/describe"), ("GET", "/healthz"), ("GET", "/nothing")):
                refused = await caller.send(method, path, headers={"Host": host})
                assert (refused.status, refused.code) == (403, "host_refused")
            refused = await caller.invoke(headers={"Host": host})
            assert f"'{host}' does not name this agent" in refused.body["error"]["message"]
            assert work.executions == 0

    run(main)


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:9001", "127.0.0.1", "127.0.0.1:1", "127.8.8.8:9001", "[::1]:9001", "[::1]"]
)
def test_agent_without_a_token_is_called_by_any_name_of_loopback(host: str) -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            assert (await caller.invoke(headers={"Host": host})).status == 200

    run(main)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9001"])
def test_page_in_a_browser_is_refused_everywhere_by_an_agent_without_a_token(origin: str) -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            for method, path in (("POST", "/invoke"), ("GET", "/describe"), ("OPTIONS", "/invoke")):
                refused = await caller.send(method, path, headers={"Origin": origin})
                assert (refused.status, refused.code) == (403, "origin_refused")
            assert work.executions == 0

    run(main)


def test_agent_with_a_token_asks_for_nothing_else() -> None:
    async def main() -> None:
        async with calling(echoing(), token="secret") as caller:
            shown = {"Authorization": "Bearer secret", "Host": "eyes.example", "Origin": "https://eyes.example"}
            assert (await caller.invoke(headers=shown)).status == 200

    run(main)


def test_host_of_the_endpoint_that_an_agent_was_told_is_its_own() -> None:
    async def main() -> None:
        port = free_port()
        told = "https://Eyes.example/a"
        async with aiohttp.ClientSession() as session, echoing().serving(port=port, endpoint=told) as served:
            assert served.endpoint == "https://eyes.example/a"
            for host, status in (("eyes.example", 200), ("EYES.example:443", 200), ("a.eyes.example", 403)):
                url = f"http://127.0.0.1:{port}/healthz"
                async with session.get(url, headers={"Host": host}) as response:
                    assert response.status == status

    run(main)


def test_address_open_to_others_is_refused_without_a_token() -> None:
    async def main() -> None:
        with pytest.raises(SettingsError, match="give it a token"):
            async with calling(echoing(), host="0.0.0.0"):
                pass

    run(main)


def test_port_in_use_is_told_in_a_sentence() -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            port = int(caller.served.endpoint.rpartition(":")[2])
            with pytest.raises(SettingsError, match=f"Port {port} on 127.0.0.1 is in use"):
                async with calling(echoing(), port=port):
                    pass

    run(main)


def test_unknown_host_is_told_in_a_sentence() -> None:
    async def main() -> None:
        with pytest.raises(SettingsError, match="cannot be bound"):
            async with calling(echoing(), host="203.0.113.1", token="secret"):
                pass

    run(main)


# -- drain


def test_draining_agent_refuses_new_calls_and_lets_those_in_flight_end() -> None:
    async def main() -> None:
        work = Work(slots=2)
        async with calling(work.agent) as caller:
            held = caller.start("a")
            await work.started.acquire()
            drain = asyncio.create_task(caller.served.drain(BOUND_S))
            while (health := await caller.send("GET", "/healthz")).status == 200:
                pass
            assert (health.status, health.headers["retry-after"]) == (503, "5")
            refused = await caller.invoke("b")
            assert (refused.status, refused.body["retry_after_ms"]) == (503, 5_000)
            assert (await caller.send_raw(b'{"task_id":"b","capability":"work","params":{}}')).status == 503
            assert b" 503 " in await _begin_body(caller.served, b"Idempotency-Key: b\r\nContent-Length: 9\r\n")
            again = caller.start("a")
            assert not drain.done()
            work.let_go.set()
            assert [(await call).status for call in (held, again)] == [200, 200]
            assert await drain == 0

    run(main)


def test_drain_is_bounded_and_what_it_cuts_off_is_a_fault_of_the_agent() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            held = caller.start("a")
            await work.started.acquire()
            assert await caller.served.drain(0.05) == 1
            answered = await held
            assert (answered.status, answered.code) == (500, "handler_cancelled")

    run(main)


def test_close_answers_callers_of_a_thread_that_does_not_end() -> None:
    async def main() -> None:
        agent, started, let_go = Agent("eyes-1"), threading.Event(), threading.Event()

        @agent.capability("work")
        def work(params: dict[str, Any]) -> None:
            started.set()
            let_go.wait(BOUND_S)

        async with aiohttp.ClientSession() as session:
            try:
                async with agent.serving(drain_s=0.0) as served:
                    held = Caller(served, session).start("a")
                    await asyncio.to_thread(started.wait, BOUND_S)
                answered = await held
                assert (answered.status, answered.code) == (500, "shut_down")
                assert served.in_flight == 1
            finally:
                let_go.set()

    run(main)


def test_served_agent_leaves_no_task_behind() -> None:
    async def main() -> None:
        async with FakeAins().serving() as ains, calling(echoing(), register=ains.url) as caller:
            await caller.invoke()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)
