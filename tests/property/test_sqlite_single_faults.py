"""Any single flipped bit, cut or swapped page of a SQLite file or its log is harmless or reported, never silent."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.property.conftest import FAULTS
from tests.property.damaged_files import fill, read_all
from tests.sqlite_files import Fault, Verdict, copy_of, draw_fault, judge

SEED = 20_261_130


@pytest.mark.parametrize("closed", [False, True], ids=["killed", "stopped"])
def test_single_fault_is_harmless_or_reported(tmp_path: Path, request: pytest.FixtureRequest, *, closed: bool) -> None:
    faults = int(request.config.getoption("--faults", default=FAULTS)) // 2
    seed = int(request.config.getoption("--seed", default=SEED))

    async def main() -> tuple[Counter[tuple[str, str, Verdict]], list[Fault]]:
        (tmp_path / "made").mkdir()
        path = await fill(tmp_path / "made" / "a.db", closed=closed)
        expected = await read_all(copy_of(path, "whole"))
        assert expected.count(b'"c0"') >= 3
        draw, found, silent = random.Random(seed), Counter[tuple[str, str, Verdict]](), list[Fault]()
        for _ in range(faults):
            fault = draw_fault(draw, path)
            verdict = await judge(path, fault, read_all, expected)
            found[fault.file or "main", fault.kind, verdict] += 1
            if verdict is Verdict.SILENT:
                silent.append(fault)
        return found, silent

    found, silent = asyncio.run(main())
    print(f"seed {seed}")  # noqa: T201 - shown when it fails, and with -s
    for case, count in sorted(found.items()):
        print(f"{count:>7} {' '.join(case)}")  # noqa: T201 - as above
    assert silent == []
    assert found.total() == faults
