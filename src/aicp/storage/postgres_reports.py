"""What `aicp db` tells of a PostgreSQL database, for those who need not know the driver."""

from pathlib import Path

import msgspec


class UpgradedPostgres(msgspec.Struct, frozen=True):
    """What an upgrade did.

    Attributes:
        place: The database, without user and password.
        revision_before: None when it was new.
        revision: Now.
        waiting: Steps left for later, since servers that run are of code that needs what they take away.
    """

    place: str
    revision_before: str | None
    revision: str
    waiting: tuple[str, ...]


class CheckedPostgres(msgspec.Struct, frozen=True):
    """What a check found.

    Attributes:
        place: The database, without user and password.
        revision: Of its schema; None when it has none.
        newest_revision: The newest this version of AICP knows.
        size_bytes: Of AICP's tables and their indexes.
        counts: How many of each thing it holds.
        problems: What is wrong; empty when it is sound.
        notes: What one should know of it, and is no fault of the data.
    """

    place: str
    revision: str | None
    newest_revision: str
    size_bytes: int
    counts: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


class BackedUpPostgres(msgspec.Struct, frozen=True):
    """What a backup made.

    Attributes:
        place: The database, without user and password.
        backup: The copy, one file in `pg_dump`'s custom format.
        revision: Of its schema.
        size_bytes: Of the copy.
    """

    place: str
    backup: Path
    revision: str | None
    size_bytes: int


class RestoredPostgres(msgspec.Struct, frozen=True):
    """What a restore did.

    Attributes:
        place: The database, without user and password.
        backup: What it was made from.
        revision: Of its schema.
        kept: The schema that has what was there; None when nothing was.
    """

    place: str
    backup: Path
    revision: str
    kept: str | None
