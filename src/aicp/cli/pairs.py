"""Options of the form `key=value`."""

from collections.abc import Iterable

from aicp.errors import SettingsError


def pairs_of(told: Iterable[str], option: str) -> dict[str, str]:
    """What a repeated option says.

    Raises:
        SettingsError: One has no `=`, or a key stands twice.
    """
    pairs: dict[str, str] = {}
    for text in told:
        key, equals, value = text.partition("=")
        if not (equals and key):
            raise SettingsError(f"{option} '{text[:80]}' must be KEY=VALUE.")
        if key in pairs:
            raise SettingsError(f"{option} says '{key[:80]}' twice; keep one.")
        pairs[key] = value
    return pairs
