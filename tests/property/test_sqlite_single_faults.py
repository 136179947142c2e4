"""Any single flipped bit, cut or swapped page of a SQLite file or its log is harmless or reported, never silent."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.property.damaged_files import fill, read_all
from tests.sqlite_files import Fault, Verdict, copy_of, draw_fault, judge


@pytest.mark.parametrize("closed", [False, True], ids=["killed", "stopped"])
def test_single_fault_is_harmless_or_reported(tmp_path: Path, faults: int, first_seed: int, *, closed: bool) -> None:
    found, silent = asyncio.run(try_faults(tmp_path, random.Random(first_seed), faults // 2, closed=closed))
    print(f"seed {first_seed}")  # noqa: T201 - shown when it fails, and with -s
    for case, count in sorted(found.items()):
        print(f"{count:>7} {' '.join(case)}")  # noqa: T201 - as above
    assert silent == []
    assert found.total() == faults // 2


async def try_faults(
    directory: Path, draw: random.Random, count: int, *, closed: bool
) -> tuple[Counter[tuple[str, str, Verdict]], list[Fault]]:
    """How many faults of each kind came to what, and those that went unnoticed though an answer was wrong."""
    (directory / "made").mkdir()
    path = await fill(directory / "made" / "a.db", closed=closed)
    expected = await read_all(copy_of(path, "whole"))
    found, silent = Counter[tuple[str, str, Verdict]](), list[Fault]()
    for _ in range(count):
        fault = draw_fault(draw, path)
        verdict = await judge(path, fault, read_all, expected)
        found[fault.file or "main", fault.kind, verdict] += 1
        if verdict is Verdict.SILENT:
            silent.append(fault)
    return found, silent
