"""Capability names and versions: agents offer `major.minor`, tasks ask for a major, and a key names both.

A key is `name` for major 1 and `name@major` for any other; lines, circuits and look-ups use nothing else.
"""

import difflib
import re
from collections.abc import Iterable
from itertools import islice

from aicp.model.agent import Capability

VERSION_PATTERN = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,2}")
MAJOR_PATTERN = re.compile(r"[0-9]{1,6}")
SIMILAR_LENGTH_DIFFERENCE_MAX = 3
SIMILAR_COMPARED_MAX = 200


def offered_key(capability: Capability) -> str:
    """The key an agent's capability answers to."""
    major = int(capability.version.partition(".")[0])
    return capability.name if major == 1 else f"{capability.name}@{major}"


def wanted_key(capability: str) -> str:
    """The key a task's capability asks for: `name`, or `name@major`. What is neither is a key nobody answers to."""
    name, at, major = capability.partition("@")
    if not at:
        return name
    if not MAJOR_PATTERN.fullmatch(major):
        return capability
    return name if int(major) == 1 else f"{name}@{int(major)}"


def similar_name(name: str, names: Iterable[str]) -> str:
    """The name that is spelled most like this one; empty when none is close. Compares 200 of similar length at most."""
    near = (each for each in names if abs(len(each) - len(name)) <= SIMILAR_LENGTH_DIFFERENCE_MAX)
    return next(iter(difflib.get_close_matches(name, islice(near, SIMILAR_COMPARED_MAX), n=1, cutoff=0.75)), "")
