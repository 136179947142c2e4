"""Agents offer `major.minor`, tasks ask for a major, and one key names both."""

import pytest

from aicp.model.agent import Capability
from aicp.registry.naming import VERSION_PATTERN, offered_key, wanted_key


@pytest.mark.parametrize(
    ("version", "key"),
    [
        ("1.0", "nlp"),
        ("1", "nlp"),
        ("1.7.3", "nlp"),
        ("01.0", "nlp"),
        ("2.0", "nlp@2"),
        ("0.9", "nlp@0"),
        ("10", "nlp@10"),
    ],
)
def test_an_agent_answers_to_its_major(version: str, key: str) -> None:
    assert offered_key(Capability("nlp", version)) == key


@pytest.mark.parametrize(
    ("wanted", "key"),
    [("nlp", "nlp"), ("nlp@1", "nlp"), ("nlp@01", "nlp"), ("nlp@2", "nlp@2"), ("nlp@0", "nlp@0"), ("a.b@3", "a.b@3")],
)
def test_a_task_asks_for_major_1_when_it_names_none(wanted: str, key: str) -> None:
    assert wanted_key(wanted) == key


@pytest.mark.parametrize(
    "wanted", ["nlp@", "nlp@x", "nlp@1.0", "nlp@1@1", "nlp@-1", "nlp@\u0661", "nlp@" + "1" * 5_000]
)
def test_what_is_no_capability_asks_for_what_nobody_offers(wanted: str) -> None:
    assert wanted_key(wanted) == wanted


def test_an_agent_without_a_version_offers_1_0() -> None:
    assert Capability("nlp").version == "1.0"
    assert offered_key(Capability("nlp")) == wanted_key("nlp") == wanted_key("nlp@1")


@pytest.mark.parametrize("version", ["", "v1", "1.", ".1", "1.0.0.0", "1.x", "-1", "1234567", "\u0661"])
def test_a_version_is_one_to_three_short_numbers(version: str) -> None:
    assert not VERSION_PATTERN.fullmatch(version)
