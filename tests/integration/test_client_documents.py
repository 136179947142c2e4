"""Large documents in the client: written and read in pieces, off the program's loop."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pytest

from aicp.client import Client, ServerRefused
from aicp.client.client import _decode
from aicp.client.problems import PROBLEM_BYTES_MAX, read_problem
from aicp.errors import InvalidInput
from aicp.model.chain import ChainSpec
from aicp.model.converting import PARTS, convert_in_pieces
from aicp.model.outcome import Outcome
from aicp.model.pieces import is_large
from aicp.model.task import Attempt, Task, TaskStatus
from aicp.model.views import AgentPage, ChainView, Failure, TaskView, Timings
from aicp.testing.faulty_servers import Exchange, FaultyServer
from tests.holds import held_at_most
from tests.integration.server_kit import Api, asking, run

HOLD_MS_MAX = 25.0
pytestmark = pytest.mark.usefixtures("quiet_collector")
AT = datetime(2026, 11, 30, tzinfo=UTC)
ROWS = {"l": [[[1, 2, 3]]] * 39_000}
TEXT = {"t": 'a"é\n' * 1_000_000}
CHAIN = ChainSpec((Task("text.echo", ROWS, id="a"), Task("text.echo", TEXT, id="b")))
DEEPEST: Any = None
for _ in range(64):
    DEEPEST = [DEEPEST]


def task_view(result: Any) -> TaskView:
    attempts = (Attempt("eyes-1", 1, Outcome.SUCCESS, "", AT, AT),)
    timings = Timings(0.0, 0.0, 0.0)
    return TaskView("c.t", "a.b", TaskStatus.COMPLETED, result, None, "eyes-1", attempts, timings, AT, AT, None)


def chain_view(count: int, result: Any = None) -> ChainView:
    tasks = {f"t{n}": task_view(result) for n in range(count)}
    edges = [(f"t{n}", f"t{n + 1}") for n in range(count - 1)]
    return ChainView("c", "n", TaskStatus.COMPLETED, count, count, tasks, edges, None, AT, None)


def answering(body: bytes) -> Callable[[Exchange], Awaitable[None]]:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(head + body)

    return answer


@pytest.mark.parametrize("count", [0, 1, PARTS, PARTS + 1, 5 * PARTS])
def test_values_converted_in_pieces_are_those_converted_in_one(count: int) -> None:
    for made in (chain_view(count, {"a": [None]}), [Failure("a", "c.t", "a.b", Outcome.SUCCESS, "", AT)] * count):
        plain = msgspec.json.decode(msgspec.json.encode(made))
        kind: Any = type(made) if isinstance(made, ChainView) else list[Failure]
        assert convert_in_pieces(plain, kind) == msgspec.convert(plain, kind) == made


@pytest.mark.parametrize(
    "plain",
    [
        {"agents": [{"agent_id": 5}] * (PARTS + 1), "next_cursor": None},
        {"agents": {str(n): n for n in range(PARTS + 1)}, "next_cursor": None},
        {"next_cursor": [1] * (PARTS + 1)},
        [1] * (PARTS + 1),
        5,
    ],
)
def test_value_of_another_form_is_refused_as_in_one_piece(plain: Any) -> None:
    for convert in (convert_in_pieces, msgspec.convert):
        with pytest.raises(msgspec.ValidationError):
            convert(plain, AgentPage)


def test_no_call_of_the_converter_takes_more_parts_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    view = chain_view(2_000)
    plain, widest, convert = msgspec.to_builtins(view), 0, msgspec.convert

    def measured(value: Any, kind: Any) -> Any:
        nonlocal widest
        inner = value.values() if isinstance(value, dict) else value
        widest = max([widest, len(value), *(len(each) for each in inner if isinstance(each, dict | list))])
        return convert(value, kind)

    monkeypatch.setattr(msgspec, "convert", measured)
    assert convert_in_pieces(plain, ChainView) == view
    assert widest <= PARTS


@pytest.mark.parametrize("result", [ROWS, TEXT, {"d": DEEPEST, **ROWS}], ids=["rows", "text", "deep"])
def test_large_answer_is_read_off_the_loop(result: Any) -> None:
    async def main() -> None:
        view = task_view(result)
        body = msgspec.json.encode(view)
        assert is_large(body)
        async with FaultyServer(answering(body)) as server, Client(server.url) as client:
            await client.get_task("c.t")
            assert await held_at_most(HOLD_MS_MAX, partial(client.get_task, "c.t")) == view

    run(main)


def test_view_of_many_tasks_is_read_off_the_loop() -> None:
    async def main() -> None:
        view = chain_view(10_000)
        async with FaultyServer(answering(msgspec.json.encode(view))) as server, Client(server.url) as client:
            assert await held_at_most(HOLD_MS_MAX, partial(client.get_chain, "c")) == view

    run(main)


def test_large_answer_of_another_form_is_refused() -> None:
    for body in (b'{"chain_id":5,"l":[' + b"[]," * 20_000 + b"[]]}", b"[" * 20_000, b'{"a":' + b"[[],[" * 20_000):
        assert is_large(body)
        with pytest.raises(ServerRefused):
            _decode(body, ChainView)


@pytest.mark.parametrize("params", [ROWS, TEXT], ids=["rows", "text"])
def test_large_submit_is_written_off_the_loop(params: Any) -> None:
    async def main() -> None:
        task = Task("a.b", params)
        accepted = b'{"chain_id":"c","status":"RUNNING"}'
        async with FaultyServer(answering(accepted)) as server, Client(server.url) as client:
            await client.submit_chain(ChainSpec((task,)))
            await held_at_most(HOLD_MS_MAX, partial(client.submit_chain, ChainSpec((task,))))
            assert server.requests[-1].json["tasks"][0]["params"] == params

    run(main)


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_number_that_json_does_not_have_is_found_in_a_large_submit(number: float) -> None:
    async def main() -> None:
        async with Client("http://127.0.0.1:1") as client:
            with pytest.raises(InvalidInput, match="NaN"):
                await client.submit_task(Task("a.b", {**ROWS, "x": [{"y": (1, number)}]}))
            with pytest.raises(InvalidInput, match="not JSON"):
                await client.submit_task(Task("a.b", {**ROWS, "x": object()}))

    run(main)


def test_problem_that_is_too_large_is_reported_by_its_status() -> None:
    body = msgspec.json.encode({"code": "conflict", "detail": "x" * PROBLEM_BYTES_MAX})
    problem = read_problem(409, body, "http://s")
    assert not problem.code
    assert "409" in problem.detail


def test_large_submit_and_its_view_go_through_a_real_server() -> None:
    async def test(api: Api) -> None:
        async with Client(api.url, api.key) as client:
            view = await client.run_chain(CHAIN)
            assert view.status is TaskStatus.COMPLETED
            assert (view.tasks["a"].result, view.tasks["b"].result) == (ROWS, TEXT)
            await client.close()
            assert (await client.get_chain(view.chain_id)).tasks["a"].result == ROWS, "after a close it opens again"

    async def main() -> None:
        async with asking() as api:
            await test(api)

    run(main)


def test_client_that_is_closed_has_no_thread_left() -> None:
    async def main() -> None:
        client = Client("http://127.0.0.1:1", retries_max=0)
        assert await client._exchange.documents.run(1, lambda: 5) == 5
        (thread,) = client._exchange.documents._threads._threads  # type: ignore[union-attr]
        await client.close()
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()

    run(main)
