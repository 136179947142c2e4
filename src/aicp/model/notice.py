"""What replicas tell each other of what each of them alone knows: once a second, and losing some of it harms nobody."""

from enum import StrEnum
from typing import Self

import msgspec

from aicp.model.live import LiveEvent
from aicp.model.views import AgentHealth

_encode = msgspec.json.Encoder().encode


class Order(StrEnum):
    """What an operator ordered for an agent: the first three are about its circuits, the last about new tasks."""

    OPEN = "open"
    DISABLE = "disable"
    RESET = "reset"
    DRAIN = "drain"

    @property
    def subject(self) -> str:
        """What it is about, `circuit` or `intake`: of the orders about one subject of an agent, the last holds."""
        return "intake" if self is Order.DRAIN else "circuit"


class Opening(msgspec.Struct, frozen=True):
    """A circuit opened.

    Attributes:
        agent_id: Whose.
        capability: For what: its key.
        wait_s: How much longer it admits nobody, seconds.
    """

    agent_id: str
    capability: str
    wait_s: float


class Relayed(msgspec.Struct, frozen=True):
    """Something that happened at a replica.

    Attributes:
        event: A `LiveEvent` in JSON, as that replica tells its own readers; of a newer one it may have more fields.
        tenant: Whose it is; None for every tenant's.
    """

    event: msgspec.Raw
    tenant: str | None

    @classmethod
    def of(cls, event: LiveEvent, tenant: str | None) -> Self:
        """What this replica tells the others of an event."""
        return cls(msgspec.Raw(_encode(event)), tenant)


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a replica tells the others at once.

    Attributes:
        heard: Agents that sent a heartbeat since the last notice: the instance of each.
        openings: Circuits that opened since the last notice.
        health: How agents fare with it, of those it used since the last notice.
        events: What happened since the last notice, in order.
        lost: How many events more than it could tell.
    """

    heard: dict[str, str] = {}
    openings: tuple[Opening, ...] = ()
    health: dict[str, AgentHealth] = {}
    events: tuple[Relayed, ...] = ()
    lost: int = 0

    @property
    def is_empty(self) -> bool:
        """True when it says nothing."""
        return not (self.heard or self.openings or self.health or self.events or self.lost)
