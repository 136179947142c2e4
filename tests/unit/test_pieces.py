"""JSON in pieces says what one call says: long texts, wide objects, faults and doubled keys at every cut."""

import asyncio
import json
import random
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from aicp.errors import StorageError
from aicp.model import pieces
from aicp.model.chain import ChainSpec
from aicp.model.document_desk import DocumentDesk
from aicp.model.event import ChainSubmitted, Fact, TaskEnded
from aicp.model.long_texts import LONG_TEXT, decode_text, encode_text, text_of
from aicp.model.pieces import DoubledKey, decode_in_pieces, without_long_texts
from aicp.model.task import Task, TaskResult, TaskStatus
from aicp.model.writing import HEAVY_VALUES, WIDE, encode, encode_in_pieces, is_heavy
from aicp.server.doubles import faults_of_doubles, faults_of_large_doubles, has_doubles
from aicp.storage.rows import AppendRows, FactEncoder, FactRow, decode_facts

AT = datetime(2030, 1, 1, tzinfo=UTC)
ATOMS = ["a", "\\", '"', "\n", "é", "漢", "😀", "\u0001", "\\\\\\", "/", "[{,:", "\ud7ff"]
LONG = LONG_TEXT + 9


def some_text(random_: random.Random, length: int) -> str:
    return "".join(random_.choices(random_.sample(ATOMS, random_.randint(1, len(ATOMS))), k=length))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_ascii", [True, False])
def test_text_is_the_same_wherever_it_is_cut(seed: int, is_ascii: bool) -> None:  # noqa: FBT001 - a case
    text = some_text(random.Random(seed), 3 * LONG_TEXT)
    body = b" " + json.dumps(text, ensure_ascii=is_ascii).encode() + b" "
    assert decode_text(body, 1, len(body) - 1) == text
    assert encode_text(text) == msgspec.json.encode(text)
    assert text_of(text.encode()) == text


@pytest.mark.parametrize("shift", range(0, 14, 3))
def test_surrogate_pairs_and_backslashes_are_not_cut_apart(shift: int) -> None:
    for unit in ("\\ud83d\\ude00", "\\\\", "\\\\\\ud83d\\ude00", "\\u00e9", "é", "😀", '\\"'):
        body = b'"%b%b"' % (b"a" * shift, unit.encode() * (LONG_TEXT // 4))
        assert decode_text(body, 0, len(body)) == msgspec.json.decode(body)


@pytest.mark.parametrize("seed", range(6))
def test_document_of_long_texts_is_what_one_call_makes_of_it(seed: int) -> None:
    random_ = random.Random(seed)

    def value(depth: int) -> Any:
        kind = random_.randrange(5)
        if depth > 2 or kind < 2:
            return some_text(random_, random_.choice([3, LONG]))
        if kind == 2:
            return [value(depth + 1) for _ in range(random_.randrange(4))]
        return {some_text(random_, random_.choice([4, 5, LONG])): value(depth + 1) for _ in range(random_.randrange(4))}

    document = [value(0), value(0), {"k": value(0)}]
    body = msgspec.json.encode(document)
    assert decode_in_pieces(body, has_doubles) == document
    assert encode_in_pieces(document) == body
    assert encode_in_pieces(document, order="deterministic") == msgspec.json.encode(document, order="deterministic")


@pytest.mark.parametrize("at", [10, 1_000, LONG_TEXT, LONG_TEXT + 1, 2 * LONG_TEXT])
@pytest.mark.parametrize("broken", [b"\x01", b"\\x", b"\xff", b'"', b"\\ud83d"])
def test_fault_inside_a_long_text_is_found_with_its_place(at: int, broken: bytes) -> None:
    body = b'{"a":"b","t":"' + b"a" * at + broken + b"a" * (3 * LONG_TEXT - at) + b'"}'
    messages = []
    for decode in (msgspec.json.decode, decode_in_pieces):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)) as caught:
            decode(body)
        messages.append(str(caught.value))
    if "byte" in messages[0] and broken != b'"':
        assert messages[0] == messages[1]


@pytest.mark.parametrize("key", ["aicp: open", "\x00aicp: open", "x" * LONG, "é" * LONG, "\n" * LONG])
def test_key_that_is_long_or_looks_like_the_decoders_own_is_a_key(key: str) -> None:
    document = {"l": [{key: n, "n": [n, key]} for n in range(3)], key: {key: list(range(30_000)), "z": 1}}
    body = msgspec.json.encode(document)
    assert decode_in_pieces(body, has_doubles) == document


def test_long_key_that_stands_twice_is_found() -> None:
    key = "k" * LONG
    escaped = key.replace("k", "\\u006b", 1)
    with pytest.raises(DoubledKey):
        decode_in_pieces(f'{{"{key}":1,"{escaped}":2}}'.encode(), has_doubles)


@pytest.mark.parametrize("seed", range(20))
def test_places_of_doubled_keys_are_those_of_the_scanner_in_c(seed: int) -> None:
    random_ = random.Random(seed)

    def value(depth: int) -> str:
        kind = random_.randrange(5)
        if depth > 3 or kind < 2:
            return random_.choice(["1", "-2.5e3", "null", "true", '"a\\"b"', f'"{"t" * LONG}"', "[]", "{}"])
        inner = [value(depth + 1) for _ in range(random_.randrange(5))]
        if kind == 2:
            return f"[{','.join(inner)}]"
        return "{" + ",".join(f'"{random_.choice("abcdefgh")}":{each}' for each in inner) + "}"

    bodies = [f'{{"x":1,"y":{value(0)},"z":{value(0)},"x":2}}'.encode() for _ in range(20)]
    for body in bodies:
        assert faults_of_large_doubles(body) == faults_of_doubles(body)


def test_long_texts_are_left_out_by_what_is_written_in_them() -> None:
    long, other = "a" * LONG, "b" * LONG
    body = json.dumps({"t": [long, other, long, "\\"], long: 1, "é": '"' * LONG}).encode()
    short = without_long_texts(body)
    assert len(short) < 1_000
    found = json.loads(short)
    assert found["t"][0] == found["t"][2] != found["t"][1]
    assert found["t"][0] in found
    assert without_long_texts(b'{"t":"abc"}') == b'{"t":"abc"}'
    assert without_long_texts(b'{"t":"' + b"a" * LONG) != b'{"t":"' + b"a" * LONG, "one that is not closed, too"


def test_long_key_that_stands_twice_is_reported() -> None:
    key = "k" * LONG
    for second in (key, key.replace("k", "\\u006b", 1)):
        (fault,) = faults_of_large_doubles(f'{{"{key}":1,"{second}":2}}'.encode())
        assert "stands more than once" in fault.message


@pytest.mark.parametrize("order", [None, "deterministic"])
def test_wide_values_are_written_as_one_call_writes_them(order: Any) -> None:
    random_ = random.Random(5)
    keys = [f"k{random_.randrange(10**9)}é" for _ in range(3 * WIDE)]
    wide = {"l": list(range(3 * WIDE)), "o": {key: [1.5, None, True] for key in keys}, "t": tuple(keys), "e": [{}, []]}
    assert encode(wide, order=order) == msgspec.json.encode(wide, order=order)


def test_heavy_is_what_takes_long_to_write() -> None:
    assert not is_heavy({"a": ["b", 1, None], "c": Task("echo", {"x": 1})})
    assert is_heavy(["a" * LONG_TEXT, "b"])
    assert is_heavy({"k" * LONG: 1})
    assert is_heavy([[0]] * HEAVY_VALUES)
    assert is_heavy(Task("echo", {"t": "a" * LONG}))


def test_heavy_facts_are_recorded_and_read_as_they_were() -> None:
    text = some_text(random.Random(1), 6 * LONG)
    spec = ChainSpec((Task("echo", {"t": text, "l": [[n] for n in range(20_000)]}, id="a"),))
    submitted = ChainSubmitted("c", spec, AT, traceparent="t")
    ended = TaskEnded(
        "c", "a", TaskResult("c.a", "echo", TaskStatus.COMPLETED, {text: [text, {"n": 1.5}]}, ended_at=AT)
    )
    facts: list[Fact] = [ended, TaskEnded("c", "b", TaskResult("c.b", "echo", TaskStatus.COMPLETED, [1] * 9_000))]

    async def encoded() -> tuple[FactRow, AppendRows | None, AppendRows]:
        desk = DocumentDesk()
        encoder = FactEncoder(desk)
        first, rows = await encoder.submit(submitted, facts)
        again = await encoder.append(facts)
        desk.close()
        return first, rows, again

    first, rows, again = asyncio.run(encoded())
    assert rows == again
    assert rows is not None
    assert first.fact.encode() == msgspec.json.encode(submitted)
    bodies = {row.digest: row.body.encode() for row in rows.results}
    stored = [first, *rows.facts]
    results = {place: bodies[row.digest] for place, row in enumerate(stored) if row.digest is not None}
    assert decode_facts([row.fact.encode() for row in stored], results) == [submitted, *facts]


def test_heavy_fact_that_json_cannot_hold_is_refused() -> None:
    fact = TaskEnded("c", "a", TaskResult("c.a", "echo", TaskStatus.COMPLETED, ["a" * LONG, {1, object()}]))
    with pytest.raises(StorageError):
        asyncio.run(FactEncoder(DocumentDesk()).append([fact]))


def test_facts_of_a_chain_keep_the_order_of_the_calls_however_heavy_they_are() -> None:
    done: list[int] = []

    async def main() -> None:
        desk = DocumentDesk()
        encoder = FactEncoder(desk)

        async def append(number: int) -> None:
            result = "\n" * LONG * (5 - number) if number % 2 == 0 else number
            task = TaskResult(f"c.t{number}", "echo", TaskStatus.COMPLETED, result)
            await encoder.append([TaskEnded("c", f"t{number}", task)])
            done.append(number)

        await asyncio.gather(*map(append, range(5)))
        desk.close()

    asyncio.run(main())
    assert done == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("inside", [b'\\"', b"\\\\", b'\\\\\\"', b"a\\n", b"\\"])
def test_end_of_a_text_is_found_in_few_looks_however_many_quotes_are_escaped(
    monkeypatch: pytest.MonkeyPatch, inside: bytes
) -> None:
    looks, pattern = 0, pieces._IN_STRING

    class Counting:
        @staticmethod
        def match(body: bytes, at: int, end: int) -> Any:
            nonlocal looks
            looks += 1
            return pattern.match(body, at, end)

    monkeypatch.setattr(pieces, "_IN_STRING", Counting)
    text = b'"' + inside * (1024 * 1024 // len(inside))
    for body in (text, text + b'"', text + b'" ,"b"', text + b'\\"', text + b"\\"):
        looks = 0
        try:
            end = json.JSONDecoder(strict=False).raw_decode(body.decode())[1]
        except ValueError:
            end = len(body)
        assert pieces._end_of_string(body, 0) == end
        assert looks <= len(body) // pieces.PIECE_BYTES + 2
