"""W3C trace context: what is accepted from a submitter, and what agents are told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicp.model.chain import single_chain
from aicp.model.task import Task
from aicp.model.trace import parse_traceparent, task_traceparent
from aicp.testing.faulty_agents import ScriptedAgent, fault
from tests.unit.flow_kit import ECHO, Flow, virtual

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"
CHAIN = "0198c0ffee00" + "ab" * 10


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (GIVEN, GIVEN),
        (f"  {GIVEN} ", GIVEN),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-03", GIVEN),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", GIVEN),
    ],
)
def test_trace_context_is_understood_in_version_00(header: str, expected: str) -> None:
    assert parse_traceparent(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        None, "", "nonsense", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-01-more", f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01", f"00-{TRACE}-{SPAN}-0g", GIVEN.replace("-", "_"), f"{GIVEN}\n{GIVEN}",
    ],
)  # fmt: skip
def test_what_is_no_trace_context_is_ignored(header: str | None) -> None:
    assert parse_traceparent(header) is None


@given(st.text(max_size=80))
def test_any_text_is_understood_or_ignored(header: str) -> None:
    parsed = parse_traceparent(header)
    assert parsed is None or parse_traceparent(parsed) == parsed


def test_task_is_a_span_of_its_own_in_the_trace_of_its_submitter() -> None:
    first, second = (task_traceparent(f"{CHAIN}.{name}", GIVEN) for name in ("a", "b"))
    assert parse_traceparent(first) == first
    assert first[3:35] == second[3:35] == TRACE
    assert len({SPAN, first[36:52], second[36:52]}) == 3
    assert task_traceparent(f"{CHAIN}.a", GIVEN.replace("-01", "-00")).endswith("-00")


@pytest.mark.parametrize("chain_id", [CHAIN, "any-name", "0" * 32])
def test_without_a_submitters_trace_the_chain_is_one(chain_id: str) -> None:
    told = task_traceparent(f"{chain_id}.a")
    assert parse_traceparent(told) == told
    assert (told[3:35] == chain_id) == (chain_id == CHAIN)
    assert told[3:35] == task_traceparent(f"{chain_id}.b")[3:35]
    assert told == task_traceparent(f"{chain_id}.a")


@virtual
async def test_every_attempt_at_a_task_tells_its_agent_the_same_trace() -> None:
    agent = ScriptedAgent("a", [fault()])
    async with Flow(agent) as flow:
        submitted = await flow.coordinator.submit(single_chain(Task(ECHO)), traceparent=GIVEN)
        await flow.coordinator.wait_result(submitted)
        own = await flow.coordinator.submit_task(Task(ECHO))
        await flow.coordinator.wait_result(own.partition(".")[0])
        direct = await flow.router.route_task(Task(ECHO))
        told = [each.call.traceparent or "" for each in agent.calls]
        assert told[0] == told[1]
        assert [each[3:35] for each in told] == [TRACE, TRACE, own[:32], direct.task_id[:32]]


@virtual
async def test_trace_of_a_submitter_is_on_record_so_that_it_outlives_the_process() -> None:
    async with Flow(ScriptedAgent("a")) as flow:
        chain_id = await flow.coordinator.submit(single_chain(Task(ECHO)), traceparent=GIVEN)
        record = await flow.journal.read(chain_id)
        assert record is not None
        assert record.submitted.traceparent == GIVEN
        await flow.coordinator.wait_result(chain_id)
