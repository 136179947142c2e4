"""Checksums of stored rows, the same on every store: CRC-32 over what a row contains, its key included.

A checksum is computed when a row is written, and compared when it is read. It covers every column that keeps its value
while the row lives; a column that changes alone has a checksum of its own. Rows of versions before revision 0008 have
none (NULL) and are accepted. CRC-32 finds every single flipped bit and every burst of up to 32 bits; of other damage it
misses one in 4,000,000,000. It costs some 0.4 µs for a fact of 600 bytes.

Two kinds of checksum have a second half in their upper 32 bits:

- that of a fact has its place in the chain (`placed`), which the database may assign, and adds, in SQL;
- that of a row which is written over has its time of writing (`stamped`): code of a version before 0008 writes the
  row's other columns and leaves the checksum alone, so one that belongs to another time is none.
"""

from zlib import crc32

Value = str | bytes | int | float | None

UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError)
"""What decoding a row may raise that no version of AICP wrote, or a newer one: every decoder of rows catches these."""

PLACE_BITS = 32
_STAMP_MASK = 0x7FFF_FFFF


def checksum(*values: Value) -> int:
    """Of a row's values, in the order of its columns; 0 to 2^32 - 1.

    Taken over what Python writes of them in ASCII, which tells types and limits of values apart and is the same in
    every version of Python, as long as the values are of exactly these types.
    """
    return crc32(ascii(values).encode("ascii"))


def stamped(row_checksum: int, written_at: str) -> int:
    """A row's checksum, bound to its time of writing (RFC 3339): see `is_intact_stamped`."""
    return (crc32(written_at.encode()) & _STAMP_MASK) << PLACE_BITS | row_checksum


def fact_checksum(chain_id: str, digest: bytes | None, fact: bytes) -> int:
    """Of a fact, without its place.

    Args:
        chain_id: Of its chain.
        digest: Of its large result, or None.
        fact: JSON in UTF-8.
    """
    return crc32(
        fact, crc32(f"{chain_id}\0{'' if digest is None else digest.hex()}\0".encode("utf-8", "surrogatepass"))
    )


def placed(of_fact: int, seq: int) -> int:
    """What the row of a fact has as its checksum, at its place in the chain."""
    return of_fact + (seq << PLACE_BITS)


def chain_checksum(
    chain_id: str, tenant: str, name: str, total_tasks: int, submitted_at: str, retry_of: str | None,
    of_key: int | None, context: str | None = None, parent: str | None = None,
) -> int:  # fmt: skip
    """Of what a chain's row says from its submit on; `of_key` is the checksum of the row of its submit key, or None.

    Of a chain with neither context nor parent it is what revision 0009 wrote.
    """
    added = () if context is None and parent is None else (context, parent)
    return checksum(chain_id, tenant, name, total_tasks, submitted_at, retry_of, of_key, *added)


def with_more(values: tuple[Value, ...], more: str | None) -> tuple[Value, ...]:
    """The values of a row of an agent or a key, and its column `more`; without one they are what revision 0009 had."""
    return values if more is None else (*values, more)


def status_checksum(chain_id: str, status: str, ended_at: str | None) -> int:
    """Of what a chain's row says of its progress."""
    return checksum(chain_id, status, ended_at)


def is_intact(stored: int | None, *values: Value) -> bool:
    """True when a row has no checksum, or has that of its values."""
    return stored is None or stored == checksum(*values)


def is_intact_stamped(stored: int | None, written_at: str, *values: Value) -> bool:
    """As `is_intact`, for a row that is written over; a checksum of another time than the row's counts as none."""
    if stored is None:
        return True
    expected = stamped(checksum(*values), written_at)
    return stored >> PLACE_BITS != expected >> PLACE_BITS or stored == expected


def described(*key: object) -> str:
    """A row's key for people, at most 200 characters, and UTF-8 whatever it was damaged to."""
    return "/".join(map(str, key))[:200].encode("utf-8", "replace").decode()
