"""The state of the clocks as a row."""

import logging
from typing import Any, Protocol

import msgspec

from aicp.errors import RecordDamaged
from aicp.model.progress import ClockState
from aicp.storage.row_checksums import UNREADABLE, checksum, described, is_intact

READ = "SELECT body, checksum FROM clock_state WHERE number = 1"
_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ClockState).decode


class StoredClockState(Protocol):
    """A row of `READ`."""

    def __iter__(self) -> Any: ...


def encode_clock_state(state: ClockState) -> tuple[str, int]:
    """Its row: JSON and checksum."""
    body = _encode(state).decode()
    return body, checksum(1, body)


def decode_clock_state(row: StoredClockState | None) -> ClockState | None:
    """The recorded state; None when there is none, or none that can be trusted, which only delays deletions.

    Args:
        row: What `READ` found.
    """
    if row is None:
        return None
    body, stored = row
    try:
        if is_intact(stored, 1, body):
            return _decode(body)
        why: object = "its checksum is another"
    except UNREADABLE as error:
        why = error
    _log.warning("the recorded clock state cannot be read, deletions begin anew: %s", why)
    return None


def check_clock_state(row: Any) -> None:
    """Compare a row of number, body and checksum with that.

    Raises:
        RecordDamaged: It has another.
    """
    number, body, stored = row
    if not is_intact(stored, number, body):
        raise RecordDamaged("clock_state", described(number), "its checksum is another")
