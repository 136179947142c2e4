"""Mistakes that people make in Python: each gets a sentence that says what, where and what to do."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aicp import InvalidAgent, InvalidChain, InvalidTask, NoCapableAgent, Node, Task, TaskChain
from aicp.agent import Agent
from aicp.model.agent import AgentCapability
from aicp.model.chain import ChainSpec
from aicp.model.task import Priority, TaskStatus
from aicp.model.validation import check_chain, check_task
from tests.unit.flow_kit import virtual


def echo(params: dict[str, Any]) -> Any:
    return params


def made(**fields: Any) -> Task:
    return Task(**{"capability": "text.shout", **fields})


WRONG_TASKS: dict[str, tuple[Any, str, str]] = {
    "params that are a list": (made(params=["a"]), "/params", "expected `object`, got `array`"),
    "params that are None": (made(params=None), "/params", "expected `object`"),
    "an unknown priority": (made(priority="urgent"), "/priority", "choose from high, normal, low"),
    "a priority that is a list": (made(priority=["high"]), "/priority", "expected"),
    "a timeout in a string": (made(timeout_s="3"), "/timeout_s", "expected `float | null`, got `str`"),
    "a deadline that is True": (made(deadline_s=True), "/deadline_s", "expected `float | null`, got `bool`"),
    "a capability that is a number": (made(capability=3), "/capability", "expected `str`, got `int`"),
    "one agent in place of a list": (made(agents="a"), "/agents", "expected `array`, got `str`"),
    "labels with numbers": (made(labels={"a": 1}), "/labels", "expected `str`, got `int`"),
    "idempotent in words": (made(idempotent="no"), "/idempotent", "expected `bool`, got `str`"),
}


@pytest.mark.parametrize("name", WRONG_TASKS)
def test_a_task_of_wrong_types_is_refused_with_its_place(name: str) -> None:
    task, place, message = WRONG_TASKS[name]
    with pytest.raises(InvalidTask) as alone:
        check_task(task)
    assert [fault.place.startswith(place) for fault in alone.value.faults] == [True]
    assert message in alone.value.faults[0].message
    with pytest.raises(InvalidChain) as inside:
        check_chain(ChainSpec((msgspec.structs.replace(task, id="t"),)))
    assert inside.value.faults[0].place.startswith(f"/tasks/0{place}")


@pytest.mark.parametrize(
    "task", [made(priority="high"), made(capability=AgentCapability.NLP), made(timeout_s=3), made(agents=["a"])]
)
def test_what_python_takes_for_the_same_is_no_mistake(task: Task) -> None:
    check_task(task)


@pytest.mark.parametrize("wrong", ["text.shout", None, {"capability": "text.shout"}, 3])
@virtual
async def test_what_is_not_a_task_is_refused(wrong: Any) -> None:
    async with Node() as node:
        await node.add_agent("a", {"text.shout": echo})
        calls: list[Callable[[], Any]] = [
            lambda: node.router.route_task(wrong),
            lambda: node.coordinator.submit_task(wrong),
            lambda: node.coordinator.execute_parallel_tasks([wrong]),
            lambda: node.coordinator.execute_parallel_tasks(wrong),
            lambda: node.coordinator.execute_chain(wrong),
            lambda: node.coordinator.execute_chain(ChainSpec((wrong,))),
        ]
        for call in calls:
            with pytest.raises((InvalidTask, InvalidChain), match="must be a"):
                await call()


@virtual
async def test_a_task_with_a_list_of_params_runs_nowhere() -> None:
    async with Node() as node:
        await node.add_agent("a", {"text.shout": echo})
        with pytest.raises(InvalidTask, match="/params"):
            await node.router.route_task(made(params=["a"]))
        done = await node.router.route_task(made(priority="high", params={"a": 1}))
        assert done.status is TaskStatus.COMPLETED


class TestChains:
    def test_an_output_inside_a_text_is_refused(self) -> None:
        chain = TaskChain()
        fetch = chain.add_task("image.fetch")
        spellings: list[Callable[[], str]] = [
            lambda: f"{fetch.output}",
            lambda: str(fetch.output),
            lambda: f"{fetch.output['url']}",
            lambda: f"{fetch}",
            lambda: f"see {fetch!s}",
        ]
        for spelled in spellings:
            with pytest.raises(InvalidTask, match="the output of task 'fetch' cannot be a part of a text"):
                spelled()
        assert repr(fetch.output) == "Reference(task_id='fetch', path='')"

    def test_a_handle_without_output_is_explained(self) -> None:
        chain = TaskChain()
        fetch = chain.add_task("image.fetch")
        chain.add_task("image.label", {"image": fetch})
        with pytest.raises(InvalidChain) as raised:
            check_chain(chain.freeze())
        [fault] = raised.value.faults
        assert fault.place == "/tasks/1/params/image"
        assert "write task.output" in fault.message

    def test_an_id_that_is_taken_is_named_with_its_place(self) -> None:
        chain = TaskChain()
        chain.add_task("image.fetch", id="fetch")
        with pytest.raises(InvalidChain) as raised:
            chain.add_task("image.label", id="fetch")
        assert raised.value.faults[0].place == "/tasks/1/id"

    def test_an_unknown_failure_policy_lists_the_choices(self) -> None:
        with pytest.raises(InvalidChain, match="choose from fail_fast, continue"):
            TaskChain(failure_policy="maybe")

    @pytest.mark.parametrize("header", [{"name": None}, {"deadline_s": "3"}, {"failure_policy": "maybe"}])
    def test_a_chain_header_of_wrong_types_is_refused(self, header: dict[str, Any]) -> None:
        with pytest.raises(InvalidChain, match=f"/{next(iter(header))}"):
            check_chain(ChainSpec((made(id="t"),), **header))


class TestAgents:
    @pytest.mark.parametrize(
        ("handlers", "message"),
        [
            (["text.shout"], "handlers must map capabilities to functions"),
            ({"text.shout": "shout"}, "must be a function that takes the params, not a str"),
            ({"text.shout": object()}, "must be a function that takes the params, not an object"),
            ({"text.shout": lambda: 1}, "takes the params as its one argument"),
            ({"text.shout": lambda a, b: 1}, "takes the params as its one argument"),
            ({3: echo}, "must be a name or name@major"),
            ({"text.shout@x": echo}, "must be a name or name@major"),
        ],
    )
    @virtual
    async def test_handlers_that_cannot_be_called_are_refused(self, handlers: Any, message: str) -> None:
        async with Node() as node:
            with pytest.raises(InvalidAgent) as raised:
                await node.add_agent("a", handlers)
            assert message in raised.value.message
            assert not list(node.scheduler.members())

    @virtual
    async def test_functions_that_do_not_show_their_signature_are_taken(self) -> None:
        async with Node() as node:
            await node.add_agent("a", {"text.count": len, "text.list": dict})

    def test_a_decorator_without_parentheses_is_explained(self) -> None:
        agent = Agent("a")
        with pytest.raises(InvalidAgent, match=r"write @agent.capability\('image.label'\)"):
            agent.capability(echo)  # type: ignore[arg-type]


class TestNames:
    @virtual
    async def test_a_misspelled_capability_gets_a_guess(self) -> None:
        async with Node() as node:
            await node.add_agent("a", {"text.shout": echo})
            for call in (node.router.route_task(Task("text.shuot")), node.coordinator.submit_task(Task("text.shuot"))):
                with pytest.raises(NoCapableAgent, match=r"did you mean 'text.shout'"):
                    await call

    @virtual
    async def test_a_name_like_no_other_gets_none(self) -> None:
        async with Node() as node:
            await node.add_agent("a", {"text.shout": echo})
            with pytest.raises(NoCapableAgent, match="check the name"):
                await node.router.route_task(Task("image.label"))

    @virtual
    async def test_the_names_of_another_tenant_are_not_guessed(self) -> None:
        async with Node() as node:
            await node.add_agent("a", {"text.shout": echo})
            with pytest.raises(NoCapableAgent) as raised:
                await node.coordinator.submit_task(Task("text.shuot"), tenant="other")
            assert "text.shout" not in raised.value.message


def test_priorities_are_those_that_the_fault_lists() -> None:
    assert [str(each) for each in Priority] == ["high", "normal", "low"]
