"""A list of faults that is cut off at its bound decides nothing: every parser at 999, 1,000 and 1,001 faults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aicp.errors import InvalidInput
from aicp.model.access import KeyRequest
from aicp.model.agent import Registration
from aicp.model.validation import FAULTS_MAX, check_chain, check_task, parse_chain, parse_task
from aicp.runtime.agents_file import read_static_agents
from aicp.runtime.files import read_chain
from aicp.server.body import read_as
from aicp.server.problems import FAULTS_TOLD_MAX
from aicp.server.routes.tasks import _side_by_side

AROUND = (FAULTS_MAX - 1, FAULTS_MAX, FAULTS_MAX + 1)


def unknown(count: int) -> dict[str, Any]:
    return {f"no-{number}": number for number in range(count)}


def numbers(count: int) -> dict[str, Any]:
    return {f"k{number}": number for number in range(count)}


def work(**fields: Any) -> dict[str, Any]:
    return {"id": "a", "capability": "work", **fields}


TASKS: dict[str, Callable[[int], dict[str, Any]]] = {
    "unknown keys": lambda count: work(**unknown(count)),
    "unknown keys and a wrong type": lambda count: work(**unknown(count), params=5),
    "labels that are numbers": lambda count: work(labels=numbers(count)),
    "labels and then agents": lambda count: work(labels=numbers(count), agents=[1]),
    "agents that are numbers": lambda count: work(agents=list(range(count)), priority="x"),
    "dependencies that are numbers": lambda count: work(depends_on=list(range(count)), labels=5),
    "params that are none": lambda count: work(params={str(n): float("nan") for n in range(count)}, timeout_s=-1.0),
    "a faulty part and unknown keys": lambda count: work(on_failure=unknown(count), deadline_s="x"),
}
CHAINS: dict[str, Callable[[int], dict[str, Any]]] = {
    "unknown keys": lambda count: {"tasks": [work()], **unknown(count)},
    "unknown keys and a wrong name": lambda count: {**unknown(count), "name": 5, "tasks": [work(params=5)]},
    "no tasks": lambda count: {**unknown(count), "deadline_s": "x"},
    "tasks of one fault": lambda count: {"tasks": [work(colour=1)] * count},
    "tasks of three faults": lambda count: {"tasks": [work(a=1, priority=2, params=3)] * (count // 3 + 1)},
    "tasks that are none": lambda count: {"tasks": [5] * count},
    "tasks with the same id": lambda count: {"tasks": [work()] * count},
    **{
        f"second task: {name}": lambda count, make=make: {"tasks": [work(colour=1), make(count)]}  # type: ignore[misc]
        for name, make in TASKS.items()
    },
}


def refused(parse: Callable[[], object]) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse()
    return caught.value


@pytest.mark.parametrize("count", AROUND)
@pytest.mark.parametrize("name", TASKS)
def test_task_with_so_many_faults_is_refused_with_the_first(name: str, count: int) -> None:
    error = refused(lambda: check_task(parse_task(TASKS[name](count))))
    assert 0 < len(error.faults) <= FAULTS_MAX


@pytest.mark.parametrize("count", AROUND)
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("parse", [parse_chain, _side_by_side])
def test_chain_with_so_many_faults_is_refused_with_the_first(parse: Any, name: str, count: int) -> None:
    error = refused(lambda: check_chain(parse(CHAINS[name](count))))
    assert 0 < len(error.faults) <= FAULTS_MAX


def test_faults_up_to_the_bound_are_all_reported_and_those_behind_it_are_not() -> None:
    for count in AROUND:
        document = {"tasks": [work(id=f"t{number}", colour=1) for number in range(count)]}
        error = refused(lambda document=document: parse_chain(document))  # type: ignore[misc]
        assert [fault.place for fault in error.faults] == [f"/tasks/{n}/colour" for n in range(min(count, FAULTS_MAX))]


@pytest.mark.parametrize("count", AROUND)
@pytest.mark.parametrize(
    "registration",
    [
        lambda count: {"endpoint": "http://a", **unknown(count)},
        lambda count: {"endpoint": 5, "labels": numbers(count)},
        lambda count: {"endpoint": "http://a", "capabilities": [{"name": 5}] * count},
        lambda count: {"endpoint": "http://a", "capabilities": [{"name": "a", **unknown(count)}], "labels": 5},
    ],
)
def test_registration_and_key_with_so_many_faults_are_refused(registration: Any, count: int) -> None:
    error = refused(lambda: read_as(registration(count), Registration, InvalidInput))
    assert 0 < len(error.faults) <= FAULTS_TOLD_MAX
    for key in ({"name": 5, **unknown(count)}, {"name": "a", "scopes": [5] * count}, {"limits": unknown(count)}):
        assert refused(lambda key=key: read_as(key, KeyRequest, InvalidInput)).faults  # type: ignore[misc]


@pytest.mark.parametrize("count", AROUND)
def test_agents_file_with_so_many_faults_is_refused_with_the_first(tmp_path: Path, count: int) -> None:
    for entry in ({"endpoint": "http://127.0.0.1:1", "tenant": "-"}, {"endpoint": 5}, {"endpoint": "x", **unknown(2)}):
        path = tmp_path / "agents.json"
        path.write_bytes(msgspec.json.encode({"agents": [entry] * count}))
        error = refused(lambda path=path: read_static_agents(path))  # type: ignore[misc]
        assert len(error.faults) == min(count, FAULTS_MAX)


@pytest.mark.parametrize("count", AROUND)
def test_agents_file_with_the_same_agent_so_often_is_refused(tmp_path: Path, count: int) -> None:
    path = tmp_path / "agents.json"
    path.write_bytes(msgspec.json.encode({"agents": [{"endpoint": "http://127.0.0.1:1"}] * (count + 1)}))
    assert len(refused(lambda: read_static_agents(path)).faults) == min(count, FAULTS_MAX)


@pytest.mark.parametrize("count", AROUND)
def test_chain_file_with_so_many_faults_is_refused_with_the_first(tmp_path: Path, count: int) -> None:
    path = tmp_path / "chain.json"
    for name, make in CHAINS.items():
        if "params that are none" in name:
            continue  # a file with NaN is no JSON
        path.write_bytes(msgspec.json.encode(make(count)))
        assert 0 < len(refused(lambda: read_chain(path)).faults) <= FAULTS_MAX
