"""An agent that breaks has failed, whatever it says of it in its own words."""

import pytest

from aicp.errors import AllAgentsFailed
from aicp.model.outcome import Outcome, Reply, TaskError
from aicp.model.task import Call
from aicp.testing.faulty_agents import ScriptedAgent
from tests.unit.flow_kit import Flow, task, virtual


async def breaks_with_a_word(_agent: ScriptedAgent, _call: Call) -> Reply:
    return Reply(Outcome.AGENT_FAULT, error=TaskError("handler_error", "it broke"), reason="answered 500")


@virtual
async def test_a_break_told_with_the_agents_own_code_is_raised_as_all_agents_failed() -> None:
    async with Flow(ScriptedAgent("a", otherwise=breaks_with_a_word)) as flow:
        with pytest.raises(AllAgentsFailed) as caught:
            await flow.router.route_task(task(idempotent=False))
        assert [attempt.agent_id for attempt in caught.value.attempts] == ["a"]
