"""Which statement a page of the list of chains is read with: what the query narrows it by."""

from datetime import UTC, datetime
from itertools import product
from typing import NamedTuple

from aicp.model.task import TaskStatus
from aicp.model.validation import NAME_CHARS_MAX
from aicp.ports import ChainQuery
from aicp.storage.task_ends import ENDS

LAST_CHARACTER = "\U0010ffff"
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


class ListShape(NamedTuple):
    """What a query names, whatever it is.

    Attributes:
        has_tenant: A tenant.
        has_status: A status.
        unfinished: True when only unfinished chains are meant.
        ends: How tasks of the chains must have ended; None for anyhow.
        has_name: The beginning of a name.
        has_times: When the chains were submitted; they are then sorted by that.
    """

    has_tenant: bool = False
    has_status: bool = False
    unfinished: bool = False
    ends: TaskStatus | None = None
    has_name: bool = False
    has_times: bool = False


SHAPES = tuple(
    ListShape(has_tenant, has_status, unfinished, ends, has_name, has_times)
    for has_tenant, has_status, unfinished, has_name, has_times in product((False, True), repeat=5)
    for ends in (None, *ENDS)
)
"""Every shape that there is."""


def shape_of(query: ChainQuery) -> ListShape:
    """What a query names."""
    return ListShape(
        query.tenant is not None, query.status is not None, query.unfinished, query.with_tasks, bool(query.name),
        query.submitted_from is not None or query.submitted_to is not None,
    )  # fmt: skip


def names_from_to(beginning: str) -> tuple[str, str]:
    """Two texts: names with this beginning are from the first on, and before the second."""
    return beginning, beginning + LAST_CHARACTER * NAME_CHARS_MAX


def times_from_to(query: ChainQuery) -> tuple[datetime, datetime]:
    """From when on, and before when, the chains of a query were submitted."""
    return query.submitted_from or _EARLIEST, query.submitted_to or _LATEST
