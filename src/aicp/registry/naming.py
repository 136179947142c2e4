"""Capability names and versions: agents offer `major.minor`, tasks ask for a major, and a key names both.

A key is `name` for major 1 and `name@major` for any other; lines, circuits and look-ups use nothing else.
"""

import difflib
import re
import string
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from aicp.model.agent import Capability

VERSION_PATTERN = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,2}")
MAJOR_PATTERN = re.compile(r"[0-9]{1,6}")
SIMILAR_LENGTH_DIFFERENCE_MAX = 3
SIMILAR_COMPARED_MAX = 200
SIMILAR_LOOKED_AT_MAX = 5_000
LETTERS = string.ascii_letters + string.digits + "._-@"


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


def similar_name(name: str, names: Iterable[str], is_known: Callable[[str], bool]) -> str:
    """The name that is spelled most like this one; empty when none is close. Takes a few milliseconds at most.

    One slip is found among any number of names. What is further away is looked for among the first 5,000, of which
    200 of similar length are compared.
    """
    return next(filter(is_known, _one_slip_away(name)), "") or _closest(name, names, is_known)


def _one_slip_away(name: str) -> Iterator[str]:
    """Every name with two neighbours swapped, or one letter left out, put in or changed."""
    for place in range(len(name) + 1):
        before, after = name[:place], name[place:]
        yield before + after[1:2] + after[:1] + after[2:]
        yield before + after[1:]
        for letter in LETTERS:
            yield before + letter + after
            yield before + letter + after[1:]


def _closest(name: str, names: Iterable[str], is_known: Callable[[str], bool]) -> str:
    looked_at = islice(names, SIMILAR_LOOKED_AT_MAX)
    near = (each for each in looked_at if abs(len(each) - len(name)) <= SIMILAR_LENGTH_DIFFERENCE_MAX)
    compared = islice(filter(is_known, near), SIMILAR_COMPARED_MAX)
    return next(iter(difflib.get_close_matches(name, compared, n=1, cutoff=0.75)), "")
