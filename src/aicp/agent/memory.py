"""Remembers answers, so that a repeated call is answered again and not done again."""

import hashlib
from collections import OrderedDict
from typing import Any

import msgspec

from aicp.model.writing import encode

ENTRIES_MAX = 10_000
BYTES_MAX = 64 * 1024 * 1024
ENTRY_OVERHEAD_BYTES = 400


class Remembered(msgspec.Struct, frozen=True):
    """A success.

    Attributes:
        fingerprint: Of what was asked.
        body: Of the answer, as it was sent.
    """

    fingerprint: bytes
    body: bytes


class Memory:
    """Successes by key, the least recently used forgotten first.

    Args:
        entries_max: At most so many answers.
        bytes_max: At most so many bytes, about; an answer larger than that is not remembered.
    """

    def __init__(self, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: OrderedDict[str, Remembered] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def find(self, key: str) -> Remembered | None:
        """What was answered to this key."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def remember(self, key: str, fingerprint: bytes, body: bytes) -> None:
        """Keep a success, and forget others as needed."""
        self._forget(key)
        entry = Remembered(fingerprint, body)
        if _bytes_of(key, entry) > self._bytes_max:
            return
        self._entries[key] = entry
        self._bytes += _bytes_of(key, entry)
        while len(self._entries) > self._entries_max or self._bytes > self._bytes_max:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _bytes_of(key, entry)


def fingerprint_of(capability_ref: str, params: dict[str, Any]) -> bytes:
    """A digest of what is asked, the same for the same params in any order; linear in their size."""
    written = encode(params, order="deterministic")
    return hashlib.blake2b(capability_ref.encode() + b"\0" + written, digest_size=16).digest()


def _bytes_of(key: str, entry: Remembered) -> int:
    return len(key) + len(entry.body) + ENTRY_OVERHEAD_BYTES
