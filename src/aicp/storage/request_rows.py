"""Requests to the owner of a chain as rows and back."""

import msgspec

from aicp.errors import Conflict, RecordDamaged
from aicp.model.request import Request
from aicp.storage.row_checksums import checksum, described, is_intact

REQUEST_COLUMNS = 'chain_id, name, kind, body, "by", at, checksum'
"""The columns of a `StoredRequest`, in the order of its fields."""


def request_checksum(chain_id: str, name: str, kind: str, body: str, by: str) -> int:
    """Of a request's row; not of its time, which the database may assign and which only orders requests."""
    return checksum(chain_id, name, kind, body, by)


def refuse_other(request: Request, body: str) -> None:
    """Compare a request with the body on record under its name.

    Raises:
        Conflict: It is another one.
    """
    if body != request.body:
        raise Conflict(f"Another request '{described(request.name)}' of chain {request.chain_id} is on record.")


class StoredRequest(msgspec.Struct, frozen=True):
    """A request's row as a database returns it; `at` is RFC 3339 in UTC. Fields are as in the table."""

    chain_id: str
    name: str
    kind: str
    body: str
    by: str
    at: str
    checksum: int | None

    def decode(self) -> Request:
        """The request.

        Raises:
            RecordDamaged: The row is damaged.
        """
        self.check()
        return Request(self.chain_id, self.name, self.kind, self.body, self.by)

    def check(self) -> None:
        """Compare the row with its checksum.

        Raises:
            RecordDamaged: It has another.
        """
        if not is_intact(self.checksum, self.chain_id, self.name, self.kind, self.body, self.by):
            raise RecordDamaged("requests", described(self.chain_id, self.name), "its checksum is another")
