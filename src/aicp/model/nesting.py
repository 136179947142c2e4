"""How deep JSON may be nested: documents that come in, params that go out to agents, results that come back."""

from typing import Any

NESTING_MAX = 64


def is_deeper_than(value: Any, levels_max: int = NESTING_MAX) -> bool:
    """True when objects and lists are nested deeper than `levels_max`; linear in their number."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(levels_max):
        if not level:
            return False
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
    return bool(level)


def is_too_deep(value: Any, text: bytes) -> bool:
    """True when a value is nested deeper than 64.

    Args:
        value: What the text was decoded to, or encoded from.
        text: JSON; brackets in it bound the depth, and counting them is nearly free: most answers end here.
    """
    return text.count(b"[") + text.count(b"{") > NESTING_MAX and is_deeper_than(value)


def _inside(value: dict[str, Any] | list[Any]) -> Any:
    return value.values() if isinstance(value, dict) else value
