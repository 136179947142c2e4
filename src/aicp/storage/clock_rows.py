"""The state of the clocks as a row."""

import logging

import msgspec

from aicp.model.progress import ClockState

READ = "SELECT body FROM clock_state WHERE number = 1"
_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ClockState).decode


def encode_clock_state(state: ClockState) -> str:
    """Its row."""
    return _encode(state).decode()


def decode_clock_state(body: str | None) -> ClockState | None:
    """The recorded state; None when there is none, or none that can be read, which only delays deletions."""
    if body is None:
        return None
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        _log.warning("the recorded clock state cannot be read, deletions begin anew: %s", error)
        return None
