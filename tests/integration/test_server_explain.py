"""Why a task went where it went, asked over HTTP and from the command line."""

from typing import Any

from tests.integration.server_kit import Api, Gate, asking, run


def test_an_explanation_tells_choices_place_and_candidates() -> None:
    async def main() -> None:
        async with asking() as api:
            gate = Gate()
            await api.node.add_agent("gate-1", {"text.gate": gate}, max_concurrent_tasks=1)
            running, waiting = [await submitted(api) for _ in range(2)]
            await gate.started.wait()
            of_running, of_waiting = [await explained(api, task_id) for task_id in (running, waiting)]
            assert [choice["agent_id"] for choice in of_running["choices"]] == ["gate-1"]
            assert of_running["outlook"]["place"] is None
            assert of_waiting["choices"] == []
            assert of_waiting["outlook"]["place"]["ahead"] == 0
            candidate = of_waiting["outlook"]["candidates"][0]
            assert (candidate["agent_id"], candidate["standing"], candidate["taken"]) == ("gate-1", "busy", 1)
            gate.let_go.set()
            done = (await api.get(f"/api/tasks/{waiting}?wait_s=20")).body
            assert done["status"] == "COMPLETED"
            after = await explained(api, waiting)
            assert (after["status"], after["choices"][0]["attempt"]) == ("COMPLETED", 1)
            assert after["attempts"] == done["attempts"]

    run(main)


def test_what_is_no_task_is_404() -> None:
    async def main() -> None:
        async with asking() as api:
            for task_id in ("nothing", "no.thing", "0" * 32 + ".task"):
                answer = await api.get(f"/api/tasks/{task_id}/explain")
                assert (answer.status, answer.code) == (404, "task_not_found")

    run(main)


async def submitted(api: Api) -> str:
    return str((await api.post("/api/tasks", {"capability": "text.gate"})).body["task_id"])


async def explained(api: Api, task_id: str) -> dict[str, Any]:
    answer = await api.get(f"/api/tasks/{task_id}/explain")
    assert answer.status == 200, answer
    assert isinstance(answer.body, dict)
    return answer.body
