"""The format of SQLite's write-ahead log and of the index beside it: headers, frames and checksums, without any I/O.

    log    header (32 bytes), then frames: a header (24 bytes) and one page each
    frame  page number, size of the database after a commit (0: the transaction goes on), salts, checksum

A checksum covers everything before it, so a frame is verified against the stored checksum of the frame before.
Source: https://www.sqlite.org/fileformat2.html#walformat, https://www.sqlite.org/walformat.html
"""

import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Literal

import msgspec

LOG_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
INDEX_BYTES = 100

Order = Literal["little", "big"]
ORDERS: tuple[Order, ...] = ("little", "big")
Checksum = tuple[int, int]

_LOG_HEADER = struct.Struct(">IIII8sII")
_FRAME_HEADER = struct.Struct(">II8sII")
_INDEX_HEADER = struct.Struct("=12xBBHI4x8x8sII")
_NATIVE_WORD = struct.Struct("=I")
_PAGE_SIZE = struct.Struct(">16xH")
_PAGE_SIZE_MAX = 65_536
_VERSION = 3_007_000
_MAGIC: dict[int, Order] = {0x377F0682: "little", 0x377F0683: "big"}
_PAGE_SIZES = frozenset(1 << power for power in range(9, 17))
_WORD = 0xFFFF_FFFF
_LANE_BYTES = 8
_LANE_BITS = 64


class LogHeader(msgspec.Struct, frozen=True):
    """The valid header of a log.

    Attributes:
        page_size: Bytes of a page.
        order: The byte order in which words are summed.
        salts: Repeated in every frame of this generation of the log.
        checksum: Of the header; the first frame continues it.
    """

    page_size: int
    order: Order
    salts: bytes
    checksum: Checksum

    @property
    def frame_size(self) -> int:
        """Bytes of a frame with its page."""
        return FRAME_HEADER_BYTES + self.page_size


class FrameHeader(msgspec.Struct, frozen=True, gc=False):
    """The header of a frame, as it stands in the log.

    Attributes:
        page: Number of the page, from 1.
        size_after: Pages of the database after this commit; 0 inside a transaction.
        salts: Of the log's generation to which the frame belongs.
        checksum: Of everything up to the end of the frame.
    """

    page: int
    size_after: int
    salts: bytes
    checksum: Checksum


class LogIndex(msgspec.Struct, frozen=True):
    """The valid header of the shared index, which SQLite writes after a commit is on disk.

    Attributes:
        salts: Of the log that it describes.
        frames: Committed frames.
        backfilled: Frames whose pages are in the main file, on disk.
    """

    salts: bytes
    frames: int
    backfilled: int

    @property
    def is_pending(self) -> bool:
        """True when the log holds commits that the main file lacks."""
        return self.frames > self.backfilled


def parse_log_header(raw: bytes) -> LogHeader | None:
    """The header at the beginning of a log; None when SQLite would ignore the log for it."""
    if len(raw) < LOG_HEADER_BYTES:
        return None
    magic, version, page_size, _, salts, *stored = _LOG_HEADER.unpack_from(raw)
    order = _MAGIC.get(magic)
    if order is None or version != _VERSION or page_size not in _PAGE_SIZES:
        return None
    summed = checksum(raw[: LOG_HEADER_BYTES - 8], order)
    return LogHeader(page_size, order, salts, summed) if list(summed) == stored else None


def parse_page_size(raw: bytes) -> int | None:
    """The page size in the header of a main file; None when it is none."""
    if len(raw) < _PAGE_SIZE.size:
        return None
    (stored,) = _PAGE_SIZE.unpack_from(raw)
    size = _PAGE_SIZE_MAX if stored == 1 else stored
    return size if size in _PAGE_SIZES else None


def parse_frame_header(raw: bytes, offset: int = 0) -> FrameHeader:
    """The 24 bytes at `offset`."""
    page, size_after, salts, *summed = _FRAME_HEADER.unpack_from(raw, offset)
    return FrameHeader(page, size_after, salts, (summed[0], summed[1]))


def parse_index(raw: bytes) -> LogIndex | None:
    """The header of the shared index; None when its two copies differ, as while it is written, or it is not whole."""
    half = _INDEX_HEADER.size
    if len(raw) < INDEX_BYTES or raw[:half] != raw[half : 2 * half]:
        return None
    is_ready, _, _, frames, salts, *stored = _INDEX_HEADER.unpack_from(raw)
    (version,) = _NATIVE_WORD.unpack_from(raw)
    if not is_ready or version != _VERSION or list(checksum(raw[: half - 8], sys.byteorder)) != stored:
        return None
    (backfilled,) = _NATIVE_WORD.unpack_from(raw, 2 * half)
    return LogIndex(salts, frames, backfilled)


def checksum(data: bytes, order: Order, before: Checksum = (0, 0)) -> Checksum:
    """SQLite's checksum of `data`, whose length is a multiple of 8, continued from `before`."""
    one, two = before
    words = struct.unpack(f"{'<' if order == 'little' else '>'}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & _WORD
        two = (two + second + one) & _WORD
    return one, two


def count_verified(block: bytes, frames: Sequence[FrameHeader], header: LogHeader, before: Checksum) -> int:
    """How many frames at the beginning of a block are whole and continue each other.

    All frames are summed at once, each in a 64-bit lane of two long integers, since each begins with the checksum that
    the one before it stores: some 150 MiB a second, where a loop over words does 25.

    Args:
        block: The frames.
        frames: Their headers.
        header: Of the log.
        before: What the first frame continues.
    """
    fitting = next((at for at, frame in enumerate(frames) if not _belongs(frame, header)), len(frames))
    stored = [frame.checksum for frame in frames[:fitting]]
    if not stored:
        return 0
    ones, twos = _sum_lanes(block[: fitting * header.frame_size], header, [before, *stored[:-1]])
    wrong = (ones ^ _lanes([one for one, _ in stored])) | (twos ^ _lanes([two for _, two in stored]))
    return ((wrong & -wrong).bit_length() - 1) // _LANE_BITS if wrong else fitting


def _belongs(frame: FrameHeader, header: LogHeader) -> bool:
    return frame.salts == header.salts and frame.page != 0


def _sum_lanes(block: bytes, header: LogHeader, befores: Sequence[Checksum]) -> tuple[int, int]:
    """The checksum of each frame, continued from its element of `befores`, as lanes of little-endian words."""
    words = array("I", block)
    if header.order != "little":
        words.byteswap()
    pairs = array("Q", words.tobytes())
    pairs_a_frame = header.frame_size // _LANE_BYTES
    mask = _lanes([_WORD] * len(befores))
    ones, twos = _lanes([one for one, _ in befores]), _lanes([two for _, two in befores])
    # The page number and the size are summed, the salts and the checksum are not.
    for at in (0, *range(FRAME_HEADER_BYTES // _LANE_BYTES, pairs_a_frame)):
        both = int.from_bytes(pairs[at::pairs_a_frame].tobytes(), "little")
        ones = (ones + (both & mask) + twos) & mask
        twos = (twos + (both >> 32 & mask) + ones) & mask
    return ones, twos


def _lanes(values: Sequence[int]) -> int:
    return int.from_bytes(struct.pack(f"<{len(values)}Q", *values), "little")
