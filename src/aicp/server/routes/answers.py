"""What the answers to submits have in common."""

from typing import TypeVar

import msgspec

from aicp.coordination.forecast import Forecast
from aicp.model.views import ChainStanding, ChainView, ParallelAccepted, TaskStanding, TaskView

A = TypeVar("A", TaskStanding, TaskView, ParallelAccepted, ChainStanding, ChainView)


def warned(answer: A, expected: Forecast | None) -> A:
    """The answer to a submit, with the warning that the work will probably outlast its deadline, if it will."""
    if expected is None:
        return answer
    return msgspec.structs.replace(answer, expected_s=expected.expected_s, warning=expected.warning)
