"""Whether an agent may be used for a capability now, and if not, until when."""

import math

from aicp.registry.leases import Liveness
from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import CircuitState
from aicp.scheduling.fleet import Seat
from aicp.scheduling.trouble import FINE, FRAGILE, NO_TROUBLE, Standing

_TOLD_WAIT = {
    CircuitState.OPEN: "circuit open",
    CircuitState.HALF_OPEN: "being probed",
    CircuitState.FORCED_OPEN: "opened by an operator",
}


class Judge:
    """Looks at what was said about an agent and at its circuit.

    Args:
        board: The circuits.
    """

    def __init__(self, board: CircuitBoard) -> None:
        self._board = board

    def standing(self, seat: Seat, now: float, *, is_probed: bool) -> Standing:
        """Whether a seat may be used.

        Args:
            seat: Which.
            now: Monotonic seconds.
            is_probed: True when somebody probes circuits whose wait is over.
        """
        if told := _told_out(seat):
            return Standing(told, math.inf, refuses=seat.member.trouble.refuses(seat.key))
        state = self._board.get_state(seat.agent_id, seat.key)
        wait_s = self._board.ready_in_s(seat.agent_id, seat.key)
        is_fragile = state is CircuitState.HALF_OPEN
        if wait_s:
            return Standing(_TOLD_WAIT.get(state, "cooling down"), now + wait_s, is_fragile=is_fragile)
        if self._board.needs_probe(seat.agent_id, seat.key):
            # A probe is due now: asked for once more by every look, since this look may have taken the timer's place.
            return Standing("circuit open", now if is_probed else math.inf)
        return FRAGILE if is_fragile else FINE


def _told_out(seat: Seat) -> str:
    trouble = seat.member.trouble
    if trouble is NO_TROUBLE:
        return ""
    if trouble.is_set_aside or seat.key in trouble.set_aside_keys:
        return "set aside as misconfigured"
    if trouble.is_draining:
        return "draining"
    return "offline" if trouble.liveness is Liveness.OFFLINE else ""
