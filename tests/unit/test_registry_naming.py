"""Agents offer `major.minor`, tasks ask for a major, and one key names both."""

import pytest

from aicp.model.agent import Capability
from aicp.registry.naming import VERSION_PATTERN, offered_key, similar_name, wanted_key


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


CROWD = dict.fromkeys([*(f"text.n{number}" for number in range(1_000)), "text.shout", "text.shout@2"])


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("text.shuot", "text.shout"),
        ("text.shoout", "text.shout"),
        ("text.shut", "text.shout"),
        ("text.shoot", "text.shout"),
        ("ext.shout", "text.shout"),
        ("text.shouts", "text.shout"),
        ("text.shuot@2", "text.shout@2"),
        ("text_shout", "text.shout"),
    ],
)
def test_a_slip_is_found_behind_a_thousand_names_of_the_same_length(slip: str, meant: str) -> None:
    assert similar_name(slip, CROWD, CROWD.__contains__) == meant


def test_what_is_further_away_is_found_among_the_first_names() -> None:
    names = {"image.label": None, "text.shout": None}
    assert similar_name("txt.shuot", names, names.__contains__) == "text.shout"
    assert similar_name("audio.transcribe", names, names.__contains__) == ""


def test_names_that_may_not_be_told_are_not_found() -> None:
    assert similar_name("text.shuot", CROWD, lambda name: name in CROWD and name != "text.shout") != "text.shout"
