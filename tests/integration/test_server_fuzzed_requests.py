"""Hostile headers and query parameters at every route, drawn from a seed: each is answered, and none with 500."""

import asyncio
import random
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.integration.server_kit import BOUND_S, Api, Test, shared_server
from tests.unit.hostile_kit import DATES, SEED

OnServer = Callable[[Test], None]

Request = tuple[str, bytes]
"""The route as the document has it, and the request as it is sent."""

ROUNDS = 6
"""How often each route gets a hostile query, and how often hostile headers."""
HEADERS = (
    "Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type",
    "Cookie", "Expect", "Forwarded", "Host", "Idempotency-Key", "If-Modified-Since", "If-None-Match", "Last-Event-ID",
    "Origin", "Range", "Sec-Fetch-Site", "traceparent", "tracestate", "Transfer-Encoding", "Upgrade", "User-Agent",
    "X-Forwarded-For", "X-Forwarded-Proto", "X-HTTP-Method-Override",
)  # fmt: skip
TEXTS = (
    b"", b" ", b"\t \t", b"\x00", b"\x01\x7f", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"-1",
    b"0", b"1e400", b"nan", b"inf", b"9" * 400, b"9" * 5_000, "١٢".encode(), "²".encode(), b"null", b"true", b"[]",
    b'"', b"'", b"\\", b"\\u0000", b"../../etc/passwd", b"<script>", b"{{7*7}}", b"%s%n", b"a" * 300, b"a" * 6_000,
    b"a," * 2_000, b";" * 500, b"=", b"&", b"#", b"?", b"Bearer", b"Bearer ", b"Bearer \xff", b"Basic Og==",
    b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00", b"application/json; charset=\xff", b"text/plain", b"gzip",
    b"bytes=0-,0-,0-", b"W/", b'"\xff"', b"0-0", b"x-99999999999999999999", b"localhost:99999", b"[::1", b"http://[",
    *(date.encode() for date in DATES),
)  # fmt: skip
"""What no parameter and no header should have; a line break is not among them, as it would end the header."""
IN_QUERIES = (
    b"%ff%fe",
    b"%ed%a0%80",
    b"%00",
    b"%",
    b"%zz",
    b"%u0041",
    b"+",
    b"%0d%0aX-Evil:%201",
    b"%2e%2e%2f",
    b"%C0%AF",
)


class Fuzzer:
    """Draws requests.

    Args:
        draw: Chance.
        key: Of an admin.
        document: The OpenAPI document of the server.
    """

    def __init__(self, draw: random.Random, key: str, document: dict[str, object]) -> None:
        self._draw = draw
        self._key = key.encode()
        self._paths = document["paths"]

    def requests(self) -> Iterator[Request]:
        assert isinstance(self._paths, dict)
        for path, methods in self._paths.items():
            for method, operation in methods.items():
                names = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
                route = f"{method.upper()} {path}"
                for _ in range(ROUNDS):
                    yield route, self._request(method, path, self._query(names), {})
                    yield route, self._request(method, path, b"", self._headers())
                yield route, self._request(method, path, self._query(names), self._headers())

    def _request(self, method: str, path: str, query: bytes, headers: dict[str, list[bytes]]) -> bytes:
        place = path.encode() if "{" not in path else b"/".join(self._part(part) for part in path.split("/"))
        fields = {
            "Host": [b"localhost"], "Connection": [b"close"], "Authorization": [b"Bearer " + self._key],
            "Content-Type": [b"application/json"], "Content-Length": [b"0"], **headers,
        }  # fmt: skip
        lines = [b"%b: %b" % (name.encode(), text) for name, texts in fields.items() for text in texts]
        first = b"%b %b%b HTTP/1.1" % (method.upper().encode(), place, query and b"?" + query)
        return b"\r\n".join([first, *lines, b"", b""])

    def _part(self, part: str) -> bytes:
        """A part of a path; in place of an id what names nothing."""
        return self._draw.choice((b"nope", b"%ff", b"%00", b"a" * 300)) if part.startswith("{") else part.encode()

    def _query(self, names: list[str]) -> bytes:
        names = [*names, "unknown", "", "\xff", "status[]"]
        pairs = [self._pair(name) for name in self._draw.sample(names, self._draw.randint(1, min(3, len(names))))]
        if self._draw.random() < 0.3:
            pairs *= self._draw.choice((2, 20, 400))
        return self._draw.choice((b"&", b"&", b"&&", b";")).join(pairs)[:30_000]

    def _pair(self, name: str) -> bytes:
        # A blank or a control character would end the target: what is left of it is as hostile.
        text = bytes(byte for byte in self._draw.choice((*TEXTS, *IN_QUERIES)) if byte > 0x20 and byte not in b"#\x7f")
        return name.encode() + self._draw.choice((b"=", b"=", b"=", b"")) + text

    def _headers(self) -> dict[str, list[bytes]]:
        names = self._draw.sample(HEADERS, self._draw.randint(1, 3))
        return {name: [self._draw.choice(TEXTS)] * self._draw.choice((1, 1, 2, 50)) for name in names}


@pytest.fixture(scope="module", name="on_server")
def running() -> Iterator[OnServer]:
    with shared_server() as run:
        yield run


async def status_of(url: str, request: bytes) -> int:
    """The status of the answer; 0 when the connection was closed without one."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(request)
        line = await reader.readline()
    except ConnectionError:
        return 0
    finally:
        writer.transport.abort()
    return int(line.split()[1]) if line else 0


@pytest.mark.parametrize("seed", [SEED, SEED + 1, SEED + 2])
def test_every_hostile_request_is_answered_and_none_is_a_defect(on_server: OnServer, seed: int) -> None:
    async def test(api: Api) -> None:
        document = (await api.get("/openapi.json")).body
        statuses: dict[int, int] = {}
        for number, (route, request) in enumerate(Fuzzer(random.Random(seed), api.key, document).requests()):
            told = f"seed {seed}, request {number} to {route}: {request[:400]!r}"
            try:
                async with asyncio.timeout(BOUND_S):
                    status = await status_of(api.url, request)
            except TimeoutError:
                raise AssertionError(f"no answer: {told}") from None
            assert 200 <= status < 500, f"{status}: {told}"
            statuses[status] = statuses.get(status, 0) + 1
        assert {200, 400, 401, 404, 422} <= statuses.keys(), statuses
        done = await api.post("/api/tasks?wait_s=10", {"capability": "text.echo"})
        assert (done.status, done.body["status"]) == (202, "COMPLETED")
        assert api.node.router.defects.count == 0

    on_server(test)
