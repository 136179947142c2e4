"""Threads that work on documents leave the interpreter lock between two pieces, and a loop never sleeps for that."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from aicp.model import giving_way
from aicp.model.long_texts import LONG_TEXT, decode_text, encode_text, text_of
from aicp.model.pieces import decode_in_pieces, holds_more_values, without_long_texts
from aicp.model.writing import WIDE, encode_in_pieces

PIECES = 5
TEXT = 'a"' * (PIECES * LONG_TEXT // 2)
JSON_TEXT = encode_text(TEXT)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seen: list[float] = []
    monkeypatch.setattr("aicp.model.giving_way.time.sleep", seen.append)
    return seen


@pytest.mark.parametrize(
    "work",
    [
        lambda: encode_text(TEXT),
        lambda: text_of(TEXT.encode()),
        lambda: decode_text(JSON_TEXT, 0, len(JSON_TEXT)),
        lambda: decode_in_pieces(JSON_TEXT),
        lambda: decode_in_pieces(b"[%b0]" % (b"[1,2]," * 40_000)),
        lambda: without_long_texts(JSON_TEXT),
        lambda: holds_more_values(b"[%b0]" % (b"1         ," * (PIECES * 110_000)), 1_000_000),
        lambda: encode_in_pieces([0] * WIDE * PIECES),
        lambda: encode_in_pieces({str(at): 0 for at in range(WIDE * PIECES)}),
    ],
    ids=["encode", "utf-8", "decode", "one text", "values", "digests", "count", "list", "object"],
)
def test_long_work_pauses_between_its_pieces(pauses: list[float], work: Callable[[], object]) -> None:
    work()
    assert len(pauses) >= PIECES - 1
    assert set(pauses) == {giving_way.PAUSE_S}


def test_short_work_does_not_pause(pauses: list[float]) -> None:
    assert decode_in_pieces(encode_in_pieces({"a": ["b" * 1_000] * 10})) == {"a": ["b" * 1_000] * 10}
    assert pauses == []


def test_a_thread_that_runs_a_loop_does_not_sleep(pauses: list[float]) -> None:
    async def main() -> None:
        giving_way.give_way()

    asyncio.run(main())
    assert pauses == []
    thread = threading.Thread(target=giving_way.give_way)
    thread.start()
    thread.join()
    assert pauses == [giving_way.PAUSE_S]
