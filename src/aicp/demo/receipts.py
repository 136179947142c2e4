"""An agent tells the demo that it has begun to work, and answers only after the demo has heard it.

So whoever wants to kill an agent at its work can be sure of the moment: the work has begun, and its answer is not on
its way, on a machine of any speed. Saying it costs the work nothing: the demo hears while the agent works on.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import msgspec

from aicp.model.run_id import run_in_chain

RECEIPTS_PATH = "/receipts"
RECEIPT_BYTES_MAX = 4096
RECEIPT_S_MAX = 10.0


class Receipt(msgspec.Struct, frozen=True):
    """Said by an agent whose work on a task has begun.

    Attributes:
        agent_id: Who.
        task_id: Global id of the task.
    """

    agent_id: str
    task_id: str

    @property
    def step(self) -> str:
        """The task's id inside its chain."""
        return run_in_chain(self.task_id)


class Receipts:
    """Where an agent's receipts go.

    Args:
        url: Base URL of the demo's own server.
        key: The key of this run.
    """

    def __init__(self, url: str, key: str) -> None:
        self._address = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    @contextmanager
    def announced(self, receipt: Receipt) -> Iterator[None]:
        """Send a receipt, do the work of the block, and wait until the receipt was heard, at most 10 s.

        A demo that cannot be reached keeps nobody from answering.
        """
        connection = HTTPConnection(self._address, timeout=RECEIPT_S_MAX)
        try:
            with suppress(OSError):
                connection.request("POST", RECEIPTS_PATH, msgspec.json.encode(receipt), self._headers)
            yield
            with suppress(OSError, HTTPException):
                connection.getresponse().read(RECEIPT_BYTES_MAX)
        finally:
            connection.close()
