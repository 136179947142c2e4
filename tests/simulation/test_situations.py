"""The aims of the situations in `benchmarks/flow`: those that take little time, each on virtual time with its seed."""

import pytest

from benchmarks.flow.simulated.situations import SITUATIONS, judge

LONG = {"low beside normal", "large beside small"}


@pytest.mark.parametrize("name", [name for name in SITUATIONS if name not in LONG])
def test_aims_are_met(name: str) -> None:
    rows = judge(name)
    assert rows
    assert [row for row in rows if row[-1] != "met"] == []
