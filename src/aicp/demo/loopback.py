"""The demo's own HTTP server on loopback: FETCH gets the picture there, and agents leave their receipts."""

import hmac
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any

import msgspec

from aicp.demo.receipts import RECEIPT_BYTES_MAX, RECEIPT_S_MAX, RECEIPTS_PATH, Receipt

PICTURE_PATH = "/picture"

_STOP_LOOKS_EVERY_S = 0.05


class LoopbackServer:
    """A server in threads of its own.

    Attributes:
        url: Its base URL.
        picture: The file behind `picture_url`; 404 while it is empty.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.picture = b""

    @property
    def picture_url(self) -> str:
        """Where FETCH gets the picture."""
        return self.url + PICTURE_PATH


@contextmanager
def loopback_server(key: str, on_receipt: Callable[[Receipt], None]) -> Iterator[LoopbackServer]:
    """Serve until the block ends.

    Args:
        key: What whoever leaves a receipt must show.
        on_receipt: Called in a thread of the server; the agent answers its task only after it has returned.
    """
    listener = _Listener(("127.0.0.1", 0), _Handler)
    with listener:
        listener.key, listener.on_receipt = key, on_receipt
        listener.public = LoopbackServer(listener.server_port)
        thread = threading.Thread(target=listener.serve_forever, args=(_STOP_LOOKS_EVERY_S,), name="loopback server")
        thread.start()
        try:
            yield listener.public
        finally:
            listener.shutdown()
            thread.join()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    # A request that hangs is cut off with the process; the end of the demo does not wait for it.
    block_on_close = False
    public: LoopbackServer
    key: str
    on_receipt: Callable[[Receipt], None]

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Agents die in the middle of a request here: that is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    timeout = RECEIPT_S_MAX

    def do_GET(self) -> None:
        """The picture."""
        picture = self.server.public.picture
        if self.path != PICTURE_PATH or not picture:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(picture)))
        self.end_headers()
        self.wfile.write(picture)

    def do_POST(self) -> None:
        """A receipt."""
        shown = self.headers.get("Authorization", "").encode()
        if self.path != RECEIPTS_PATH or not hmac.compare_digest(shown, f"Bearer {self.server.key}".encode()):
            self.send_error(404)
            return
        try:
            receipt = msgspec.json.decode(self.rfile.read(self._length()), type=Receipt)
        except msgspec.DecodeError:
            self.send_error(400)
            return
        self.server.on_receipt(receipt)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of http.server
        """Nothing: the terminal belongs to the story."""

    def _length(self) -> int:
        told = self.headers.get("Content-Length", "0")
        return min(int(told), RECEIPT_BYTES_MAX) if told.isdecimal() else 0
