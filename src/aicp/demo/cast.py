"""Who plays in the demo: seven agents, each in a process of its own, for five steps."""

from typing import NamedTuple

LABEL = "label"


class Part(NamedTuple):
    """One agent.

    Attributes:
        agent_id: Under which it registers.
        step: The step of the chain it can do.
        capability: What it offers.
    """

    agent_id: str
    step: str
    capability: str


CAPABILITIES = {
    "fetch": "image.fetch",
    LABEL: "image.label",
    "extract": "text.extract",
    "analyze": "image.colors",
    "combine": "report.combine",
}
"""What each step asks for, in the order people read them."""

_AGENTS = {"fetch": 1, LABEL: 2, "extract": 2, "analyze": 1, "combine": 1}

CAST = tuple(
    Part(f"{step}-{number}", step, CAPABILITIES[step])
    for step, agents in _AGENTS.items()
    for number in range(1, agents + 1)
)
