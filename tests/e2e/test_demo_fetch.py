"""FETCH over real HTTP: what it brings, and what it says of servers and files of every bad kind."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("rapidocr", reason="needs aicp[demo]")

from aicp import Node, Task, TaskResult, TaskStatus
from aicp.demo.agents.__main__ import make_agent
from aicp.demo.cast import CAST
from aicp.demo.download import PictureNotReached, download, fetch_url
from aicp.demo.loopback import loopback_server
from aicp.demo.picture import FILE_BYTES_MAX, PictureTooHeavy
from aicp.demo.receipts import Receipt, Receipts
from aicp.demo.sample import make_sample

BOUND_S = 60.0
KEY = "key-of-this-run"
FETCH = next(part for part in CAST if part.step == "fetch")


class Host(BaseHTTPRequestHandler):
    """Answers each path in its own bad way."""

    sent = 0
    released = threading.Event()

    def do_GET(self) -> None:
        {
            "/cut-off": self._cut_off,
            "/endless": self._endless,
            "/heavy": self._heavy,
            "/moved": self._moved,
            "/page": self._page,
            "/silent": self._silent,
            "/to-file": self._to_file,
            "/k%C3%B6ln.txt": self._page,
        }.get(self.path, lambda: self.send_error(404))()

    def _page(self) -> None:
        self._head(200, "Content-Length", "6")
        self.wfile.write(b"<html>")

    def _heavy(self) -> None:
        self._head(200, "Content-Length", "200000000")

    def _endless(self) -> None:
        self._head(200)
        type(self).sent = 0
        while True:  # until FETCH hangs up
            self.wfile.write(bytes(65_536))
            type(self).sent += 65_536

    def _cut_off(self) -> None:
        self._head(200, "Content-Length", "1000")
        self.wfile.write(b"only this")

    def _silent(self) -> None:
        self._head(200, "Content-Length", "1000")
        self.released.wait(BOUND_S)

    def _moved(self) -> None:
        self._head(302, "Location", "/page")

    def _to_file(self) -> None:
        self._head(302, "Location", "file:///etc/passwd")

    def _head(self, status: int, *header: str) -> None:
        self.send_response(status)
        if header:
            self.send_header(*header)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with QuietServer(("127.0.0.1", 0), Host) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Host.released.set()
        server.shutdown()
        thread.join()


def test_redirect_is_followed(host: str) -> None:
    assert download(f"{host}/moved", "it") == b"<html>"


def test_letters_with_accents_are_quoted(host: str) -> None:
    assert download(f"{host}/köln.txt", "it") == b"<html>"


def test_redirect_to_a_file_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(PictureNotReached):
        download(f"{host}/to-file", "it")


def test_picture_that_announces_200_mb_is_not_read(host: str) -> None:
    with pytest.raises(PictureTooHeavy, match="more than 25 MiB"):
        download(f"{host}/heavy", "it")


def test_picture_without_end_is_read_only_to_the_limit(host: str) -> None:
    with pytest.raises(PictureTooHeavy, match="more than 25 MiB"):
        download(f"{host}/endless", "it")

    assert Host.sent < 2 * FILE_BYTES_MAX


def test_file_that_breaks_off_is_refused(host: str) -> None:
    with pytest.raises(PictureNotReached, match="it breaks off before its end; try again"):
        download(f"{host}/cut-off", "it")


def test_silent_server_is_not_waited_for(host: str) -> None:
    with pytest.raises(PictureNotReached, match="it does not send it in time"):
        download(f"{host}/silent", "it", bound_s=0.1)


def test_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(PictureNotReached, match="it names a host that cannot be found"):
        download("http://nowhere.invalid/cat.png", "it")


@contextmanager
def at_work(heard: list[Receipt]) -> Iterator[tuple[Receipts, str]]:
    with loopback_server(KEY, heard.append) as loopback:
        loopback.picture = make_sample()
        yield Receipts(loopback.url, KEY), loopback.picture_url


def fetched(receipts: Receipts, url: str) -> TaskResult:
    """How the task ends that asks the real agent for this picture."""

    async def main() -> TaskResult:
        async with Node() as node, make_agent(FETCH, fetch_url, receipts).serving() as served:
            await node.add_agent(endpoint=served.endpoint)
            return await node.router.route_task(Task(FETCH.capability, {"url": url, "name": "it"}))

    return asyncio.run(main())


def test_agent_brings_the_picture_and_says_that_it_has_begun() -> None:
    heard: list[Receipt] = []
    with at_work(heard) as (receipts, picture_url):
        result = fetched(receipts, picture_url)

    assert result.status is TaskStatus.COMPLETED
    assert (result.result["image"]["width"], result.result["original"]["format"]) == (1376, "PNG")
    assert [(receipt.agent_id, receipt.step) for receipt in heard] == [("fetch-1", "task")]


@pytest.mark.parametrize(
    ("path", "code", "sentence"),
    [
        ("/missing", "picture_not_reached", "it answers 404 Not Found; check the address"),
        ("/page", "not_a_picture", "it is not in a format that is read here"),
        ("/heavy", "picture_too_heavy", "it has more than 25 MiB"),
    ],
)
def test_agent_says_no_in_a_sentence(host: str, path: str, code: str, sentence: str) -> None:
    with at_work([]) as (receipts, _):
        result = fetched(receipts, host + path)

    assert result.status is TaskStatus.FAILED
    assert result.error is not None
    assert result.error.code == code
    assert sentence in result.error.message


def test_agent_whose_demo_is_gone_answers_all_the_same(host: str) -> None:
    result = fetched(Receipts("http://127.0.0.1:9", KEY), f"{host}/missing")

    assert result.error is not None
    assert result.error.code == "picture_not_reached"
