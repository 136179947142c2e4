"""Answers of any size: in pieces, and with a turn for everybody else between two of them."""

import asyncio
from typing import Any

import pytest

from aicp.server.answers import PIECE_BYTES, send_json
from tests.unit.flow_kit import virtual


class Connection:
    """Takes an answer, and counts how many pieces of it came in one turn of the loop at the most."""

    def __init__(self) -> None:
        self.start: dict[str, Any] = {}
        self.pieces: list[bytes] = []
        self.most_in_a_turn = 0
        self._in_this_turn = 0

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.pieces.append(message["body"])
        self._in_this_turn += 1
        self.most_in_a_turn = max(self.most_in_a_turn, self._in_this_turn)
        if self._in_this_turn == 1:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self.is_over = not message["more_body"]

    def _next_turn(self) -> None:
        self._in_this_turn = 0


@pytest.mark.parametrize(
    "parts",
    [
        [b"{}"],
        [b"[", b"1,2", b"]"],
        [b'"' + b"a" * (PIECE_BYTES - 2) + b'"'],
        [b'"' + b"a" * (PIECE_BYTES - 1) + b'"'],
        [b'"', b"b" * 10 * PIECE_BYTES, b"c" * 7, b'"'],
    ],
)
@virtual
async def test_an_answer_comes_whole_and_one_small_piece_in_a_turn(parts: list[bytes]) -> None:
    connection, body = Connection(), b"".join(parts)
    await send_json(connection.send, 202, parts, [(b"x-other", b"1")])
    headers = dict(connection.start["headers"])
    assert connection.start["status"] == 202
    assert headers == {
        b"content-type": b"application/json",
        b"content-length": b"%d" % len(body),
        b"x-other": b"1",
    }
    assert b"".join(connection.pieces) == body
    assert max(map(len, connection.pieces)) <= PIECE_BYTES
    assert connection.most_in_a_turn == 1
    assert connection.is_over
