"""Ids of chains."""

from collections.abc import Callable

from aicp.ports import Clock

CHANCE_BYTES = 10
DRAWN_AT_ONCE = 400


class ChainIds:
    """Ids that sort by time, and that nobody guesses.

    Args:
        clock: Time.
        draw: So many bytes of chance. It is asked for many ids at once: to ask the system lets other threads go first.
    """

    def __init__(self, clock: Clock, draw: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._draw = draw
        self._drawn = b""
        self._place = 0

    def next(self) -> str:
        """The milliseconds since 1970 and 80 bits of chance, 32 hexadecimal digits together."""
        if self._place >= len(self._drawn):
            self._drawn, self._place = self._draw(CHANCE_BYTES * DRAWN_AT_ONCE), 0
        chance = self._drawn[self._place : self._place + CHANCE_BYTES]
        self._place += CHANCE_BYTES
        return f"{int(self._clock.utcnow().timestamp() * 1000):012x}{chance.hex()}"
