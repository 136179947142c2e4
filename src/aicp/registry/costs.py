"""How long a check may take at worst: what a schema costs for each value, times what a value weighs.

Neither is exact: both are bounds that a walk finds, and most schemas and values are far below.
"""

from typing import Any

COST_MAX = 500_000
"""About 5 ms at worst: some ten nanoseconds for each value and part of the schema that may look at it."""
WEIGHT_MAX = 4_000
"""What is heavier is not checked on the loop, however little a schema asks: about 60,000 characters or 4,000 values."""
CHARS_SHIFT = 4
PATTERN_COST = 10
FLAT_MEMBERS_MAX = 16
FLAT_CHARS_MAX = 160
FLAT_WEIGHT_MAX = 2 * FLAT_MEMBERS_MAX * (1 + (FLAT_CHARS_MAX >> CHARS_SHIFT)) + 1
_SCALARS = frozenset({int, float, bool, type(None)})
_UNKNOWN = COST_MAX + 1
_IN_PLACE = frozenset({"const", "enum"})
_NO_CHECKS = frozenset({"$defs", "definitions", "default", "examples"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies"})
_PATTERNS = frozenset({"pattern", "format", "patternProperties", "uniqueItems"})
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})


def weight_max(schema: Any) -> int:
    """What a value may weigh so that a check takes 5 ms at most; 0 when no value is light enough."""
    return min(WEIGHT_MAX, COST_MAX // cost_of(schema))


def cost_of(schema: Any) -> int:
    """How many parts of a schema may look at one value, at most: with each reference, all that it leads to.

    References multiply: where each of 20 definitions refers to the next one twice, that is a million. One that leads
    back into itself counts once. Above 500,000, and where a reference is not understood, it is 500,001.
    """
    try:
        return min(_UNKNOWN, max(1, _Costs(schema).of(schema)))
    except RecursionError:
        return _UNKNOWN


def weighs_at_most(value: Any, most: int) -> bool:
    """True when the values, keys and each 16 characters of texts in a value are `most` or fewer.

    Costs some 100 ns for a small flat object, and a walk of `most` values at worst.
    """
    if most >= FLAT_WEIGHT_MAX and value.__class__ is dict and _is_small_and_flat(value):
        return True
    weight, seen = 0, [value]
    for inner in seen:
        kind = inner.__class__
        if kind is str:
            weight += len(inner) >> CHARS_SHIFT
            if weight > most:
                return False
        elif kind is dict or kind is list or kind is tuple:
            if len(seen) + len(inner) > most:
                return False
            seen += inner
            if kind is dict:
                seen += inner.values()
    return weight + len(seen) <= most


def _is_small_and_flat(value: dict[str, Any]) -> bool:
    """True for a few members with short keys whose values are short texts, numbers, booleans or null."""
    if len(value) > FLAT_MEMBERS_MAX:
        return False
    for key, inner in value.items():
        kind = inner.__class__
        if len(key) > FLAT_CHARS_MAX or (len(inner) > FLAT_CHARS_MAX if kind is str else kind not in _SCALARS):
            return False
    return True


class _Costs:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[int, int] = {}

    def of(self, schema: Any) -> int:
        """What a schema, or a list of them, costs."""
        if isinstance(schema, list):
            return sum(map(self.of, schema))
        if not isinstance(schema, dict):
            return 1
        if (known := self._known.get(id(schema))) is None:
            self._known[id(schema)] = 1  # where it is met again inside itself
            known = self._known[id(schema)] = min(_UNKNOWN, 1 + sum(self._of_keyword(*each) for each in schema.items()))
        return known

    def _of_keyword(self, name: str, value: Any) -> int:
        if name in _NO_CHECKS:
            return 0
        if name in _IN_PLACE:
            return _count(value)
        if name in _REFERENCES:
            return self._of_reference(value)
        cost = PATTERN_COST if name in _PATTERNS else 0
        if name in _NAMED and isinstance(value, dict):
            return sum(self.of(inner) + cost for inner in value.values())
        return cost + (self.of(value) if isinstance(value, dict | list) else 1)

    def _of_reference(self, target: Any) -> int:
        address, _, pointer = str(target).partition("#")
        own = self._root.get("$id", "") if isinstance(self._root, dict) else ""
        if address not in {"", str(own).rstrip("#")} or (pointer and not pointer.startswith("/")):
            return _UNKNOWN
        found = self._root
        for step in pointer.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                return _UNKNOWN
        return self.of(found)


def _count(value: Any) -> int:
    seen = [value]
    for inner in seen:
        if isinstance(inner, dict):
            seen.extend(inner.values())
        elif isinstance(inner, list):
            seen.extend(inner)
    return len(seen)
