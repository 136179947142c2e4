"""Shapes of what somebody sends, from a seed: deep, wide, many, long, wrong, and in crowds."""

import random
from collections.abc import Callable

import msgspec

CHAIN_BYTES = 8 * 1024 * 1024 - 1_024
TASK_BYTES = 1024 * 1024 - 1_024
TASK, CHAIN, PARALLEL = "/api/tasks", "/api/tasks/chain", "/api/tasks/parallel"
VALUES = (100, 9_999, 10_001, 66_000, 199_000, 200_001, 1_000_000)
TEXT_BYTES = (300_000, 1_000_000, 8_000_000)
Request = tuple[str, bytes]
"""A path and a body."""


def _many(one: bytes, values: int, of_one: int, most: int) -> bytes:
    """A list of the same value, as often as it makes so many values, or fills the body."""
    count = max(1, min(values // of_one, most // (len(one) + 1)))
    return b"[" + b",".join([one] * count) + b"]"


def _params(random_: random.Random, most: int) -> bytes:
    one, of_one = random_.choice(
        [(b"[[1,2,3]]", 5), (b"[]", 2), (b'{"a":1}', 2), (b"1", 1), (b'""', 1), (b'"\\n,[{"', 1), (b"{}", 2)]
    )
    return b'{"l":' + _many(one, random_.choice(VALUES), of_one, most) + b"}"


def wide(random_: random.Random) -> Request:
    """Params of many small values."""
    path, most = random_.choice([(TASK, TASK_BYTES), (CHAIN, CHAIN_BYTES)])
    return path, _with_params(path, _params(random_, most))


def deep(random_: random.Random) -> Request:
    """Params that are nested up to the bound or beyond it, alone or many side by side."""
    levels = random_.choice([10, 60, 61, 64, 200, 100_000])
    inner = b"[" * levels + b"]" * levels
    return CHAIN, _with_params(CHAIN, b'{"l":' + _many(inner, 200_000, levels, CHAIN_BYTES // 2) + b"}")


def long_text(random_: random.Random) -> Request:
    """One long string, plain, escaped or of wide characters."""
    one = random_.choice([b"a", "é".encode(), b"a,[", b"\\n"])
    return CHAIN, _with_params(CHAIN, b'{"t":"' + one * (random_.choice(TEXT_BYTES) // len(one)) + b'"}')


def many_tasks(random_: random.Random) -> Request:
    """Many tasks, in a row, side by side, or each waiting for the first."""
    count = random_.choice([500, 2_000])
    wait: Callable[[int], list[str]] = random_.choice(
        [lambda _: [], lambda n: [f"t{n - 1}"] if n else [], lambda n: ["t0"] if n else []]
    )
    tasks = [
        {"id": f"t{n}", "capability": "text.echo", "params": {"n": n}, "depends_on": wait(n)} for n in range(count)
    ]
    return CHAIN, msgspec.json.encode({"tasks": tasks})


def faulty(random_: random.Random) -> Request:
    """As many faults as are reported, one less or one more, of every sort."""
    count = random_.choice([999, 1_000, 1_001])
    unknown = {f"no-{n}": n for n in range(count)}
    task = random_.choice(
        [
            {"capability": "echo", **unknown},
            {"capability": "echo", "labels": {str(n): n for n in range(count)}, "agents": [1]},
            {"capability": 5, "agents": list(range(count))},
        ]
    )
    path = random_.choice([TASK, CHAIN, PARALLEL])
    many = random_.choice([{"tasks": [task]}, {"tasks": [{"a": 1, "b": 2, "c": 3}] * (count // 3 + 1)}, unknown])
    return path, msgspec.json.encode(task if path == TASK else many)


def doubled(random_: random.Random) -> Request:
    """A key that stands twice, near or far."""
    padding = _many(b"[]", random_.choice(VALUES[:4]), 2, TASK_BYTES)
    return CHAIN, _with_params(CHAIN, b'{"x":1,"l":' + padding + b',"x":2}')


def broken(random_: random.Random) -> Request:
    """A good body with a byte that is another one."""
    path, body = wide(random_)
    place = random_.randrange(len(body))
    return path, body[:place] + random_.choice([b"x", b"]", b'"', b"", b"\xff"]) + body[place + 1 :]


SHAPES = (wide, deep, long_text, many_tasks, faulty, doubled, broken)


def _with_params(path: str, params: bytes) -> bytes:
    task = b'{"id":"a","capability":"text.echo","params":' + params + b"}"
    return task.replace(b'"id":"a",', b"", 1) if path == TASK else b'{"tasks":[' + task + b"]}"
