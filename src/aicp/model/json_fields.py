"""How fields of structs are written as JSON."""

from typing import Any

import msgspec


def always_written(default: Any) -> Any:
    """A default that is written too, in a struct that leaves out others: rows have always had the field.

    Args:
        default: Immutable.
    """
    return msgspec.field(default_factory=lambda: default)
