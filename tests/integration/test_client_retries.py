"""What the client sends again, how often, and when it gives up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web

from aicp.client import Client, ServerRefused, ServerUnreachable, exchange
from aicp.errors import AicpError, NotFound, QueueFull
from aicp.model.task import Task
from aicp.testing.faulty_servers import FaultyServer, closes, never_answers
from tests.integration.server_kit import run

ACCEPTED = {"task_id": "c.task", "status": "PENDING"}
FULL = {"code": "queue_full", "detail": "Full.", "retry_after_ms": 1, "retryable": True}
Answer = Callable[[web.BaseRequest], web.StreamResponse]


class Scripted:
    """A server that answers as told, one after the other, and remembers what it was asked."""

    def __init__(self, *script: Answer) -> None:
        self._script = list(script)
        self.asked: list[tuple[str, str, str | None, bytes]] = []
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Scripted"]:
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((request.method, request.path, request.headers.get("Idempotency-Key"), body))
        return self._script.pop(0)(request)


def answer(status: int, body: Any, **headers: str) -> Answer:
    return lambda _: web.Response(status=status, body=msgspec.json.encode(body), headers=headers)


def hang_up(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def with_script(
    *script: Answer, test: Callable[[Client, Scripted], Coroutine[Any, Any, None]], retries_max: int = 4
) -> None:
    async def main() -> None:
        async with Scripted(*script).serving() as server, Client(server.url, "k", retries_max=retries_max) as client:
            await test(client, server)

    run(main)


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BACKOFF_FIRST_S", 0.01)


@pytest.mark.parametrize(
    "trouble",
    [hang_up, answer(429, FULL), answer(503, FULL), answer(503, "busy"), answer(503, {}, **{"Retry-After": "0"})],
    ids=["hang up", "429", "503", "503 without a problem", "Retry-After"],
)
def test_submit_is_sent_again_with_the_same_key(trouble: Answer) -> None:
    async def test(client: Client, server: Scripted) -> None:
        assert await client.submit_task(Task("text.echo")) == "c.task"
        assert len(server.asked) == 3
        assert len(set(server.asked)) == 1
        assert server.asked[0][2]

    with_script(trouble, trouble, answer(202, ACCEPTED), test=test)


def test_every_submit_has_a_key_of_its_own() -> None:
    async def test(client: Client, server: Scripted) -> None:
        await client.submit_task(Task("text.echo"))
        await client.submit_task(Task("text.echo"))
        assert server.asked[0][2] != server.asked[1][2]

    with_script(answer(202, ACCEPTED), answer(202, ACCEPTED), test=test)


def test_large_body_is_sent_again_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BYTES_SENT_WHOLE_MAX", 1_000)

    async def test(client: Client, server: Scripted) -> None:
        await client.submit_task(Task("text.echo", {"text": "x" * 1_000}))
        assert len(server.asked[0][3]) > 1_000
        assert server.asked[0] == server.asked[1]

    with_script(answer(429, FULL), answer(202, ACCEPTED), test=test)


@pytest.mark.parametrize("retries_max", [0, 2])
def test_troubles_that_go_on_are_given_up_as_what_they_are(retries_max: int) -> None:
    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(QueueFull):
            await client.submit_task(Task("text.echo"))
        assert len(server.asked) == retries_max + 1

    with_script(*[answer(429, FULL)] * 5, test=test, retries_max=retries_max)


def test_server_that_hangs_up_for_ever_is_unreachable() -> None:
    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(ServerUnreachable, match=server.url):
            await client.info()
        assert len(server.asked) >= 3  # the HTTP library may retry a GET on a connection that died by itself

    with_script(*[hang_up] * 20, test=test, retries_max=2)


def test_nobody_listening_is_told_in_a_sentence() -> None:
    async def main() -> None:
        async with Client("http://127.0.0.1:9", "k", retries_max=1) as client:
            with pytest.raises(
                ServerUnreachable, match=r"^http://127\.0\.0\.1:9 cannot be reached: connection refused\.$"
            ):
                await client.info()

    run(main)


def test_server_that_hangs_up_is_told_as_one_that_may_serve_https() -> None:
    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(ServerUnreachable) as raised:
            await client.info()
        told = f"{server.url} cannot be reached: it hung up without an answer. If it serves HTTPS, write https://"
        assert raised.value.message.startswith(told)
        assert raised.value.advice.startswith("if it serves HTTPS")

    with_script(*[hang_up] * 20, test=test, retries_max=0)


def test_host_that_nobody_knows_is_told_in_plain_words() -> None:
    async def main() -> None:
        async with Client("http://nosuchhost.invalid", "k", retries_max=0) as client:
            with pytest.raises(ServerUnreachable, match=r"no host is known as 'nosuchhost\.invalid'\. Look at the URL"):
                await client.info()

    run(main)


def test_answer_that_breaks_off_is_told_in_plain_words() -> None:
    async def main() -> None:
        async with (
            FaultyServer(closes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")) as server,
            Client(server.url, "k", retries_max=0) as client,
        ):
            with pytest.raises(ServerUnreachable, match=r"cannot be reached: its answer broke off\.$"):
                await client.info()

    run(main)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 500, 502])
def test_other_refusals_are_not_sent_again(status: int) -> None:
    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(AicpError):
            await client.submit_task(Task("text.echo"))
        assert len(server.asked) == 1

    with_script(answer(status, {"code": "new_code", "detail": "No."}), test=test)


def test_unknown_code_keeps_its_detail_and_status() -> None:
    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(ServerRefused, match=r"^No, never\.$") as refused:
            await client.info()
        assert (refused.value.status, refused.value.problem_code) == (418, "teapot")
        with pytest.raises(NotFound):
            await client.info()

    with_script(
        answer(418, {"code": "teapot", "detail": "No, never."}),
        answer(404, {"code": "gone_away", "detail": "x"}),
        test=test,
    )


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[]", b'{"code": 5}', b"[" * 100_000])
def test_refusal_without_a_problem_is_told_by_its_status(body: bytes) -> None:
    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(ServerRefused, match="502"):
            await client.info()

    with_script(lambda _: web.Response(status=502, body=body), test=test)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"detail": "Not Found"}'])
def test_refusal_of_something_else_is_told_as_such(body: bytes) -> None:
    async def test(client: Client, server: Scripted) -> None:
        told = rf"^What answers at {server.url} is no AICP server: it said 404; look at the URL \(AICP_URL\)\.$"
        with pytest.raises(ServerRefused, match=told):
            await client.info()

    with_script(lambda _: web.Response(status=404, body=body), test=test)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"name": 5}', b"[" * 100_000])
def test_answer_that_is_no_answer_is_told_as_such(body: bytes) -> None:
    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(ServerRefused, match="no AICP server"):
            await client.info()

    with_script(lambda _: web.Response(body=body), test=test)


def test_redirect_is_not_followed() -> None:
    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(ServerRefused):
            await client.info()
        assert len(server.asked) == 1

    with_script(answer(307, {}, Location="/elsewhere"), test=test)


def test_promise_of_the_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(client: Client, server: Scripted) -> None:
        waits_s, sleep = [], asyncio.sleep

        async def noted(delay_s: float) -> None:
            waits_s.append(delay_s)
            await sleep(0)

        with monkeypatch.context() as patch:
            patch.setattr("aicp.client.exchange.asyncio.sleep", noted)
            await client.submit_task(Task("text.echo"))
        assert 0.2 in waits_s
        assert len(server.asked) == 2

    with_script(answer(429, {**FULL, "retry_after_ms": 200}), answer(202, ACCEPTED), test=test)


def test_promise_too_far_away_is_not_waited_for() -> None:
    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(QueueFull):
            await client.submit_task(Task("text.echo"))
        assert len(server.asked) == 1

    with_script(answer(429, {**FULL, "retry_after_ms": 3_600_000}), test=test)


def test_answer_that_does_not_come_is_given_up() -> None:
    async def main() -> None:
        async with (
            FaultyServer(never_answers()) as silent,
            Client(silent.url, "k", timeout_s=0.05, retries_max=0) as client,
        ):
            with pytest.raises(ServerUnreachable, match="did not answer"):
                await client.info()
            assert silent.connections == 1

    run(main)


def test_answer_that_is_too_large_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ANSWER_BYTES_MAX", 1_000)

    async def test(client: Client, server: Scripted) -> None:
        with pytest.raises(ServerUnreachable, match="larger"):
            await client.info()

    with_script(answer(200, "x" * 2_000), test=test, retries_max=0)
