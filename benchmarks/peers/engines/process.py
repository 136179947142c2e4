"""One engine in a process of its own: warm up, go through the cases, write down what came of each.

    python -m benchmarks.peers.engines.process NAME DIRECTORY REPORT SIZES

NAME is what follows `by_` in the name of the engine's module, SIZES are the largest, as JSON.
"""

import asyncio
import gc
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import msgspec
import uvloop

from benchmarks.peers.engines.engine import Case, Engine, Sizes
from benchmarks.peers.engines.workloads import MEASURES, WARM_UP, Finding, Measure

CASE_WAIT_S = 60.0


class Report(msgspec.Struct, frozen=True):
    """What is known of an engine so far.

    Attributes:
        name: For the tables.
        record: What survives a crash.
        packages: Its distributions.
        versions: Theirs.
        sizes: What it was asked for.
        findings: What the cases came to.
        notes: By case, what a reader has to know: also why there is no finding.
        problem: Why it was not measured at all, or no further.
    """

    name: str
    record: str = ""
    packages: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    sizes: Sizes = Sizes()
    findings: dict[Case, Finding] = {}
    notes: dict[Case, str] = {}
    problem: str = ""


class Writer:
    """Keeps the report on disk as it grows: of an engine that hangs in the end, the beginning is known."""

    def __init__(self, path: Path, report: Report) -> None:
        self._path = path
        self._report = report
        self._write()

    def found(self, case: Case, finding: Finding) -> None:
        """What a case came to."""
        self._report.findings[case] = finding
        self._write()

    def note(self, case: Case, sentence: str) -> None:
        """Something about a case."""
        self._report.notes[case] = sentence
        self._write()

    def _write(self) -> None:
        self._path.write_bytes(msgspec.json.encode(self._report))


def collect_garbage_rarely() -> None:
    """As `aicp serve` does, for every engine."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def go_through(engine: Engine, directory: Path, sizes: Sizes, writer: Writer) -> None:
    async with engine.opened(directory):
        engine.prepare(WARM_UP)
        engine.prepare(sizes)
        collect_garbage_rarely()
        for case, measure in MEASURES.items():
            if case in engine.lacks:
                writer.note(case, engine.lacks[case])
            else:
                await try_case(engine, case, measure, sizes, writer)


async def try_case(engine: Engine, case: Case, measure: Measure, sizes: Sizes, writer: Writer) -> None:
    try:
        async with asyncio.timeout(CASE_WAIT_S):
            await measure(engine, WARM_UP.at_most(sizes))
            finding = await measure(engine, sizes)
    except TimeoutError:
        writer.note(case, f"not through after {CASE_WAIT_S:g} s")
    except Exception as error:  # noqa: BLE001 - what an engine cannot do is a finding, too
        writer.note(case, f"failed: {told(error)}")
    else:
        writer.found(case, finding)
        if case in engine.notes:
            writer.note(case, engine.notes[case])


def told(error: BaseException) -> str:
    """In one short line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:160]


def load(name: str) -> Engine:
    """The engine of `by_<name>.py`; imports its library."""
    engine: Engine = import_module(f"benchmarks.peers.engines.by_{name}").ENGINE
    return engine


def main(name: str, directory: Path, path: Path, sizes: Sizes) -> None:
    try:
        engine = load(name)
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed: pip install -e '.[engines]'"
        Writer(path, Report(name, problem=problem))
    except Exception as error:  # noqa: BLE001 - a library that cannot be imported beside the others is a finding, too
        Writer(path, Report(name, problem=f"cannot be imported: {told(error)}"))
    else:
        packages = tuple(engine.packages)
        versions = tuple(version(package) for package in packages)
        asked = sizes.at_most(engine.sizes)
        report = Report(engine.name, engine.record, packages, versions, asked)
        uvloop.run(go_through(engine, directory, asked, Writer(path, report)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), msgspec.json.decode(sys.argv[4], type=Sizes))
