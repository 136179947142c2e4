"""Live events: numbered for each tenant, kept for a while, read by whoever looks on at its own pace.

    event -> whose is it? -> the tenant's stream: [ the last 5,000, numbered ] <- readers, each a place in it

A reader has no buffer of its own, so that it may be as slow as it likes: when the ring has overtaken it, it is told how
many events it missed. A stream that was forgotten begins again under another boot.
"""

import asyncio
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Self

import msgspec

from aicp.model.event import Event
from aicp.model.live import GAP, NEVER_KEPT, LiveEvent
from aicp.observability.telling import Submitted, tell

Relay = Callable[[LiveEvent, str | None], None]
"""Told of a live event and whose it is; None for every tenant's."""

KEPT_MAX = 5_000
STREAMS_MAX = 64
EVERYBODY = "*"
"""The stream of those who see every tenant; no tenant is called so."""
READERS_MAX = 1_000
BATCH_EVENTS_MAX = 128
LOOKED_AT_MAX = 2_048
PAUSE_S = 0.1
BOOT_BYTES = 6
_ID = re.compile(r"([0-9a-f]{12})-([0-9]{1,18})")
_encode = msgspec.json.Encoder().encode


class Wanted(msgspec.Struct, frozen=True):
    """Which events a reader wants; empty for any.

    Attributes:
        chain_id: Only of this chain.
        agent_id: Only about this agent.
        kinds: Only of these kinds. A gap is always told.
    """

    chain_id: str = ""
    agent_id: str = ""
    kinds: frozenset[str] = frozenset()

    @property
    def is_everything(self) -> bool:
        """True when nothing is left out."""
        return not (self.chain_id or self.agent_id or self.kinds)

    def takes(self, event: LiveEvent) -> bool:
        """True when it is one of them; a gap always is."""
        if event.kind == GAP:
            return True
        if self.chain_id and event.chain_id != self.chain_id:
            return False
        if self.agent_id and event.agent_id != self.agent_id:
            return False
        return not self.kinds or event.kind in self.kinds


class Batch(msgspec.Struct, frozen=True):
    """What a reader gets at once.

    Attributes:
        frames: Events as Server-Sent Events, each with its id; empty when it was quiet.
        last_id: Where the reader stands now: past these, and past what it does not want.
    """

    frames: bytes
    last_id: str


class _Kept(msgspec.Struct, gc=False):
    event: LiveEvent
    body: bytes = b""
    frame: bytes = b""


class _Stream:
    """The latest events of one tenant, numbered from 1. Written as text when the first reader comes to them."""

    __slots__ = ("_kept", "_kept_max", "boot", "last", "news", "readers")

    def __init__(self, kept_max: int) -> None:
        self.boot = secrets.token_hex(BOOT_BYTES)
        self.last = 0
        self.readers = 0
        self.news = asyncio.Event()
        self._kept_max = kept_max
        self._kept: list[_Kept] = []

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept; one more than the last when none is."""
        return self.last - len(self._kept) + 1

    def keep(self, event: LiveEvent, body: bytes) -> None:
        self.last += 1
        kept = _Kept(event, body)
        if len(self._kept) < self._kept_max:
            self._kept.append(kept)
        else:
            self._kept[(self.last - 1) % self._kept_max] = kept
        self.news.set()

    def event(self, number: int) -> LiveEvent:
        return self._at(number).event

    def frame(self, number: int) -> bytes:
        """An event as every reader gets it: made once."""
        kept = self._at(number)
        if not kept.frame:
            kept.frame = self.write(number, kept.body or _encode(kept.event))
            kept.body = b""
        return kept.frame

    def write(self, number: int, body: bytes) -> bytes:
        return b"id: %b-%d\ndata: %b\n\n" % (self.boot.encode(), number, body)

    def id_of(self, number: int) -> str:
        return f"{self.boot}-{number}"

    def _at(self, number: int) -> _Kept:
        return self._kept[(number - 1) % self._kept_max]


class Feed:
    """Tells every tenant's readers of its own events, as an observer. For one event loop.

    Args:
        submitted: What was submitted as a chain that runs; None for one that does not.
        utcnow: The time of gaps.
        kept_max: How many events are kept for each tenant.
        readers_max: How many may read at once; of one tenant half as many.
        relay: Told of each event and whose it is, so that other replicas hear of it.

    Attributes:
        dropped: How many events slow readers missed.
    """

    def __init__(
        self,
        submitted: Submitted,
        utcnow: Callable[[], datetime],
        *,
        kept_max: int = KEPT_MAX,
        readers_max: int = READERS_MAX,
        relay: Relay | None = None,
    ) -> None:
        self._relay = relay
        self._submitted = submitted
        self._utcnow = utcnow
        self._kept_max = kept_max
        self._readers_max = readers_max
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._readers = 0
        self.is_closed = False
        self.dropped = 0

    def notify(self, event: Event) -> None:
        """Something happened; costs the same however many read."""
        told = tell(event, self._submitted)
        if told is None:
            return
        self.relayed(told.event, told.tenant)
        if self._relay is not None:
            self._relay(told.event, told.tenant)

    def relayed(self, event: LiveEvent, tenant: str | None, body: bytes = b"") -> None:
        """It happened, here or at another replica: tell a tenant's readers, or everybody's when it is None.

        `body` is how another replica told it, and how it is told here; empty for what happened here.
        """
        if event.kind in NEVER_KEPT:
            return
        streams = self._streams.values() if tenant is None else self._streams_of(tenant)
        for stream in streams:
            if stream is not None:
                stream.keep(event, body)

    def missed(self) -> None:
        """Tell every reader that events of other replicas may be missing, nobody knows how many."""
        self.relayed(LiveEvent(GAP, self._utcnow()), None)

    def read(self, tenant: str | None, wanted: Wanted, after: str | None = None) -> "Reader | None":
        """Begin to read a tenant's events, to be ended with `close`; None when too many read already.

        Args:
            tenant: Whose; None for everybody's, which are kept from the first time somebody reads them.
            wanted: Which.
            after: The id of the last event that was read before, to go on behind it; None to begin with what comes.
        """
        stream = self._stream_of(EVERYBODY if tenant is None else tenant)
        if stream is None or self._readers >= self._readers_max or stream.readers >= self._readers_max // 2:
            return None
        self._readers += 1
        stream.readers += 1
        return Reader(self, stream, wanted, after)

    def close(self) -> None:
        """End every reader; from now on nothing is told."""
        self.is_closed = True
        for stream in self._streams.values():
            stream.news.set()

    def let_go(self, stream: _Stream) -> None:
        """A reader ended."""
        self._readers -= 1
        stream.readers -= 1

    def gap(self, lost: int | None) -> LiveEvent:
        """Tells of events that are missing; None when nobody knows how many."""
        return LiveEvent(GAP, self._utcnow(), lost=lost)

    def _streams_of(self, tenant: str) -> tuple[_Stream | None, _Stream | None]:
        """Where an event of one tenant goes."""
        return self._stream_of(tenant), self._streams.get(EVERYBODY)

    def _stream_of(self, tenant: str) -> _Stream | None:
        """The stream of a tenant; None when there is no room for one more."""
        stream = self._streams.get(tenant)
        if stream is None:
            if len(self._streams) >= STREAMS_MAX and not self._forget_an_idle_one():
                return None
            stream = self._streams[tenant] = _Stream(self._kept_max)
        self._streams.move_to_end(tenant)
        return stream

    def _forget_an_idle_one(self) -> bool:
        """Forget the stream that was quiet for longest of those that nobody reads; False when all are read."""
        idle = next((tenant for tenant, stream in self._streams.items() if not stream.readers), None)
        if idle is None:
            return False
        del self._streams[idle]
        return True


class Reader:
    """A place in a stream.

    Args:
        feed: What it reads from.
        stream: The tenant's.
        wanted: Which events.
        after: The id of the last event that was read before; None to begin with what comes.
    """

    def __init__(self, feed: Feed, stream: _Stream, wanted: Wanted, after: str | None) -> None:
        self._feed = feed
        self._stream = stream
        self._wanted = wanted
        self._next = stream.last + 1
        self._is_foreign = False
        self._is_open = True
        self._loop = asyncio.get_running_loop()
        self._looked_at = -PAUSE_S
        if after is not None:
            self._go_on_after(after)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def last_id(self) -> str:
        """The id behind which it goes on."""
        return self._stream.id_of(self._next - 1)

    async def next_batch(self, quiet_s: float) -> Batch | None:
        """What came since the last batch, empty when nothing did for `quiet_s` seconds; None at the end.

        Whoever has caught up is given news at most ten times a second: many readers then share the work of a burst.
        """
        ends_at = self._loop.time() + quiet_s
        while not self._feed.is_closed:
            self._looked_at = self._loop.time()
            frames = b"".join(self._take())
            if frames or self._loop.time() >= ends_at:
                return Batch(frames, self.last_id)
            await self._wait_until(ends_at)
        return None

    def close(self) -> None:
        """Read no more; twice does nothing."""
        if self._is_open:
            self._is_open = False
            self._feed.let_go(self._stream)

    def _go_on_after(self, after: str) -> None:
        found = _ID.fullmatch(after)
        if found is None or found[1] != self._stream.boot or int(found[2]) > self._stream.last:
            self._is_foreign = True
        else:
            self._next = int(found[2]) + 1

    def _take(self) -> Iterator[bytes]:
        """The next frames that are wanted; at most 128 of at most 2,048 that are looked at."""
        stream = self._stream
        if self._is_foreign:
            self._is_foreign = False
            yield self._gap(None)
        if (lost := stream.first - self._next) > 0:
            self._feed.dropped += lost
            self._next = stream.first
            yield self._gap(lost)
        looked_at_max = BATCH_EVENTS_MAX if self._wanted.is_everything else LOOKED_AT_MAX
        found = 0
        for number in range(self._next, min(self._next + looked_at_max, stream.last + 1)):
            self._next = number + 1
            if looked_at_max == BATCH_EVENTS_MAX or self._wanted.takes(stream.event(number)):
                yield stream.frame(number)
                found += 1
                if found == BATCH_EVENTS_MAX:
                    return

    def _gap(self, lost: int | None) -> bytes:
        return self._stream.write(self._next - 1, _encode(self._feed.gap(lost)))

    async def _wait_until(self, ends_at: float) -> None:
        """Return when there is something to look at, or the time is over."""
        stream = self._stream
        if self._next <= stream.last:
            await asyncio.sleep(0)
            return
        stream.news.clear()
        try:
            async with asyncio.timeout_at(ends_at):
                await stream.news.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._looked_at + PAUSE_S - self._loop.time())
