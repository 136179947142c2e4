"""Levels: how releases of different age share one database.

A level is what a release newly records. A chain needs the highest level of its facts, its row says so, and a replica
runs and reads only chains that need at most its own level. See docs/adr/0041-levels-let-versions-share-a-database.md.
"""

from collections.abc import Iterable, Mapping

LEVEL = 0
"""The level of this release: it reads facts of levels up to this one."""

FACT_LEVELS: Mapping[type, int] = {}
"""The kinds of facts that need a level above 0, each with its level."""


def level_of(facts: Iterable[object]) -> int:
    """The level that reading these facts needs, 0 to `LEVEL`."""
    return max((FACT_LEVELS.get(type(fact), 0) for fact in facts), default=0) if FACT_LEVELS else 0
