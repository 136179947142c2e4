"""Fencing tokens: who lost ownership of a task must not start it again."""

import re
from collections import OrderedDict

TOKENS_MAX = 20_000
_PATTERN = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")

Token = tuple[int, int]


def parse_token(text: str) -> Token | None:
    """`<epoch>.<attempt>` as a pair that compares epoch first; None when it is malformed."""
    found = _PATTERN.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else None


class Fence:
    """The newest token seen for each key, the keys least recently seen forgotten first.

    Args:
        tokens_max: At most so many keys.
    """

    def __init__(self, tokens_max: int = TOKENS_MAX) -> None:
        self._tokens_max = tokens_max
        self._newest: OrderedDict[str, Token] = OrderedDict()

    def is_stale(self, key: str, token: Token) -> bool:
        """True when a newer token was seen for this key."""
        return token < self._newest.get(key, token)

    def advance(self, key: str, token: Token) -> None:
        """Remember a token that is not stale."""
        self._newest[key] = token
        self._newest.move_to_end(key)
        if len(self._newest) > self._tokens_max:
            self._newest.popitem(last=False)
