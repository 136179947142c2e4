"""AICP without a disk: what the durable one pays for its record."""

from pathlib import Path

from aicp import Node
from benchmarks.peers.engines.by_aicp import Aicp


class AicpInMemory(Aicp):
    """A node that remembers in memory."""

    name = "AICP in memory"
    record = "nothing survives"

    def node(self, _directory: Path) -> Node:
        """The node to measure."""
        return Node()


ENGINE = AicpInMemory()
