"""Everything that is known of a siege once it is over: what was asked, answered, done, recorded, and struck when."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from aicp.model.chain import ChainSpec
from aicp.model.task import TaskStatus
from aicp.ports import ChainRecord
from tests.chaos.executions import Execution


class Strike(msgspec.Struct, frozen=True):
    """Something was done to a server, or to its database: it was killed, paused, cut off.

    Attributes:
        at: System-wide monotonic seconds, just before.
        over_at: The same, when it was over: the server gone, or going on.
        over_at_utc: The same moment.
    """

    at: float
    over_at: float
    over_at_utc: datetime


class Ordered(msgspec.Struct):
    """What one customer asked for, and was told.

    Attributes:
        key: Its `Idempotency-Key`, and the name of the chain.
        spec: The chain.
        chain_ids: Each id that a submit with the key was answered with.
        seen: For each task the statuses and results it was seen to have once it had ended, by every answer.
        cancelled_at: When its cancel was confirmed, monotonic seconds; None when it was not asked for, or came late.
        status: How it ended, as the customer was told.
    """

    key: str
    spec: ChainSpec
    chain_ids: set[str] = msgspec.field(default_factory=set)
    seen: dict[str, set[tuple[str, str]]] = msgspec.field(default_factory=dict)
    cancelled_at: float | None = None
    status: TaskStatus = TaskStatus.PENDING


class History(msgspec.Struct, frozen=True):
    """A siege.

    Attributes:
        orders: What was asked for.
        strikes: In their order.
        executions: By all agents, in the order in which they began.
        records: Everything in the database, by chain id.
    """

    orders: Sequence[Ordered]
    strikes: Sequence[Strike]
    executions: Sequence[Execution]
    records: Mapping[str, ChainRecord]
