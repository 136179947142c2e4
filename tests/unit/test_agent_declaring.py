import functools
from typing import Any

import pytest

import aicp
from aicp.agent import Agent, AgentFailure, Context, TaskFailed
from aicp.agent.handler import Lifetime
from aicp.errors import InvalidAgent


async def answer(params: dict[str, Any]) -> dict[str, Any]:
    return params


async def answer_with_context(params: dict[str, Any], context: Context) -> str:
    return context.task_id


def test_declared_function_stays_what_it_was() -> None:
    agent = Agent("eyes-1")
    assert agent.capability("image.label")(answer) is answer


def test_capability_without_version_is_found_by_name_and_by_major_one() -> None:
    agent = Agent("eyes-1")
    agent.capability("image.label")(answer)
    agent.capability("image.label", version="2.3")(answer_with_context)
    offering = agent.offering()
    plain, second = offering.find("image.label"), offering.find("image.label@2")
    assert plain is not None
    assert second is not None
    assert plain is offering.find("image.label@1")
    assert second.capability.version == "2.3"
    assert offering.find("image.label@3") is None
    assert offering.capability_names == "image.label, image.label@2"


def test_description_tells_everything_that_was_declared() -> None:
    agent = Agent("eyes-1", max_concurrent_tasks=4)
    schema = {"type": "object"}
    agent.capability("image.label", version="1.2", input_schema=schema, output_schema={}, timeout_s=9.0)(answer)
    described = agent.offering().describe("i-1")
    capability = described.capabilities[0]
    assert (described.agent_id, described.instance_id, described.max_concurrent_tasks) == ("eyes-1", "i-1", 4)
    assert (capability.name, capability.version, capability.timeout_s) == ("image.label", "1.2", 9.0)
    assert (capability.input_schema, capability.output_schema) == (schema, {})


def test_handler_asks_for_the_context_by_a_second_parameter() -> None:
    agent = Agent("eyes-1")
    agent.capability("a")(answer)
    agent.capability("b")(answer_with_context)
    agent.capability("c")(lambda params, *, verbose=False: params)
    assert [offer.wants_context for offer in agent.offering().offers.values()] == [False, True, False]


def test_coroutine_functions_are_known_in_every_shape_and_the_rest_gets_threads() -> None:
    class Callable:
        async def __call__(self, params: dict[str, Any]) -> None: ...

    agent = Agent("eyes-1")
    agent.capability("a")(functools.partial(answer_with_context, context=Context("t-1", 1, None, Lifetime())))
    agent.capability("b")(Callable())
    assert not agent.offering().has_plain_functions
    agent.capability("c")(lambda params: params)
    assert agent.offering().has_plain_functions
    assert [offer.is_async for offer in agent.offering().offers.values()] == [True, True, False]


@pytest.mark.parametrize("function", [lambda: 0, lambda a, b, c: 0, 7])
def test_handler_of_another_shape_is_refused(function: Any) -> None:
    with pytest.raises(InvalidAgent, match=r"image\.label"):
        Agent("eyes-1").capability("image.label")(function)


@pytest.mark.parametrize("agent_id", ["", ".eyes", "a b", "a/b", "x" * 129])
def test_agent_id_that_fits_no_url_is_refused(agent_id: str) -> None:
    with pytest.raises(InvalidAgent):
        Agent(agent_id)


@pytest.mark.parametrize("slots", [0, -1, 10_001])
def test_slots_out_of_range_are_refused(slots: int) -> None:
    with pytest.raises(InvalidAgent, match="max_concurrent_tasks"):
        Agent("eyes-1", max_concurrent_tasks=slots)


@pytest.mark.parametrize(
    "declared",
    [
        {"name": "image label"},
        {"name": "x" * 129},
        {"name": "a", "version": "1"},
        {"name": "a", "version": "v1.0"},
        {"name": "a", "timeout_s": 0.0},
        {"name": "a", "timeout_s": float("nan")},
        {"name": "a", "input_schema": {"x": object()}},
        {"name": "a", "output_schema": {"description": "x" * 262_144}},
    ],
)
def test_declaration_that_cannot_be_used_is_refused(declared: dict[str, Any]) -> None:
    with pytest.raises(InvalidAgent):
        Agent("eyes-1").capability(**declared)


def test_same_name_and_major_twice_is_refused() -> None:
    agent = Agent("eyes-1")
    agent.capability("a", version="1.0")(answer)
    with pytest.raises(InvalidAgent, match="declared twice"):
        agent.capability("a", version="1.1")(answer)


def test_agent_without_capability_cannot_be_served() -> None:
    with pytest.raises(InvalidAgent, match="no capability"):
        Agent("eyes-1").offering()


def test_labels_are_bounded() -> None:
    assert Agent("eyes-1", labels={"zone": "a"}).labels == {"zone": "a"}
    with pytest.raises(InvalidAgent, match="at most 64 labels"):
        Agent("eyes-1", labels={str(number): "" for number in range(65)})
    with pytest.raises(InvalidAgent, match="256 characters"):
        Agent("eyes-1", labels={"zone": "x" * 257})


def test_remaining_time_is_none_without_a_deadline_and_never_below_zero() -> None:
    assert Context("t-1", 1, None, Lifetime()).remaining_s is None
    assert Context("t-1", 1, None, Lifetime(0.0)).remaining_s == 0.0


def test_lifetime_reaches_to_the_last_deadline_but_not_beyond_the_timeout() -> None:
    lifetime = Lifetime(10.0, times_out_at=30.0)
    assert lifetime.ends_at == 10.0
    assert lifetime.extend(20.0) == 20.0
    assert lifetime.ends_at == 20.0
    assert lifetime.extend(5.0) == 5.0
    assert lifetime.ends_at == 20.0
    assert lifetime.extend(50.0) == 30.0
    assert lifetime.ends_at == 30.0


def test_failure_tells_its_code_and_message() -> None:
    failure = AgentFailure("no_face", "There is none.")
    assert (failure.code, failure.message, failure.retryable) == ("no_face", "There is none.", False)
    assert "no_face" in str(failure)


def test_an_agent_and_a_function_of_a_node_say_no_with_one_error() -> None:
    assert AgentFailure is TaskFailed is aicp.TaskFailed
    assert str(TaskFailed("no_face", "There is none.").error.message) == "There is none."
