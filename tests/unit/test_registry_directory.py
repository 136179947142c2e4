"""Who is registered, and how they are found by id, name and capability."""

import math
from typing import Any

import pytest

from aicp.errors import AgentNotFound, InvalidAgent
from aicp.model.agent import CAPABILITIES_MAX, SLOTS_MAX, AgentProfile, Capability
from aicp.registry.directory import Directory, is_wanted
from aicp.registry.schemas import Schemas


def directory(*profiles: AgentProfile) -> Directory:
    made = Directory(Schemas())
    for profile in profiles:
        made.put(profile)
    return made


def agent(agent_id: str, *capabilities: str, **fields: Any) -> AgentProfile:
    """An agent by its capabilities, `name` or `name@version`."""
    split = [capability.partition("@") for capability in capabilities or ("nlp",)]
    return AgentProfile(agent_id, tuple(Capability(name, version or "1.0") for name, _, version in split), **fields)


def ids(profiles: list[AgentProfile]) -> list[str]:
    return [profile.agent_id for profile in profiles]


def faults_of(profile: AgentProfile) -> list[tuple[str, str]]:
    with pytest.raises(InvalidAgent) as refused:
        directory(profile)
    return [(fault.place, fault.message) for fault in refused.value.faults]


# Looking up.


def test_an_agent_is_found_by_id_name_and_capability() -> None:
    eyes = agent("eyes-1", "image.label", name="the eyes")
    known = directory(eyes, agent("ears-1", "audio.hear", name="the ears"))
    assert known.get("eyes-1") is eyes
    assert [each for each in known if is_wanted(each, "the eyes")] == [eyes]
    assert known.search("image.label") == [eyes]
    assert "eyes-1" in known
    assert len(known) == 2
    assert ids(list(known)) == ["eyes-1", "ears-1"]


def test_the_search_is_by_major() -> None:
    known = directory(agent("old", "nlp@1.9"), agent("new", "nlp@2.0"), agent("both", "nlp", "nlp@2.1"))
    assert ids(known.search("nlp")) == ids(known.search("nlp@1")) == ["old", "both"]
    assert ids(known.search("nlp@2")) == ["new", "both"]
    assert known.search("nlp@3") == []
    assert known.offered() == ["nlp", "nlp@2"]


@pytest.mark.parametrize("capability", ["", "nlp@", "nlp@two", "nlp@1.0", "NLP", "n"])
def test_what_nobody_offers_finds_nobody(capability: str) -> None:
    assert directory(agent("a")).search(capability) == []


def test_whoever_is_unknown_is_not_found() -> None:
    known = directory()
    for look in (known.get, known.remove):
        with pytest.raises(AgentNotFound, match="There is no agent 'nobody'"):
            look("nobody")
    assert "nobody" not in known


def test_a_very_long_id_is_not_repeated_whole() -> None:
    with pytest.raises(AgentNotFound) as told:
        directory().get("x" * 10_000)
    assert len(told.value.message) < 200


# Replacing and removing.


def test_registering_again_replaces_and_returns_the_old() -> None:
    known = directory()
    first, second = agent("a", "nlp", "image.label"), agent("a", "image.crop")
    assert known.put(first) is None
    assert known.put(second) is first
    assert known.search("nlp") == []
    assert known.search("image.crop") == [second]
    assert known.offered() == ["image.crop"]
    assert len(known) == 1


def test_a_removed_agent_leaves_nothing_behind() -> None:
    known = directory(agent("a", "nlp", "nlp@2.0"), agent("b", "nlp"))
    assert known.remove("a").agent_id == "a"
    assert ids(known.search("nlp")) == ["b"]
    assert known.offered() == ["nlp"]
    known.remove("b")
    assert (known.offered(), len(known), list(known)) == ([], 0, [])


def test_a_refused_agent_changes_nothing() -> None:
    first = agent("a", "nlp")
    known = directory(first)
    with pytest.raises(InvalidAgent):
        known.put(agent("a", "not a name"))
    assert known.get("a") is first
    assert known.search("nlp") == [first]


# What an agent must be.


def test_every_fault_of_an_agent_is_told_at_once_with_its_place() -> None:
    profile = AgentProfile(
        "-eyes",
        (
            Capability("image label", "v1", timeout_s=0.0),
            Capability("nlp", input_schema={"type": "nonsense"}, output_schema={"$ref": "http://x/y"}),
            Capability("nlp", "1.5"),
        ),
        max_concurrent_tasks=0,
        name="n" * 257,
        instance_id="i" * 257,
        labels={"": "x", "zone": "z" * 257},
    )
    told = faults_of(profile)
    assert [place for place, _ in told] == [
        "/agent_id",
        "/max_concurrent_tasks",
        "/name",
        "/instance_id",
        "/labels/",
        "/labels/zone",
        "/capabilities/0/name",
        "/capabilities/0/version",
        "/capabilities/0/timeout_s",
        "/capabilities/1/input_schema",
        "/capabilities/1/output_schema",
        "/capabilities/2",
    ]
    assert all("\n" not in message and len(message) < 400 for _, message in told)


@pytest.mark.parametrize("agent_id", ["", "-a", ".a", "a b", "a/b", "ä", "a" * 129, "a\n"])
def test_an_id_is_128_plain_characters_that_begin_with_a_letter_or_digit(agent_id: str) -> None:
    assert faults_of(agent(agent_id))[0][0] == "/agent_id"


@pytest.mark.parametrize("agent_id", ["a", "9", "eyes-1.local_x", "a" * 128])
def test_other_ids_are_fine(agent_id: str) -> None:
    assert agent_id in directory(agent(agent_id))


@pytest.mark.parametrize("slots", [0, -1, SLOTS_MAX + 1])
def test_slots_are_1_to_10000(slots: int) -> None:
    assert faults_of(agent("a", max_concurrent_tasks=slots)) == [
        ("/max_concurrent_tasks", f"must be 1 to 10000, not {slots}")
    ]
    directory(agent("a", max_concurrent_tasks=SLOTS_MAX))


def test_capabilities_are_1_to_1000() -> None:
    assert faults_of(AgentProfile("a", ())) == [("/capabilities", "must be 1 to 1000, not 0")]
    many = tuple(Capability(f"c{number}") for number in range(1_001))
    assert faults_of(AgentProfile("a", many)) == [("/capabilities", "must be 1 to 1000, not 1001")]
    directory(AgentProfile("a", many[:CAPABILITIES_MAX]))


@pytest.mark.parametrize("versions", [("1.0", "1.0"), ("1.0", "1.5"), ("1.0", "01.0"), ("2", "002.1")])
def test_a_major_is_offered_once(versions: tuple[str, str]) -> None:
    one, other = versions
    profile = AgentProfile("a", (Capability("nlp", one), Capability("nlp", other)))
    assert faults_of(profile) == [("/capabilities/1", "'nlp' of this major is offered twice")]


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.nan, math.inf, 86_401.0])
def test_a_timeout_is_more_than_none_and_at_most_a_day(timeout_s: float) -> None:
    told = faults_of(AgentProfile("a", (Capability("nlp", timeout_s=timeout_s),)))
    assert told == [("/capabilities/0/timeout_s", "must be more than 0 and at most 86400 seconds")]


def test_labels_are_bounded() -> None:
    labels = {f"label-{number}": "x" for number in range(65)}
    assert faults_of(agent("a", labels=labels)) == [("/labels", "has 65 entries; at most 64 are allowed")]
    directory(agent("a", labels={"zone": ""}))


def test_whoever_is_found_fits_in_everything_that_is_asked() -> None:
    some = [
        agent("a", labels={"zone": "x", "gpu": "yes"}),
        agent("b", labels={"zone": "x"}),
        agent("c", name="a", labels={"zone": "y"}),
    ]

    def wanted(name: str = "", labels: dict[str, str] | None = None) -> list[str]:
        return ids([each for each in some if is_wanted(each, name, labels)])

    assert wanted() == ["a", "b", "c"]
    assert wanted(labels={"zone": "x"}) == ["a", "b"]
    assert wanted(name="a") == ["a", "c"]
    assert wanted(name="c") == []
    assert wanted("a", {"zone": "x", "gpu": "yes"}) == ["a"]
    assert wanted("a", {"gpu": "no"}) == []
