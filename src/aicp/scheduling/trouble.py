"""What may keep an agent from being used, as a whole or for one capability."""

from typing import Any

from aicp.registry.leases import Liveness


class Standing:
    """Whether an agent may be used for a capability.

    Attributes:
        why_out: Why it may not, empty when it may; being full is not such a reason.
        ready_at: When it may again, monotonic seconds; infinite when only a command brings it back.
        is_fragile: True when its circuit has to be asked after every use.
        refuses: True when the agent answered that it does not do the capability (404, 405, 406, 415, 501).
    """

    __slots__ = ("is_fragile", "ready_at", "refuses", "why_out")

    def __init__(self, why_out: str, ready_at: float, *, is_fragile: bool = False, refuses: bool = False) -> None:
        self.why_out = why_out
        self.ready_at = ready_at
        self.is_fragile = is_fragile
        self.refuses = refuses


FINE = Standing("", 0.0)
FRAGILE = Standing("", 0.0, is_fragile=True)


class Trouble:
    """What is unusual about an agent.

    Attributes:
        is_draining: It gets no new tasks.
        is_set_aside: It turned out to be misconfigured as a whole.
        set_aside_keys: Capabilities it turned out not to be configured for, and what showed that.
        set_aside_because: What showed that it is misconfigured as a whole.
        liveness: Unheard agents are a last resort, offline ones are out.
        cool_down_s: The last guessed cool-down, 0 after a success.
        failures: Attempts that ended TASK_FAILED, AGENT_FAULT or UNAVAILABLE, since it registered first.
        unfit: How many of its seats have a standing other than `FINE`.
        is_demoted: True while its seats are a last resort because it was silent.
        by_key: Its seats by capability key, when it has many; else empty.
        hand: The first of those that is asked next, where not all are.
        timed_out: True from an attempt that timed out until it answers: it gets one task at a time.
        slower: How many times as slow as typical it is assumed to be, by capability it never answered for.
        parked: Seats that were found among the free while all its slots were taken, and were taken from there.
    """

    __slots__ = (
        "by_key", "cool_down_s", "failures", "hand", "is_demoted", "is_draining", "is_set_aside", "liveness", "parked",
        "set_aside_because", "set_aside_keys", "slower", "timed_out", "unfit",
    )  # fmt: skip

    def __init__(self) -> None:
        self.is_draining = self.is_set_aside = self.is_demoted = self.timed_out = False
        self.set_aside_because = ""
        self.set_aside_keys: dict[str, str] = {}
        self.liveness = Liveness.HEARD
        self.cool_down_s = 0.0
        self.unfit = self.hand = self.failures = 0
        self.by_key: dict[str, Any] = {}
        self.parked: list[Any] = []
        self.slower: dict[str, float] = {}

    @property
    def was_set_aside(self) -> bool:
        """True when it is set aside, as a whole or for a capability."""
        return self.is_set_aside or bool(self.set_aside_keys)

    def why_aside(self, key: str) -> str:
        """What showed that it is misconfigured, as a whole or for a capability; empty when nothing did."""
        return self.set_aside_because or self.set_aside_keys.get(key, "")

    def refuses(self, key: str) -> bool:
        """True when it is set aside for this capability alone: the agent may be called for its others."""
        return key in self.set_aside_keys and not self.is_set_aside

    def forgive(self) -> None:
        """Forget that it was set aside or asked for a rest."""
        self.is_set_aside = False
        self.set_aside_because = ""
        self.set_aside_keys.clear()
        self.cool_down_s = 0.0


NO_TROUBLE = Trouble()
