"""A chain built in Python is the same value as one written in JSON or YAML (section 5, rule 1)."""

from typing import Any

import msgspec
import pytest
import yaml

from aicp.errors import InvalidChain, InvalidTask
from aicp.model.chain import ChainResult, ChainSpec, FailurePolicy, TaskChain
from aicp.model.reference import ChainTask
from aicp.model.task import OnFailure, Priority, Task, TaskResult, TaskStatus
from aicp.model.validation import check_chain, parse_chain

DOCUMENT = """
name: image analysis
deadline_s: 3600
failure_policy: continue
tasks:
  - id: fetch
    capability: image.fetch
    params: {url: "http://127.0.0.1/cat.png", size: [640, 480]}
  - id: label
    capability: image.label@2
    params: {image: {$result: fetch, path: /image}}
    depends_on: [fetch]
    on_failure: {continue: {faces: []}}
    priority: high
    timeout_s: 5
    deadline_s: 60.5
    idempotent: false
    labels: {gpu: "yes"}
    agents: [eyes-1, eyes-2]
    exclude_agents: [eyes-3]
  - id: combine
    capability: report.combine
    params: {faces: {$result: label, path: /faces/0}, all: [{$result: fetch}]}
"""


def build() -> TaskChain:
    chain = TaskChain("image analysis", deadline_s=3600, failure_policy="continue")
    fetch = chain.add_task("image.fetch", {"url": "http://127.0.0.1/cat.png", "size": (640, 480)})
    label = chain.add_task(
        "image.label@2",
        {"image": fetch.output["image"]},
        depends_on=[fetch],
        on_failure=OnFailure({"faces": []}),
        priority="high",
        timeout_s=5,
        deadline_s=60.5,
        idempotent=False,
        labels={"gpu": "yes"},
        agents=["eyes-1", "eyes-2"],
        exclude_agents={"eyes-3"},
    )
    chain.add_task("report.combine", {"faces": label.output["faces"][0], "all": [fetch.output]})
    return chain


def test_the_builder_freezes_into_the_same_value_as_yaml_and_json() -> None:
    document = yaml.safe_load(DOCUMENT)
    frozen = build().freeze()
    assert frozen == parse_chain(document)
    assert frozen == parse_chain(msgspec.json.decode(msgspec.json.encode(document)))


def test_the_same_value_survives_being_written_and_read_again() -> None:
    frozen = build().freeze()
    assert msgspec.json.decode(msgspec.json.encode(frozen), type=ChainSpec) == frozen
    assert parse_chain(msgspec.json.decode(msgspec.json.encode(frozen))) == frozen


def test_what_is_left_out_is_the_same_everywhere() -> None:
    chain = TaskChain()
    chain.add_task("nlp")
    assert chain.freeze() == parse_chain({"tasks": [{"id": "nlp", "capability": "nlp"}]})


def test_whoever_refers_to_an_output_waits_for_it() -> None:
    graph = check_chain(build().freeze())
    assert graph.dependencies == {"fetch": (), "label": ("fetch",), "combine": ("label", "fetch")}


def test_ids_are_made_from_the_capability_when_left_out() -> None:
    chain = TaskChain()
    made = [chain.add_task(name).id for name in ("image.fetch", "image.fetch@2", "web.fetch", "nlp", "x" * 128)]
    assert made == ["fetch", "fetch-2", "fetch-3", "nlp", "x" * 56]
    check_chain(chain.freeze())


class CountingLooks(dict[str, Task]):
    looks = 0

    def __contains__(self, key: object) -> bool:
        self.looks += 1
        return super().__contains__(key)


def test_naming_a_thousand_tasks_of_a_kind_looks_at_each_name_a_few_times() -> None:
    chain, names = TaskChain(), CountingLooks()
    chain._tasks = names
    made = [chain.add_task("image.fetch").id for _ in range(1_000)]
    assert made[-1] == "fetch-1000"
    assert len(set(made)) == 1_000
    assert names.looks < 5 * 1_000


def test_an_id_made_up_never_meets_one_that_was_given() -> None:
    chain = TaskChain()
    chain.add_task("image.fetch", id="fetch-2")
    assert [chain.add_task("image.fetch").id for _ in range(2)] == ["fetch", "fetch-3"]


def test_an_id_can_be_given_once() -> None:
    chain = TaskChain()
    chain.add_task("nlp", id="read")
    with pytest.raises(InvalidChain, match="'read' is the id of an earlier task; give this one another id"):
        chain.add_task("nlp", id="read")


@pytest.mark.parametrize("by_id", [True, False])
def test_a_single_dependency_needs_no_list(*, by_id: bool) -> None:
    """Else 'fetch' would be taken for the tasks f, e, t, c and h."""
    chain = TaskChain()
    fetch = chain.add_task("image.fetch")
    chain.add_task("nlp", depends_on=fetch.id if by_id else fetch)
    assert check_chain(chain.freeze()).dependencies["nlp"] == ("fetch",)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"priority": "urgent"}, "task 'nlp': Invalid enum value 'urgent' - at `$.priority`"),
        ({"timeout_s": "5"}, "Expected `float | null`, got `str` - at `$.timeout_s`"),
        ({"retries": 3}, "Object contains unknown field `retries`"),
        ({"labels": {"gpu": True}}, "Expected `str`, got `bool`"),
        ({"agents": "eyes-1"}, "Expected `array`, got `str`"),
    ],
)
def test_an_option_that_is_none_is_refused_where_it_is_written(options: dict[str, Any], told: str) -> None:
    chain = TaskChain()
    with pytest.raises(InvalidTask) as refused:
        chain.add_task("nlp", **options)
    assert told in refused.value.message
    assert chain.freeze().tasks == ()


def test_priorities_and_policies_may_be_given_by_name_or_as_they_are() -> None:
    by_name, as_they_are = TaskChain(failure_policy="continue"), TaskChain(failure_policy=FailurePolicy.CONTINUE)
    by_name.add_task("nlp", priority="low")
    as_they_are.add_task("nlp", priority=Priority.LOW)
    assert by_name.freeze() == as_they_are.freeze()
    with pytest.raises(InvalidChain, match="'maybe' is unknown: choose from fail_fast, continue"):
        TaskChain(failure_policy="maybe")


def test_changing_params_after_adding_changes_nothing() -> None:
    chain = TaskChain()
    params = {"list": [1]}
    chain.add_task("nlp", params)
    params["list"].append(2)
    assert chain.freeze().tasks[0].params == {"list": [1]}


def test_a_frozen_chain_is_not_touched_by_tasks_added_later() -> None:
    chain = build()
    frozen = chain.freeze()
    chain.add_task("nlp")
    assert len(frozen.tasks) == 3
    assert len(chain.freeze().tasks) == 4


def test_the_result_of_a_chain_is_indexed_by_task_or_id() -> None:
    ended = TaskResult("c.fetch", "image.fetch", TaskStatus.COMPLETED, result=7)
    result = ChainResult("c", "", TaskStatus.COMPLETED, {"fetch": ended})
    assert result["fetch"] is result[ChainTask("fetch")] is ended
    with pytest.raises(KeyError):
        result["nobody"]
