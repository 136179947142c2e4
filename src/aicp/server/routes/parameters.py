"""What several routes take: the node, who waits on it, and how long to wait."""

from typing import Annotated

from litestar.di import NamedDependency
from litestar.params import QueryParameter

from aicp.runtime.node import Node
from aicp.server.waits import Waits

WAIT_S_MAX = 60

TheNode = NamedDependency[Node]
TheWaits = NamedDependency[Waits]
WaitS = Annotated[
    float,
    QueryParameter(ge=0, le=WAIT_S_MAX, description="Answer once it has ended, or after so many seconds; 0 at once."),
]
