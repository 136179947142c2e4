"""Checks that may take long: bounded on the loop, made in another process, given up when they take too long there."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from aicp.model.document_desk import TooManyDocuments
from aicp.registry import checks as checks_module
from aicp.registry.checks import WAITING_MAX, CheckProcess, Checks, NoCheckProcess, TooCostly
from aicp.registry.costs import CHARS_SHIFT, COST_MAX, WEIGHT_MAX, cost_of, weighs_at_most, weight_max
from aicp.registry.engine import REASON_CHARS_MAX
from aicp.registry.schemas import Schemas
from tests.holds import held_at_most

HOLD_MS_MAX = 25.0
MANY = list(range(199_000))
LOOK_AHEAD = "^(?=a)a"


def doubling(levels: int) -> dict[str, Any]:
    """A schema that looks at one value twice as often with each level."""
    twice = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**twice, f"a{levels}": {"type": "integer"}}}


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


@pytest.fixture(name="schemas")
def closed_schemas() -> Iterator[Schemas]:
    schemas = Schemas()
    yield schemas
    schemas.close()


@pytest.fixture(name="process")
def ended_process() -> Iterator[CheckProcess]:
    process = CheckProcess()
    yield process
    process.end()


def random_value(random_: random.Random, depth: int = 0) -> Any:
    kind = random_.random()
    if depth > 3 or kind < 0.5:
        return random_.choice([1, -2.5, True, None, "", "é" * 40, 10**30, "x" * 700])
    if kind < 0.75:
        return [random_value(random_, depth + 1) for _ in range(random_.randrange(20))]
    return {f"k{n}": random_value(random_, depth + 1) for n in range(random_.randrange(20))}


def weight_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(weight_of, value)) + sum(map(weight_of, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(weight_of, value))
    return 1 + (len(value) >> CHARS_SHIFT if isinstance(value, str) else 0)


@pytest.mark.parametrize("seed", range(200))
def test_weight_is_that_of_all_values_keys_and_texts(seed: int) -> None:
    value = random_value(random.Random(seed))
    weight = weight_of(value)
    assert weighs_at_most(value, weight)
    assert not weighs_at_most(value, weight - 1) or weight <= 400, "a small flat object may count as its bound"
    assert not weighs_at_most([value, "x" * 100_000], 6_000)


@pytest.mark.parametrize("heavy", [{"k" * 100_000: 1}, {"k": "x" * 100_000}, {"k": [0] * 5_000}, [{}] * 5_000])
def test_what_is_heavy_is_not_taken_for_light(heavy: Any) -> None:
    assert not weighs_at_most(heavy, WEIGHT_MAX)


@pytest.mark.parametrize(
    ("schema", "cost"),
    [
        (True, 1),
        ({}, 1),
        ({"$defs": {"unused": {"type": "integer"}}}, 1),
        ({"enum": [1, [2, 3]]}, 6),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/a"}]}}}, 6),
        ({"properties": {"$ref": {}, "enum": {}, "pattern": {}}}, 4),
        ({"$id": "http://x/y", "items": {"$ref": "http://x/y#/$defs/b~1c"}, "$defs": {"b/c": {}}}, 4),
        (doubling(3), 1 + 3 * 7 + 8 * 2),
    ],
)
def test_cost_counts_each_part_as_often_as_it_may_look(schema: Any, cost: int) -> None:
    assert cost_of(schema) == cost


@pytest.mark.parametrize(
    "schema",
    [
        doubling(30),
        {"$ref": "#nowhere"},
        {"$ref": "other.json"},
        {"$ref": "#/$defs/none"},
        {"$defs": {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(5_000)} | {"a5000": {}}, "$ref": "#/$defs/a0"},
    ],
    ids=["doubling", "anchor", "elsewhere", "nowhere", "chain"],
)
def test_schema_whose_cost_is_not_known_is_never_checked_on_the_loop(schema: Any) -> None:
    assert cost_of(schema) == COST_MAX + 1
    assert weight_max(schema) == 0


def test_light_values_are_checked_at_once_and_heavy_ones_are_not(schemas: Schemas) -> None:
    schema = {"properties": {"n": {"type": "integer"}}}
    assert schemas.misfit_at_once(schema, {"n": 1}) == ""
    assert schemas.misfit_at_once(schema, {"n": "x"}) == '/n: "x" is not of type "integer"'
    for free in (None, True):
        assert schemas.misfit_at_once(free, MANY) == ""
    for heavy in ({"n": 1, "l": MANY}, {"n": 1, "t": "x" * 100_000}):
        assert schemas.misfit_at_once(schema, heavy) is None
    assert schemas.misfit_at_once({"enum": [[n] for n in range(20_000)]}, [[1]] * 50) is None


@pytest.mark.parametrize("seed", range(3))
def test_another_process_says_what_this_one_says(schemas: Schemas, seed: int) -> None:
    random_ = random.Random(seed)
    rules: list[Any] = [
        {"maxItems": 3, "items": {"type": ["integer", "string"]}},
        {"maxProperties": 4, "additionalProperties": {"type": "number", "minimum": 0}},
        {"type": "string", "pattern": "^x"},
        {"properties": {"k0": {"type": "string", "pattern": LOOK_AHEAD}}},
        False,
    ]

    async def main() -> None:
        for _ in range(40):
            schema, value = random_.choice(rules), random_value(random_)
            told = await schemas.misfit_elsewhere(schema, value)
            assert told == schemas.misfit(schema, value)
            assert len(told) <= REASON_CHARS_MAX

    run(main)


def test_value_that_is_not_json_does_not_fit_elsewhere_either(process: CheckProcess) -> None:
    assert process.misfit({"type": "string"}, "\ud800").startswith("is not JSON")
    assert process.misfit({"type": "string"}, object()).startswith("is not JSON")
    assert process.misfit({"type": "integer"}, 10**400) == ""


@pytest.mark.usefixtures("quiet_collector")
@pytest.mark.parametrize(
    ("schema", "value", "told"),
    [
        ({"uniqueItems": True}, MANY, ""),
        ({"uniqueItems": True}, [*MANY, 0], "has non-unique elements"),
        ({"maxItems": 5}, [[[1, 2, 3]]] * 39_000, "has more than 5 items"),
        ({"items": {"enum": [{"a": [n] * 10} for n in range(200)]}}, [{"a": [199] * 10}] * 9_000, ""),
        ({"pattern": "^(a|b)*c$"}, "ab" * 2_000_000, "does not match"),
    ],
    ids=["unique", "not unique", "error of a list", "quadratic", "pattern"],
)
def test_check_of_a_large_value_holds_nothing(schemas: Schemas, schema: Any, value: Any, told: str) -> None:
    async def main() -> None:
        await schemas.misfit_elsewhere({}, {})  # starts the process

        async def check() -> str:
            assert schemas.misfit_at_once(schema, value) is None
            return await schemas.misfit_elsewhere(schema, value)

        found = await held_at_most(HOLD_MS_MAX, check)
        assert told in found
        assert bool(told) == bool(found)

    run(main)


def test_check_that_takes_too_long_is_given_up_once_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    schemas, costly = Schemas(Checks(cpu_s_max=0.2)), doubling(60)

    async def main() -> None:
        assert schemas.misfit_at_once(costly, 1) is None
        assert await schemas.misfit_elsewhere(costly, 1) == "", "what cannot be checked passes"
        for _ in range(3):
            assert await schemas.misfit_elsewhere(costly, "x") == ""
        assert await schemas.misfit_elsewhere({"type": "integer"}, "x") == '"x" is not of type "integer"'
        schemas.close()

    run(main)
    assert len([record for record in caplog.records if "given up" in record.message]) == 1


def test_process_that_was_killed_is_started_again(process: CheckProcess) -> None:
    assert process.misfit({"type": "integer"}, 1) == ""
    first = process._process
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert process.misfit({"type": "integer"}, "x") == '"x" is not of type "integer"'
    assert process._process is not first


def test_values_are_checked_in_this_process_where_no_other_can_be_started(
    monkeypatch: pytest.MonkeyPatch, schemas: Schemas, process: CheckProcess
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(NoCheckProcess):
        process.misfit({"type": "integer"}, 1)

    async def main() -> None:
        assert await schemas.misfit_elsewhere({"type": "integer"}, "x") == '"x" is not of type "integer"'

    run(main)


def test_process_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, process: CheckProcess) -> None:
    assert process.misfit({}, 1) == ""
    hung = process._process
    assert hung is not None
    os.kill(hung.pid, signal.SIGSTOP)
    monkeypatch.setattr(checks_module, "WALL_S_MAX", 0.1)
    monkeypatch.setattr(checks_module, "TRIES", 1)
    with pytest.raises(NoCheckProcess):
        process.misfit({}, 1)
    assert hung.returncode == -signal.SIGKILL


def test_process_ends_with_its_owner_and_has_no_descriptor_left(process: CheckProcess) -> None:
    assert process.end() is None
    process.misfit({}, 1)
    child, descriptors = process._process, list(process.descriptors())
    assert child is not None
    assert len(descriptors) == 2
    process.end()
    assert child.returncode == -signal.SIGKILL
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)


def test_schemas_that_nobody_has_any_more_leave_no_process() -> None:
    schemas = Schemas()
    schemas._checks._process.misfit({}, 1)
    child = schemas._checks._process._process
    assert child is not None
    del schemas
    child.wait(30)


def test_submits_that_wait_for_checks_are_bounded_and_attempts_always_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        checks, gate = Checks(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def work(_: CheckProcess) -> str:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
            return "done"

        waiting = [asyncio.create_task(checks.run(work, waits=False)) for _ in range(WAITING_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyDocuments):
            await checks.run(work, waits=False)
        waiting.append(asyncio.create_task(checks.run(work, waits=True)))
        await asyncio.sleep(0)
        waiting[5].cancel()
        gate.set()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in ended].count(True) == 1
        assert await checks.run(work, waits=False) == "done"
        checks.close()

    run(main)


def test_costly_check_is_told_from_a_lost_process() -> None:
    process = CheckProcess(cpu_s_max=0.1)
    with pytest.raises(TooCostly):
        process.misfit(doubling(60), 1)
    process.end()
