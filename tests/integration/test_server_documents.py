"""Large documents: read off the loop, bounded in bytes and values, refused with what, where and what to do."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest

from aicp.agent import Agent
from aicp.model import pieces
from aicp.model.document_desk import DocumentDesk, TooManyDocuments
from aicp.model.pieces import VALUES_MAX, decode_in_pieces, holds_more_values, is_large
from tests.holds import held_at_most
from tests.integration.agent_sdk_kit import calling
from tests.integration.server_kit import Api, asking, run

HOLD_MS_MAX = 25.0


def with_server(test: Any) -> None:
    async def main() -> None:
        async with asking() as api:
            await test(api)

    run(main)


def chain_of(params: bytes) -> bytes:
    return b'{"tasks":[{"id":"a","capability":"text.echo","params":' + params + b"}]}"


def rows(count: int) -> bytes:
    return b'{"l":[' + b",".join([b"[[1,2,3]]"] * count) + b"]}"


def nested(random_: random.Random, depth: int = 0) -> Any:
    kind = random_.random()
    if depth > 6 or kind < 0.4:
        return random_.choice([1, -2.5, True, None, "a,b]", '\\"[{', '"', "é\u2028", "", "x" * 60, 10**15])
    if kind < 0.7:
        return [nested(random_, depth + 1) for _ in range(random_.randrange(7))]
    keys = ["a", "b", 'k"', "", "é,"]
    return {f"{random_.choice(keys)}{n}": nested(random_, depth + 1) for n in range(random_.randrange(6))}


def count_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + (value in ([], {})) + sum(map(count_of, inner))


def spoilt(random_: random.Random, text: bytes) -> bytes:
    body = bytearray(text)
    place, byte = random_.randrange(len(body)), random_.choice(b'[]{},:"\\1x ')
    if random_.random() < 0.5:
        body[place] = byte
    elif random_.random() < 0.5:
        body.insert(place, byte)
    else:
        del body[place]
    return bytes(body)


def decoded(decode: Any, body: bytes) -> Any:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "refused"


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 40)
    monkeypatch.setattr(pieces, "PIECE_MARKS", 6)
    monkeypatch.setattr(pieces, "_COUNTED_BYTES", 64)


@pytest.mark.usefixtures("tiny_pieces")
@pytest.mark.parametrize("seed", range(4))
def test_pieces_decode_to_the_same_value_and_refuse_the_same_bodies(seed: int) -> None:
    random_ = random.Random(seed)
    for _ in range(500):
        value = nested(random_)
        body = msgspec.json.format(msgspec.json.encode(value), indent=random_.choice([0, 2]))
        assert decode_in_pieces(body) == value
        assert holds_more_values(body, count_of(value) - 1)
        assert not holds_more_values(body, count_of(value))
        bad = spoilt(random_, body)
        assert decoded(decode_in_pieces, bad) == decoded(msgspec.json.decode, bad), bad


@pytest.mark.usefixtures("tiny_pieces")
@pytest.mark.parametrize("body", [b'{"a":[{},{"b":1}],"c":[1,2,3,4,5,6,7,8,9,[],[],[],[]],"c":[1,[[]]]}'])
def test_last_of_a_doubled_key_wins_in_pieces_too(body: bytes) -> None:
    assert decode_in_pieces(body) == msgspec.json.decode(body)


def test_document_of_more_values_is_refused_and_holds_nothing() -> None:
    async def test(api: Api) -> None:
        for body in (chain_of(rows(500_000)), chain_of(b'{"l":[' + b"0," * VALUES_MAX + b"0]}")):
            refused = await held_at_most(HOLD_MS_MAX, partial(api.post_raw, "/api/tasks/chain", body))
            assert (refused.status, refused.code) == (422, "invalid_input")
            assert "200,000 values" in refused.faults[""]

    with_server(test)


@pytest.mark.parametrize("count", [30_000, 39_000])
def test_largest_document_runs_and_holds_nothing(count: int) -> None:
    async def test(api: Api) -> None:
        body = chain_of(rows(count))
        assert is_large(body)
        accepted = await api.post_raw("/api/tasks/chain", body, Idempotency_Key="k")
        assert accepted.status == 202
        again = await api.post_raw("/api/tasks/chain", body, Idempotency_Key="k")
        assert again.body["chain_id"] == accepted.body["chain_id"]
        view = await api.get(f"/api/tasks/chain/{accepted.body['chain_id']}?wait_s=20")
        assert view.body["tasks"]["a"]["result"] == {"l": [[[1, 2, 3]]] * count}

    with_server(test)


def test_doubled_key_of_a_large_document_is_found_wherever_it_is_cut() -> None:
    async def test(api: Api) -> None:
        padding = b'"l":[' + b"[],[]," * 10_000 + b"0]"
        params = [
            b'{"x":1,' + padding + b',"x":2}',
            b'{"x":1,"x":2,' + padding + b"}",
            b'{"y":{"x":1,"q":{' + padding + b'},"x":3}}',
        ]
        for each in params:
            refused = await api.post_raw("/api/tasks/chain", chain_of(each))
            assert (refused.status, refused.code) == (422, "invalid_input")
            assert any(place.endswith("/x") for place in refused.faults)

    with_server(test)


@pytest.mark.usefixtures("quiet_collector")
@pytest.mark.parametrize(
    "padding", [b"[]," * 98_000, b"1," * 198_000, b'{"b":1},' * 65_000, b'"' + b"a\\n" * 2_000_000 + b'",']
)
def test_place_of_a_doubled_key_is_found_off_the_loop(padding: bytes) -> None:
    async def test(api: Api) -> None:
        body = chain_of(b'{"x":1,"l":[' + padding + b'0],"x":2}')
        refused = await held_at_most(HOLD_MS_MAX, partial(api.post_raw, "/api/tasks/chain", body))
        assert (refused.status, set(refused.faults)) == (422, {"/tasks/0/params/x"})

    with_server(test)


def test_desk_refuses_what_is_too_much_and_gives_every_byte_back() -> None:
    async def main() -> None:
        desk, gate = DocumentDesk(bytes_max=100), asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)

        first = [asyncio.create_task(desk.run(40, wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyDocuments):
            await desk.run(40, wait)
        waiting = asyncio.create_task(desk.run(40, wait, waits=True))
        await asyncio.sleep(0)
        assert desk.bytes_at_work == 120
        waiting.cancel()
        first[0].cancel()
        gate.set()
        await asyncio.gather(*first, waiting, return_exceptions=True)
        async with asyncio.timeout(30):
            while desk.bytes_at_work:  # noqa: ASYNC110 - a thread ends
                await asyncio.sleep(0.01)
        assert await desk.run(1_000, lambda: 5) == 5, "one alone is always read"
        desk.close()

    asyncio.run(main())


ROWS: dict[str, Any] = {
    "type": "object",
    "properties": {"l": {"type": "array", "uniqueItems": True, "items": {"type": "integer"}}},
}


@asynccontextmanager
async def demanding(api: Api, answer: Callable[[dict[str, Any]], Any]) -> AsyncIterator[None]:
    """An agent whose params and results must be different numbers."""
    agent = Agent("rows-1")
    agent.capability("rows.echo", input_schema=ROWS, output_schema=ROWS)(answer)
    async with calling(agent) as caller:
        await api.node.add_agent(endpoint=caller.served.endpoint)
        yield


@pytest.mark.usefixtures("quiet_collector")
def test_params_of_many_values_are_checked_against_schemas_off_the_loop() -> None:
    async def test(api: Api) -> None:
        ran: list[int] = []

        def echo(params: dict[str, Any]) -> dict[str, Any]:
            ran.append(len(params["l"]))
            return params

        good, twice = list(range(100_000)), [*range(100_000), 7]
        task = {"id": "a", "capability": "rows.echo"}
        bodies = [msgspec.json.encode({"tasks": [{**task, "params": {"l": rows}}]}) for rows in (good, twice)]
        async with demanding(api, echo):
            await api.post_raw("/api/tasks/chain", bodies[0])  # starts the process that checks
            accepted = await held_at_most(HOLD_MS_MAX, partial(api.post_raw, "/api/tasks/chain", bodies[0]))
            refused = await held_at_most(HOLD_MS_MAX, partial(api.post_raw, "/api/tasks/chain", bodies[1]))
            assert accepted.status == 202
            view = await api.get(f"/api/tasks/chain/{accepted.body['chain_id']}?wait_s=30")
            assert view.body["tasks"]["a"]["result"] == {"l": good}
            assert (refused.status, refused.code) == (422, "invalid_chain")
            assert "has non-unique elements" in refused.faults["/tasks/0/params"]
            alone = await api.post("/api/tasks", {"capability": "rows.echo", "params": {"l": [1] * 50_000}})
            assert "has non-unique elements" in alone.faults["/params"]
            assert api.node.coordinator.unfinished == 0, "what is refused gives its room back"
            assert set(ran) == {100_000}

    with_server(test)


def test_result_of_many_values_that_does_not_fit_is_the_agents_fault() -> None:
    async def test(api: Api) -> None:
        async with demanding(api, lambda _: {"l": [1] * 50_000}):
            ended = await api.post("/api/tasks?wait_s=30", {"capability": "rows.echo", "deadline_s": 3})
            assert ended.body["status"] == "FAILED"
            assert "has non-unique elements" in ended.body["attempts"][0]["reason"]

    with_server(test)
