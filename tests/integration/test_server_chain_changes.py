"""A chain in short over HTTP: what changed since an earlier answer."""

import pytest

from tests.integration.server_kit import Api, Gate, with_api


def test_chain_in_short_tells_what_changed_and_no_results() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        tasks = [
            {"id": "a", "capability": "text.echo", "params": {"text": "hello"}},
            {"id": "b", "capability": "text.gate", "depends_on": ["a"]},
            {"id": "c", "capability": "text.echo", "depends_on": ["b"]},
        ]
        chain_id = (await api.post("/api/tasks/chain", {"tasks": tasks})).body["chain_id"]
        await gate.started.wait()
        path = f"/api/tasks/chain/{chain_id}?results=false"
        first = (await api.get(path)).body
        assert sorted(first["tasks"]) == ["a", "b", "c"]
        assert first["edges"] == [["a", "b"], ["b", "c"]]
        assert "result" not in first["tasks"]["a"]
        assert (first["status"], first["completed_tasks"]) == ("RUNNING", 1)
        gate.let_go.set()
        last = (await api.get(f"{path}&since={first['seq']}&wait_s=30")).body
        assert sorted(last["tasks"]) == ["b", "c"]
        assert "edges" not in last
        assert (last["status"], last["completed_tasks"]) == ("COMPLETED", 3)
        assert (await api.get(f"{path}&since={last['seq']}")).body["tasks"] == {}
        whole = (await api.get(f"/api/tasks/chain/{chain_id}")).body
        for name, task in {**first["tasks"], **last["tasks"]}.items():
            assert task == {key: value for key, value in whole["tasks"][name].items() if key != "result"}

    with_api(test)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("since=1", "?since"), ("results=true&since=1", "?since"), ("results=false&since=-1", "?since"),
        ("results=false&since=x", "?since"), (f"results=false&since={2**40}", "?since"), ("results=maybe", "?results"),
    ],
)  # fmt: skip
def test_chain_in_short_says_what_is_wrong_with_its_query(query: str, place: str) -> None:
    async def test(api: Api) -> None:
        chain_id = (await api.post("/api/tasks/chain", {"tasks": [{"id": "a", "capability": "text.echo"}]})).body[
            "chain_id"
        ]
        refused = await api.get(f"/api/tasks/chain/{chain_id}?{query}")
        assert (refused.status, refused.code) == (422, "invalid_input")
        assert place in refused.faults

    with_api(test)


def test_chain_in_short_is_of_ones_own_tenant() -> None:
    async def test(api: Api) -> None:
        chain_id = (await api.post("/api/tasks/chain", {"tasks": [{"id": "a", "capability": "text.echo"}]})).body[
            "chain_id"
        ]
        other = await api.new_key("other")
        for since in ("", "1", "5-00000000-1"):
            refused = await api.get(f"/api/tasks/chain/{chain_id}?results=false&since={since}", key=other)
            assert (refused.status, refused.code) == (404, "chain_not_found")

    with_api(test)
