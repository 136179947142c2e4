"""How many shapes are sent, and from which seed: `pytest tests/chaos --shapes=200 --shapes-seed=7`."""

from typing import NamedTuple

import pytest

TIMES = 1
SEED = 1


class ShapesWanted(NamedTuple):
    """What to send.

    Attributes:
        times: Of each shape.
        seed: Where chance begins.
    """

    times: int
    seed: int


def pytest_addoption(parser: pytest.Parser) -> None:
    options = parser.getgroup("chaos", "shapes of requests")
    options.addoption("--shapes", type=int, default=TIMES, help=f"requests of each shape, {TIMES} by default")
    options.addoption("--shapes-seed", type=int, default=SEED, help="the same seed, the same requests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A run of more shapes than usual has no time limit."""
    if int(config.getoption("--shapes", default=TIMES)) <= TIMES:
        return
    for item in items:
        if "shapes_wanted" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture
def shapes_wanted(request: pytest.FixtureRequest) -> ShapesWanted:
    """As the command line says; where this file was found too late for it, the defaults."""
    config = request.config
    return ShapesWanted(
        int(config.getoption("--shapes", default=TIMES)), int(config.getoption("--shapes-seed", default=SEED))
    )
