"""What a task gets from the scheduler: an agent's slot for a while, or the reason why not."""

from enum import Enum

from aicp.model.agent import AgentProfile
from aicp.scheduling.fleet import Seat


class Unscheduled(Enum):
    """Why `schedule_task` gave no lease."""

    NOBODY_CAPABLE = "no agent offers the capability"
    ALL_OUT = "every capable agent is out"
    NOBODY_ELSE = "everybody who may be used was tried"
    DEADLINE = "the deadline came while waiting"
    LINE_FULL = "too many tasks are waiting"


class Lease:
    """A slot of an agent and the permit of its circuit, to be given back through `complete_task`.

    Attributes:
        agent: Who shall do it.
        key: The capability's key.
        permit: Of the circuit.
        timeout_s: How long the attempt may take.
        expires_at: When slot and permit are freed anyway, monotonic seconds.
    """

    __slots__ = ("agent", "expires_at", "is_settled", "key", "permit", "seat", "timeout_s")

    def __init__(self, seat: Seat, permit: int, timeout_s: float, expires_at: float) -> None:
        self.seat = seat
        self.agent: AgentProfile = seat.member.profile
        self.key = seat.key
        self.permit = permit
        self.timeout_s = timeout_s
        self.expires_at = expires_at
        self.is_settled = False
