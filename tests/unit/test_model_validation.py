"""A chain is checked whole before anything runs, all faults at once with their places (section 5, rule 2)."""

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aicp.errors import Fault, InvalidChain, InvalidInput, InvalidTask
from aicp.model.agent import LABEL_CHARS_MAX, LABELS_MAX
from aicp.model.chain import ChainSpec
from aicp.model.task import OnFailure, Task
from aicp.model.validation import (
    EDGES_MAX,
    FAULTS_MAX,
    TASKS_MAX,
    ChainGraph,
    check_chain,
    check_task,
    is_capability_ref,
    parse_chain,
    parse_task,
    type_fault,
)

DAY_S = 86_400.0


def chain(*tasks: dict[str, Any], **header: Any) -> dict[str, Any]:
    """A chain document; tasks are called a, b, c, … and offer nothing special unless they say so."""
    named = [{"id": chr(ord("a") + index), "capability": "work", **task} for index, task in enumerate(tasks)]
    return {"tasks": named, **header}


def check(document: Any) -> ChainGraph:
    return check_chain(parse_chain(document))


def faults_of(document: Any) -> list[tuple[str, str]]:
    return told_by(lambda: check(document))


def told_by(f: Callable[[], object]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as refused:
        f()
    return [(fault.place, fault.message) for fault in refused.value.faults]


def single_fault(document: Any) -> tuple[str, str]:
    (fault,) = faults_of(document)
    return fault


def waiting_for(*names: str) -> dict[str, Any]:
    return {"depends_on": list(names)}


def reading(name: str) -> dict[str, Any]:
    return {"params": {"of": {"$result": name}}}


# A sound chain becomes a graph.


def test_a_reference_is_a_dependency() -> None:
    graph = check(chain({}, reading("a"), {**reading("a"), **waiting_for("b", "a")}))
    assert graph.dependencies == {"a": (), "b": ("a",), "c": ("b", "a")}
    assert graph.dependents == {"a": ("b", "c"), "b": ("c",), "c": ()}
    assert graph.edges == [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(graph.tasks) == ["a", "b", "c"]


def test_tasks_may_be_written_in_any_order() -> None:
    graph = check(chain(reading("b"), reading("c"), {}))
    assert graph.dependencies == {"a": ("b",), "b": ("c",), "c": ()}


def test_naming_a_dependency_twice_is_naming_it_once() -> None:
    graph = check(chain({}, {**reading("a"), **waiting_for("a", "a")}))
    assert graph.dependencies["b"] == ("a",)
    assert graph.edges == [("a", "b")]


# All faults at once, with their places.


def test_every_fault_of_a_chain_is_told_at_once() -> None:
    document = chain(
        {"id": "a b"},
        {"id": "fetch", "capability": "image..label"},
        {"id": "fetch"},
        {"id": "self", **waiting_for("self")},
        {"id": "lost", **waiting_for("fetch", "fecth")},
        {"id": "bad", "params": {"deep": [{"$result": 5}]}},
        {"id": "ghost", "params": {"deep": [{"in": {"$result": "nobody"}}]}},
        {"id": "late", "timeout_s": 0, "deadline_s": -1},
        {"id": "one", **waiting_for("two")},
        {"id": "two", **waiting_for("one")},
        name="x" * 257,
        deadline_s=0,
    )
    assert faults_of(document) == [
        ("/name", "is longer than 256 characters"),
        ("/deadline_s", "must be more than 0 and at most 31622400 seconds"),
        ("/tasks/0/id", "'a b' must be 1 to 64 of A-Z a-z 0-9 _ -"),
        ("/tasks/1/capability", "'image..label' must be a dotted name like image.label or image.label@2"),
        ("/tasks/2/id", "'fetch' is the id of an earlier task"),
        ("/tasks/3/depends_on/0", "'self' waits for itself"),
        ("/tasks/4/depends_on/1", "there is no task 'fecth'; did you mean 'fetch'?"),
        ("/tasks/5/params/deep/0/$result", "must be the id of a task, a string"),
        ("/tasks/6/params/deep/0/in/$result", "there is no task 'nobody'"),
        ("/tasks/7/timeout_s", "must be more than 0 and at most 31622400 seconds"),
        ("/tasks/7/deadline_s", "must be more than 0 and at most 31622400 seconds"),
        ("/tasks", "wait for one another in a circle: one -> two -> one"),
    ]


def test_wrong_types_are_told_of_every_task_at_once() -> None:
    document = {
        "tasks": [
            {"id": "a"},
            {"id": "b", "capability": "x", "params": []},
            {"id": "c", "capability": "x", "labels": {"zone": 1}},
            {"id": "d", "capability": "x", "depends_on": ["a", 2]},
            {"id": "e", "capability": "x", "priority": "urgent"},
            {"id": "f", "capability": "x", "on_failure": {"then": 1}},
            {"id": "g", "capability": "x", "retries": 3},
            {"id": "h", "capability": "x", "params": {1: 2}},
            "i",
        ],
        "deadline_s": "soon",
        "steps": [],
    }
    assert told_by(lambda: parse_chain(document)) == [
        ("/deadline_s", "expected `float | null`, got `str`"),
        ("/steps", "is no field here"),
        ("/tasks/0/capability", "is missing"),
        ("/tasks/1/params", "expected `object`, got `array`"),
        ("/tasks/2/labels/zone", "expected `str`, got `int`"),
        ("/tasks/3/depends_on/1", "expected `str`, got `int`"),
        ("/tasks/4/priority", "invalid enum value 'urgent': choose from high, normal, low"),
        ("/tasks/5/on_failure/then", "is no field here"),
        ("/tasks/5/on_failure/continue", "is missing"),
        ("/tasks/6/retries", "is no field here"),
        ("/tasks/7/params", "has a key that is wrong: expected `str`, got `int`"),
        ("/tasks/8", "expected `object`, got `str`"),
    ]


def test_wrong_types_hide_no_other_faults() -> None:
    document = {
        "tasks": [
            {"id": "a", "capability": "b c", "timeout_s": -1},
            {"id": "a", "capability": "work", "depends_on": ["x", "a"]},
            {"id": "c!", "capability": "work", "priority": "x"},
            {"id": "d", "capability": "work", "depends_on": ["e", 5], "colour": "red"},
            {"id": "e", "capability": "work", "params": {"of": {"$result": "nobody"}}, "labels": {"zone": 5}},
        ],
        "name": "\x1b",
        "deadline_s": "soon",
    }
    assert [place for place, _ in faults_of(document)] == [
        "/deadline_s",
        "/tasks/2/priority",
        "/tasks/3/depends_on/1",
        "/tasks/3/colour",
        "/tasks/4/labels/zone",
        "/name",
        "/tasks/0/capability",
        "/tasks/0/timeout_s",
        "/tasks/1/id",
        "/tasks/1/depends_on/0",
        "/tasks/1/depends_on/1",
        "/tasks/2/id",
        "/tasks/4/params/of/$result",
    ]


def test_what_could_not_be_read_is_told_once() -> None:
    document = {"tasks": ["a", {}, {"id": 5, "capability": 5, "depends_on": 5, "params": 5}], "name": 5}
    assert [place for place, _ in faults_of(document)] == [
        "/name",
        "/tasks/0",
        "/tasks/1/capability",
        "/tasks/2/id",
        "/tasks/2/capability",
        "/tasks/2/depends_on",
        "/tasks/2/params",
        "/tasks/1/id",
    ]


@pytest.mark.parametrize("document", [None, [], "tasks", 5])
def test_a_document_that_is_no_object_is_told_what_it_should_be(document: Any) -> None:
    assert told_by(lambda: parse_chain(document)) == [("", "must be an object with 'tasks'")]


@pytest.mark.parametrize("tasks", [None, {}, "a"])
def test_tasks_must_be_a_list(tasks: Any) -> None:
    assert told_by(lambda: parse_chain({"tasks": tasks, "nmae": "x"})) == [
        ("/nmae", "is no field here"),
        ("/tasks", "must be a list of tasks"),
    ]


def test_a_chain_has_at_least_one_task() -> None:
    assert single_fault({"tasks": []}) == ("/tasks", "is empty; a chain has at least one task")


def test_the_message_tells_the_first_faults_and_how_many_more() -> None:
    with pytest.raises(InvalidChain) as refused:
        check(chain(*({"id": f"{number}!"} for number in range(9))))
    assert refused.value.message.startswith("The chain cannot be used: /tasks/0/id: '0!' must be")
    assert refused.value.message.endswith("(and 4 more)")
    assert len(refused.value.faults) == 9


@pytest.mark.parametrize("field", ["agents", "exclude_agents"])
def test_named_agents_are_bounded(field: str) -> None:
    names = [f"n{number}" for number in range(1_001)]
    assert single_fault(chain({field: names})) == (f"/tasks/0/{field}", "has more than 1000 entries")
    assert check(chain({field: names[1:]}))


def test_no_more_labels_can_be_asked_for_than_an_agent_can_carry() -> None:
    labels = {f"l{number}": "x" * LABEL_CHARS_MAX for number in range(LABELS_MAX + 1)}
    assert single_fault(chain({"labels": labels})) == ("/tasks/0/labels", "has 65 entries; at most 64 are allowed")
    labels.popitem()
    assert check(chain({"labels": labels}))
    told = "key and value may have 256 characters, the key at least 1"
    assert single_fault(chain({"labels": {"zone": "x" * (LABEL_CHARS_MAX + 1)}})) == ("/tasks/0/labels/zone", told)


@pytest.mark.parametrize("field", ["agents", "exclude_agents"])
@pytest.mark.parametrize("agent_id", ["a\nb", "a\n", "", "-a", "a b", "a/b", "\x00", "x" * 129])
def test_who_can_be_no_agent_is_told(field: str, agent_id: str) -> None:
    place, told = single_fault(chain({field: ["eyes-1", "x" * 128, "9.a_B", agent_id]}))
    assert place == f"/tasks/0/{field}/3"
    assert told.isprintable()


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\n", "\x7f", "\x85", "\u2028", "\ud800"])
def test_names_and_labels_have_no_control_characters(character: str) -> None:
    document = chain({"labels": {"zone": f"a{character}", f"{character}b": ""}}, name=f"a{character}b")
    faults = faults_of(document)
    assert [place for place, _ in faults] == ["/name", "/tasks/0/labels/zone", f"/tasks/0/labels/{character}b"]
    assert {told for _, told in faults} == {f"has a control character, {character!a}; leave it out"}


@pytest.mark.parametrize(
    "text", ["Ünïcode \N{EYE}\N{VARIATION SELECTOR-16} 東京", "host:9001/4711 #3", "", "\xa0", "a\u200db"]
)
def test_any_other_text_is_a_name(text: str) -> None:
    assert check(chain({"labels": {f"k{text}": text}}, name=text))


@pytest.mark.parametrize("field", ["timeout_s", "deadline_s"])
@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 367 * DAY_S])
def test_seconds_are_more_than_none_and_less_than_for_ever(field: str, seconds: float) -> None:
    assert single_fault(chain({field: seconds}))[0] == f"/tasks/0/{field}"
    assert check(chain({field: 0.001}))
    assert check(chain({field: 366 * DAY_S}))


@pytest.mark.parametrize("local_id", ["a.b", "", "ü", "a" * 65, "a/b", "a\n"])
def test_a_local_id_is_64_plain_characters_without_a_dot(local_id: str) -> None:
    assert single_fault(chain({"id": local_id}))[0] == "/tasks/0/id"
    assert check(chain({"id": "a" * 64}, {"id": "B-9_"}))


# Capabilities.


@pytest.mark.parametrize("text", ["nlp", "image.label", "a.b.c-d_e", "image.label@2", "x@999999", "a" * 128])
def test_any_dotted_name_is_a_capability(text: str) -> None:
    assert is_capability_ref(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a@",
        "a@x",
        "a@1.0",
        "a@1@2",
        "@1",
        "a@1000000",
        "ä",
        "a@\u0662",
        "a" * 129,
        "a\n",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert not is_capability_ref(text)
    assert single_fault(chain({"capability": text}))[0] == "/tasks/0/capability"


# Circles.


def test_a_circle_is_shown_as_the_path_it_is() -> None:
    document = chain(waiting_for("c"), waiting_for("a"), waiting_for("b"))
    assert single_fault(document) == ("/tasks", "wait for one another in a circle: a -> b -> c -> a")


def test_a_circle_through_references_is_one_too() -> None:
    assert "a -> b -> a" in single_fault(chain(reading("b"), reading("a")))[1]


def test_those_who_only_wait_for_a_circle_are_not_part_of_it() -> None:
    document = chain(waiting_for("b"), waiting_for("c"), waiting_for("d"), waiting_for("c"), waiting_for("a"))
    assert single_fault(document)[1].endswith("circle: c -> d -> c")


def test_circles_apart_from_one_another_are_all_told() -> None:
    document = chain(waiting_for("b"), waiting_for("a"), {}, waiting_for("e"), waiting_for("d", "c"))
    assert [told for _, told in faults_of(document)] == [
        "wait for one another in a circle: a -> b -> a",
        "wait for one another in a circle: d -> e -> d",
    ]


def test_of_very_many_circles_the_first_are_told() -> None:
    pairs = [pair for number in range(0, 5_000, 2) for pair in ((number, number + 1), (number + 1, number))]
    tasks = [{"id": f"t{one}", **waiting_for(f"t{other}")} for one, other in pairs]
    assert len(faults_of(chain(*tasks))) == 8


def test_a_circle_of_ten_thousand_is_shown_by_its_ends() -> None:
    size = TASKS_MAX
    tasks = [{"id": f"t{number}", **waiting_for(f"t{(number - 1) % size}")} for number in range(size)]
    told = single_fault(chain(*tasks))[1]
    assert told.startswith("wait for one another in a circle: t0 -> t1 -> t2 -> ")
    assert told.endswith(" -> t9998 -> t9999 -> t0")
    assert "(9985 more)" in told
    assert len(told) < 500


# Params.


def test_what_params_must_not_hold_is_told_with_its_place() -> None:
    nested: Any = "deep"
    for _ in range(70):
        nested = {"in": nested}
    document = chain({"params": {"x": math.nan, "y": [{"z": b""}], "n": nested, "k": {1: 1}}})
    places = [place for place, _ in faults_of(document)]
    assert places == [
        "/tasks/0/params/x",
        "/tasks/0/params/k/1",
        "/tasks/0/params/y/0/z",
        "/tasks/0/params/n" + "/in" * 64,
    ]


def test_places_are_json_pointers() -> None:
    document = chain({"params": {"a/b": {"m~n": {"$result": "b"}}}}, {"id": "bee"})
    assert single_fault(document)[0] == "/tasks/0/params/a~1b/m~0n/$result"


# What msgspec says of what it decodes itself.


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ('{"id": 5, "capability": "x"}', "/of/id", "expected `str`, got `int`"),
        ("{}", "/of/capability", "is missing"),
        ('{"capability": "x", "a/b - at `$.c`": 1}', "/of/a~1b - at `$.c`", "is no field here"),
        ('{"capability": "x", "on_failure": {}}', "/of/on_failure/continue", "is missing"),
        (
            '{"capability": "x", "labels": {"a": 5}}',
            "/of/labels",
            "has a value that is wrong: expected `str`, got `int`",
        ),
        ('{"capability": "x", "agents": ["a", 5]}', "/of/agents/1", "expected `str`, got `int`"),
        ("[]", "/of", "expected `object`, got `array`"),
    ],
)
def test_single_wrong_type_is_told_with_a_json_pointer(text: str, place: str, told: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(text, type=Task)
    assert type_fault(refused.value, "/of") == Fault(place, told)


# Limits, and what checking costs.


def long_chain(size: int) -> ChainSpec:
    tasks: list[dict[str, Any]] = [{"id": "t0", "capability": "work"}]
    for number in range(1, size):
        before = {"$result": f"t{number - 1}", "path": "/image"}
        tasks.append({"id": f"t{number}", "capability": "work", "params": {"image": before, "n": number}})
    return parse_chain({"tasks": tasks})


def cheapest_s(f: Callable[[], object], times: int) -> float:
    """CPU seconds of the cheapest of some runs: what it costs when nothing else disturbs."""
    costs = []
    for _ in range(times):
        began = time.process_time()
        f()
        costs.append(time.process_time() - began)
    return min(costs)


def test_ten_thousand_tasks_fit_and_are_checked_in_a_moment() -> None:
    spec = long_chain(TASKS_MAX)
    assert len(check_chain(spec).edges) == TASKS_MAX - 1
    # About 50 ms on a quiet machine: the bound only tells linear from not.
    assert cheapest_s(lambda: check_chain(spec), times=3) < 0.5


def test_one_more_is_too_many() -> None:
    many = [{"id": f"t{number}", "capability": "work"} for number in range(TASKS_MAX + 1)]
    told = ("/tasks", "has 10001 tasks; at most 10000 fit in a chain")
    assert told_by(lambda: parse_chain({"tasks": many})) == [told]
    assert told_by(lambda: check_chain(ChainSpec(tuple(msgspec.convert(many, list[Task]))))) == [told]


def test_fifty_thousand_edges_fit_and_one_more_is_too_many() -> None:
    feeders = [{"id": f"f{number}"} for number in range(500)]
    names = [f"f{number}" for number in range(500)]
    readers = [{"id": f"r{number}", **waiting_for(*names)} for number in range(EDGES_MAX // 500)]
    assert len(check(chain(*feeders, *readers)).edges) == EDGES_MAX
    told = single_fault(chain(*feeders, *readers, {"id": "last", **waiting_for("f0")}))
    assert told == ("/tasks", "wait for one another over more than 50000 edges")


def test_however_much_is_wrong_the_faults_are_bounded() -> None:
    document = chain(
        waiting_for(*(f"no-{number}" for number in range(100_000))), {"params": {"x": [math.nan] * 100_000}}
    )
    assert len(faults_of(document)) == FAULTS_MAX


@pytest.mark.parametrize("bad", [{"priority": "x"}, {"agents": ["a"] * 800_000 + [5]}, {"agents": [5] * 800_000}])
def test_telling_many_wrong_types_does_not_take_for_ever(bad: dict[str, Any]) -> None:
    document = {"tasks": [{"id": f"t{number}", "capability": "work"} for number in range(TASKS_MAX - 1)] + [bad]}
    many = {"tasks": [{**task, "colour": 1, "priority": 5} for task in document["tasks"]]}
    assert cheapest_s(lambda: told_by(lambda: parse_chain(document)), times=2) < 1.0
    assert cheapest_s(lambda: told_by(lambda: parse_chain(many)), times=2) < 1.0
    assert len(told_by(lambda: parse_chain(many))) == FAULTS_MAX


def test_wrong_entry_of_a_long_list_is_told_with_its_place() -> None:
    task = {
        "capability": "work",
        "agents": ["a"] * 5_000 + [5],
        "labels": {str(n): "" for n in range(5_000)} | {"x": 1},
    }
    assert told_by(lambda: parse_task(task)) == [
        ("/agents/5000", "expected `str`, got `int`"),
        ("/labels", "has a value that is wrong: expected `str`, got `int`"),
    ]


def test_long_words_of_others_are_cut_off() -> None:
    task = {"capability": "work", "x" * 100_000: 1, "priority": "y" * 100_000, "labels": {"z" * 100_000: 1}}
    faults = told_by(lambda: parse_task(task))
    assert len(faults) == 3
    assert all(len(place) < 100 and len(told) < 300 for place, told in faults)


def test_a_check_that_broke_off_draws_no_circles_from_what_it_has_not_seen() -> None:
    names = [f"f{number}" for number in range(500)]
    readers = [{"id": f"r{number}", **waiting_for(*names)} for number in range(EDGES_MAX // 500 + 1)]
    feeders = [{"id": name} for name in names]
    assert single_fault(chain(*readers, *feeders)) == ("/tasks", "wait for one another over more than 50000 edges")
    lost = [{"id": f"x{number}", **waiting_for("f0", f"no-{number}")} for number in range(FAULTS_MAX)]
    assert len(faults_of(chain(*lost, *feeders))) == FAULTS_MAX


def test_guessing_what_was_meant_does_not_take_for_ever() -> None:
    """Guesses are slow; ten thousand misspelt names get a few."""
    tasks = tuple(Task("work", id=f"task-{number}", depends_on=(f"tasq-{number}",)) for number in range(TASKS_MAX))
    began = time.process_time()
    told = told_by(lambda: check_chain(ChainSpec(tasks)))
    assert time.process_time() - began < 5.0
    assert told[0][1] == "there is no task 'tasq-0'; did you mean 'task-0'?"
    assert told[-1][1] == "there is no task 'tasq-999'"


# A task on its own.


def test_a_sound_task_passes() -> None:
    check_task(Task("image.label@2", {"url": "x", "n": [1, 2.5, None]}, timeout_s=5.0, labels={"gpu": "yes"}))


def test_every_fault_of_a_task_is_told_at_once() -> None:
    task = Task(
        "no capability",
        {"x": {"$result": "fetch"}, "y": math.inf},
        id="fetch",
        depends_on=("a",),
        on_failure=OnFailure(None),
        timeout_s=0.0,
    )
    with pytest.raises(InvalidTask) as refused:
        check_task(task)
    assert [fault.place for fault in refused.value.faults] == [
        "/capability",
        "/timeout_s",
        "/depends_on",
        "/on_failure",
        "/id",
        "/params/y",
        "/params/x",
    ]
    assert refused.value.faults[-1] == Fault("/params/x", "refers to a result, which has a meaning only inside a chain")
    assert refused.value.code == "invalid_task"
