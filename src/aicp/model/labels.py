"""Labels: what agents carry and tasks ask for, within the same bounds, so that whatever is asked for can be there."""

from collections.abc import Iterator
from itertools import islice

from aicp.errors import Fault
from aicp.model.agent import LABEL_CHARS_MAX, LABELS_MAX
from aicp.model.reading import place_of_key
from aicp.model.text import why_not_plain


def label_faults(labels: dict[str, str], place: str) -> Iterator[Fault]:
    """What is wrong with labels that stand at `place`."""
    if len(labels) > LABELS_MAX:
        yield Fault(place, f"has {len(labels)} entries; at most {LABELS_MAX} are allowed")
    for key, value in islice(labels.items(), LABELS_MAX):
        if told := _why_not(key, value):
            yield Fault(place_of_key(key, place), told)


def _why_not(key: str, value: str) -> str:
    if not key or len(key) > LABEL_CHARS_MAX or len(value) > LABEL_CHARS_MAX:
        return f"key and value may have {LABEL_CHARS_MAX} characters, the key at least 1"
    return why_not_plain(key) or why_not_plain(value)
