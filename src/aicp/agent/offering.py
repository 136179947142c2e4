"""What an agent is and can do, fixed when it starts to serve."""

import msgspec

from aicp.agent.handler import Offer
from aicp.model.wire import AgentDescription

SHOWN_MAX = 8


class Offering(msgspec.Struct, frozen=True):
    """An agent as it serves.

    Attributes:
        agent_id: Who it is.
        offers: By `name@major`.
        max_concurrent_tasks: Its slots.
        name: What people call it; empty when it is its id.
        labels: Free key-value pairs that tasks may ask for.
    """

    agent_id: str
    offers: dict[str, Offer]
    max_concurrent_tasks: int
    name: str = ""
    labels: dict[str, str] = {}

    @property
    def capability_names(self) -> str:
        """All of them, for a person: `image.label, image.label@2`."""
        return ", ".join(ref.removesuffix("@1") for ref in self.offers)

    @property
    def has_plain_functions(self) -> bool:
        """True when some handler needs a thread."""
        return not all(offer.is_async for offer in self.offers.values())

    def find(self, capability: str) -> Offer | None:
        """Who answers for `name` (which means `name@1`) or `name@major`."""
        return self.offers.get(capability if "@" in capability else f"{capability}@1")

    def describe(self, instance_id: str) -> AgentDescription:
        """The body of `GET /describe`."""
        capabilities = tuple(offer.capability for offer in self.offers.values())
        return AgentDescription(self.agent_id, capabilities, instance_id, self.max_concurrent_tasks)
