"""Live events from a server, for as long as somebody wants them: read, and gone on with after every break."""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec

from aicp.client.exchange import Exchange, Trouble
from aicp.client.problems import ServerRefused
from aicp.errors import InvalidInput
from aicp.model.live import LiveEvent

LAST_ID_HEADER = "Last-Event-ID"
_decode = msgspec.json.Decoder(LiveEvent).decode
# What a header can carry back: another id is none that AICP gives.
_ID = re.compile(r"[!-~]{1,256}")
_OK = 200


async def follow(
    exchange: Exchange, path: str, query: Mapping[str, str], after: str | None
) -> AsyncGenerator[LiveEvent, None]:
    """Every event, each with its id; a break is gone on from where it was.

    Args:
        exchange: Reaches the server.
        path: Of the events.
        query: Which ones.
        after: The id behind which to begin; None to begin with what comes.

    Raises:
        AicpError: The error that the server told, by its code.
        InvalidInput: `after` can be no id.
        ServerRefused: It told what is no event.
        ServerUnreachable: It could not be reached, however often it was tried.
    """
    if after is not None and not _ID.fullmatch(after):
        raise InvalidInput(f"{after[:80]!a} can be no id of an event: give the id of one, or none.")
    place = after
    backoffs = exchange.backoffs()
    while True:
        try:
            async with aclosing(exchange.lines(path, query, _headers(place))) as lines:
                async for line in lines:
                    name, _, value = line.partition(": ")
                    if name == "id":
                        place = value if _ID.fullmatch(value) else place
                        backoffs = exchange.backoffs()
                    elif name == "data":
                        yield msgspec.structs.replace(_event(value), id=place or "")
        except Trouble as trouble:
            await exchange.wait_after(trouble, next(backoffs))
        else:
            # The server ends what lasted long, and everything when it stops.
            await asyncio.sleep(next(exchange.backoffs()))


def _event(body: str) -> LiveEvent:
    try:
        return _decode(body)
    except (ValueError, RecursionError) as error:
        raise ServerRefused(f"What answers there is no AICP server of this version: {error}.", _OK) from error


def _headers(place: str | None) -> dict[str, str]:
    accepted = {"Accept": "text/event-stream"}
    return accepted if place is None else {**accepted, LAST_ID_HEADER: place}
