"""References between the tasks of a chain: `{"$result": id, "path": pointer}` (section 5, rule 1; RFC 6901)."""

import math
from collections import OrderedDict
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from aicp.model.agent import AgentCapability
from aicp.model.nesting import NESTING_MAX
from aicp.model.reference import PointsNowhere, Reference, freeze, look_up, place_of, scan, substitute

RESULT = {
    "image": {"w": 640, "tags": ["cat", "mat", "hat"]},
    "a/b": 1,
    "m~n": 2,
    "": 3,
    "~1": 4,
    "0": "zero",
    "none": None,
}


def found_in(params: Any) -> list[tuple[str, Reference | str]]:
    return [(place_of(trail, ""), found) for trail, found in scan(params)]


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


# Writing references in Python.


def test_an_output_can_be_indexed_by_keys_and_numbers() -> None:
    output = Reference("label")
    assert output["faces"][0]["x"] == Reference("label", "/faces/0/x")
    assert output == Reference("label"), "and stays as it was"


def test_keys_with_slashes_and_tildes_are_escaped() -> None:
    reference = Reference("fetch")["a/b"]["m~n"]["~1"]
    assert reference.path == "/a~1b/m~0n/~01"
    assert look_up({"a/b": {"m~n": {"~1": "found"}}}, reference) == "found"


def test_json_has_no_path_where_the_whole_is_meant() -> None:
    assert Reference("fetch").as_json() == {"$result": "fetch"}
    assert Reference("fetch", "/image").as_json() == {"$result": "fetch", "path": "/image"}


@pytest.mark.parametrize("mistake", [list, tuple, sorted, lambda output: "faces" in output, lambda output: [*output]])
def test_a_reference_cannot_be_iterated_by_mistake(mistake: Callable[[Any], object]) -> None:
    """Python would step through output[0], output[1], … for ever."""
    with pytest.raises(TypeError):
        mistake(Reference("label"))


def test_freezing_gives_references_their_json_form_wherever_they_are() -> None:
    output = Reference("fetch")
    params = {"image": output["image"], "all": [1, (output, {"deep": output})], "plain": "text"}
    assert freeze(params) == {
        "image": {"$result": "fetch", "path": "/image"},
        "all": [1, [{"$result": "fetch"}, {"deep": {"$result": "fetch"}}]],
        "plain": "text",
    }


def test_freezing_copies_what_the_caller_may_change_later() -> None:
    mine: dict[str, Any] = {"list": [1], "dict": {"a": 1}}
    frozen = freeze(mine)
    mine["list"].append(2)
    mine["dict"]["b"] = 2
    assert frozen == {"list": [1], "dict": {"a": 1}}


def test_freezing_what_holds_itself_ends_and_the_check_refuses_it() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    assert [told for _, told in found_in(freeze(loop))] == [f"is nested deeper than {NESTING_MAX}"]


# Finding references and faults.


def test_every_reference_is_found_with_its_place() -> None:
    params = {
        "a": {"$result": "x"},
        "b": [0, {"c": {"$result": "y", "path": "/p"}}],
        "d/e": ({"$result": "z", "path": ""},),
    }
    assert found_in(params) == [
        ("/a", Reference("x")),
        ("/d~1e/0", Reference("z")),
        ("/b/1/c", Reference("y", "/p")),
    ]


def test_params_as_a_whole_can_be_a_reference() -> None:
    assert found_in({"$result": "x"}) == [("", Reference("x"))]


def test_plain_params_hold_neither_references_nor_faults() -> None:
    params = {
        "text": "a",
        "number": 1.5,
        "big": 2**70,
        "truth": True,
        "nothing": None,
        "list": [[], {}, ()],
        "name": AgentCapability.NLP,
        "ordered": OrderedDict(a=1),
    }
    assert found_in(params) == []


@pytest.mark.parametrize(
    ("reference", "place", "told"),
    [
        ({"$result": 1}, "/p/$result", "must be the id of a task"),
        ({"$result": None}, "/p/$result", "must be the id of a task"),
        ({"$result": "x", "path": 1}, "/p/path", "must be a JSON pointer"),
        ({"$result": "x", "path": "image"}, "/p/path", "must be a JSON pointer"),
        ({"$result": "x", "path": "/a~"}, "/p/path", "'~' is written '~0'"),
        ({"$result": "x", "path": "/a~2b"}, "/p/path", "'~' is written '~0'"),
        ({"$result": "x", "pfad": "/a"}, "/p", "only '$result' and 'path', not 'pfad'"),
        ({"$result": "x", "path": "", "z": 1, "b": 2}, "/p", "not 'b'"),
    ],
)
def test_a_malformed_reference_is_told_with_its_place(reference: dict[str, Any], place: str, told: str) -> None:
    ((where, found),) = found_in({"p": reference})
    assert where == place
    assert isinstance(found, str)
    assert told in found


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (math.nan, "is nan, which JSON does not have"),
        (math.inf, "is inf, which JSON does not have"),
        (date(2026, 1, 1), "is a date, which JSON does not have"),
        (b"raw", "is a bytes, which JSON does not have"),
        ({1, 2}, "is a set, which JSON does not have"),
        (Reference("x"), "build the chain with TaskChain"),
    ],
)
def test_what_json_has_no_word_for_is_told_with_its_place(value: Any, told: str) -> None:
    ((where, found),) = found_in({"a": [0, value]})
    assert where == "/a/1"
    assert told in str(found)


def test_keys_that_are_no_strings_are_told() -> None:
    """YAML has them: `{1: …}`."""
    ((where, found),) = found_in({"a": {1: {"b": "c"}, "2": 2}})
    assert (where, found) == ("/a/1", "has a key that is no string but int; put it in quotes")


def test_nesting_may_be_64_deep_and_no_deeper() -> None:
    assert found_in({"p": nested(NESTING_MAX)}) == []
    ((where, found),) = found_in({"p": nested(NESTING_MAX + 1)})
    assert found == "is nested deeper than 64"
    assert where == "/p" + "/0" * NESTING_MAX


def test_what_is_nested_a_million_deep_is_refused_without_recursion() -> None:
    assert len(found_in({"p": nested(1_000_000)})) == 1


# Looking up.


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("", RESULT),
        ("/image/w", 640),
        ("/image/tags/0", "cat"),
        ("/image/tags/2", "hat"),
        ("/a~1b", 1),
        ("/m~0n", 2),
        ("/", 3),
        ("/~01", 4),
        ("/0", "zero"),
        ("/none", None),
    ],
)
def test_a_pointer_finds_its_place(path: str, value: Any) -> None:
    assert look_up(RESULT, Reference("fetch", path)) == value


@pytest.mark.parametrize(
    "path",
    [
        "/missing",
        "/image/tags/3",
        "/image/tags/-",
        "/image/tags/-1",
        "/image/tags/00",
        "/image/tags/01",
        "/image/tags/+1",
        "/image/tags/1.0",
        "/image/tags/ 1",
        "/image/tags/\u0661",
        "/image/tags/" + "9" * 5_000,
        "/image/w/0",
        "/none/x",
        "/image/",
        "/0/0",
    ],
)
def test_a_pointer_to_nowhere_is_told(path: str) -> None:
    with pytest.raises(PointsNowhere, match="is nowhere in the result of 'fetch'") as told:
        look_up(RESULT, Reference("fetch", path))
    assert len(told.value.message) < 400
    assert told.value.code == "reference_not_found"


# Substituting.


def test_references_are_replaced_by_what_they_point_at() -> None:
    results = {"fetch": RESULT, "count": 7}
    params = {
        "image": {"$result": "fetch", "path": "/image/w"},
        "list": [{"$result": "count"}, {"keep": "me"}, ("also", {"$result": "count"})],
        "plain": "text",
    }
    assert substitute(params, results.__getitem__) == {
        "image": 640,
        "list": [7, {"keep": "me"}, ["also", 7]],
        "plain": "text",
    }


def test_params_as_a_whole_can_be_replaced() -> None:
    assert substitute({"$result": "fetch"}, lambda _: {"a": 1}) == {"a": 1}


def test_what_is_put_in_is_not_searched_again() -> None:
    """A result may look like a reference; it is data."""
    tricky = {"$result": "other"}
    assert substitute({"p": {"$result": "fetch"}}, lambda _: tricky) == {"p": tricky}


def test_substituting_leaves_the_params_as_they_were() -> None:
    params = {"list": [{"$result": "count"}]}
    filled = substitute(params, lambda _: 7)
    filled["list"].append("more")
    assert params == {"list": [{"$result": "count"}]}


def test_a_reference_that_points_nowhere_stops_the_substitution() -> None:
    with pytest.raises(PointsNowhere, match="'/gone' is nowhere in the result of 'fetch'"):
        substitute({"p": [{"$result": "fetch", "path": "/gone"}]}, lambda _: RESULT)
