# mypy: untyped-calls-exclude=skimage
"""The main job with real processes: it succeeds although an agent dies at its work, and leaves nobody behind."""

import itertools
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rapidocr", reason="needs aicp[demo]")

from PIL import Image
from skimage import data

from tests.e2e.demo_kit import DemoProcess

pytestmark = [
    pytest.mark.xdist_group("demo"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"),
]


class Ended:
    """A run of the demo that has ended."""

    def __init__(self, demo: DemoProcess, out: Path) -> None:
        self.code, self.output, self.errors = demo.ended()
        self.orphans = demo.agents()
        self.data_dir = demo.data_dir
        self.temporary_files = list(demo.temporary.iterdir())
        self.picture = out / "annotated.png"
        self.report: dict[str, Any] = json.loads((out / "report.json").read_text()) if self.code == 0 else {}

    def step(self, name: str) -> dict[str, Any]:
        return next(step for step in self.report["steps"] if step["step"] == name)


@pytest.fixture(scope="module")
def with_a_death(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    where = tmp_path_factory.mktemp("demo")
    with DemoProcess(where) as demo:
        yield Ended(demo, where / "demo-out")


@pytest.fixture(scope="module")
def without_a_death(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """A picture of the user's own, and output for a program."""
    where = tmp_path_factory.mktemp("demo")
    Image.fromarray(data.page()).save(where / "page.jpg", quality=95)
    with DemoProcess(where, "--no-kill", "--image", "page.jpg", "--out", "deep/er", "-o", "json") as demo:
        yield Ended(demo, where / "deep" / "er")


def test_chain_succeeds_although_the_agent_that_had_label_was_killed(with_a_death: Ended) -> None:
    assert with_a_death.code == 0, with_a_death.errors
    failover = with_a_death.report["failover"]
    assert {failover["dead_agent"], failover["rescuing_agent"]} == {"label-1", "label-2"}
    lost, rescued = with_a_death.step("label")["attempts"]
    assert (lost["agent_id"], lost["pid"], lost["outcome"]) == (
        failover["dead_agent"],
        failover["dead_pid"],
        "AGENT_FAULT",
    )
    assert (rescued["agent_id"], rescued["outcome"]) == (failover["rescuing_agent"], "SUCCESS")


def test_kill_landed_while_the_agent_had_the_task(with_a_death: Ended) -> None:
    lost = with_a_death.step("label")["attempts"][0]

    assert lost["began_s"] < with_a_death.report["failover"]["killed_s"] < lost["ended_s"]


def test_report_names_a_face_lines_of_text_and_colours(with_a_death: Ended) -> None:
    report = with_a_death.report

    assert len(report["faces"]) >= 1
    assert len(report["text_lines"]) >= 3
    assert "Region-based segmentation" in [line["text"] for line in report["text_lines"]]
    assert len(report["colors"]) >= 3


def test_output_says_who_died_who_took_over_and_where_the_files_are(with_a_death: Ended) -> None:
    failover = with_a_death.report["failover"]
    told = " ".join(with_a_death.output.split())

    assert failover["sentence"] in told
    assert f"{failover['dead_agent']} (pid {failover['dead_pid']}) was killed" in told
    assert f"{failover['rescuing_agent']} (pid {failover['rescuing_pid']}) took over" in told
    assert "demo-out/annotated.png" in told
    assert "demo-out/report.json" in told
    assert "Traceback" not in with_a_death.errors


def test_annotated_picture_is_a_png_larger_than_the_sample(with_a_death: Ended) -> None:
    with Image.open(with_a_death.picture) as picture:
        picture.load()

    assert picture.format == "PNG"
    assert picture.width > 1376


def test_label_extract_and_analyze_ran_side_by_side(with_a_death: Ended) -> None:
    spans = [
        (step["attempts"][0]["began_s"], step["attempts"][-1]["ended_s"])
        for step in map(with_a_death.step, ("label", "extract", "analyze"))
    ]

    assert all(one[0] < other[1] for one, other in itertools.permutations(spans, 2))
    assert with_a_death.report["timings"]["wall_s"] < with_a_death.report["timings"]["sequential_s"]


def test_nobody_is_left_behind_and_the_users_keys_are_not_touched(with_a_death: Ended) -> None:
    assert with_a_death.orphans == []
    assert with_a_death.temporary_files == []
    assert not with_a_death.data_dir.exists()


def test_no_kill_lets_everybody_live(without_a_death: Ended) -> None:
    assert without_a_death.code == 0, without_a_death.errors
    assert without_a_death.report["failover"] is None
    assert [len(step["attempts"]) for step in without_a_death.report["steps"]] == [1, 1, 1, 1, 1]
    assert without_a_death.orphans == []


def test_own_picture_is_analysed_and_named_as_the_user_named_it(without_a_death: Ended) -> None:
    assert without_a_death.report["picture"]["source"] == "page.jpg"
    assert without_a_death.report["picture"]["original"]["format"] == "JPEG"
    assert without_a_death.report["faces"] == []
    assert len(without_a_death.report["text_lines"]) >= 3


def test_json_output_is_the_report(without_a_death: Ended) -> None:
    assert json.loads(without_a_death.output) == without_a_death.report


def test_picture_that_fetch_cannot_have_is_one_sentence(tmp_path: Path) -> None:
    with DemoProcess(tmp_path, "--image", "http://127.0.0.1:9/cat.png") as demo:
        demo.read_until("fetch: fetch-1 begins")
        code, out, errors = demo.ended()

        assert code == 2
        assert errors.splitlines()[-1] == (
            "The picture cannot be fetched: http://127.0.0.1:9/cat.png cannot be reached (connection refused); "
            "check the address and that its server runs"
        )
        assert "Traceback" not in errors
        assert out == ""
        assert demo.agents() == []


def test_agent_that_does_not_come_up_is_named_with_its_last_words(tmp_path: Path) -> None:
    # Python runs a module of this name before anything else.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'label-2' in sys.orig_argv:\n"
        "    sys.stderr.write('the cascade is gone')\n"
        "    sys.stderr.flush()\n"
        "    os._exit(7)\n"
    )
    with DemoProcess(tmp_path, import_first=tmp_path) as demo:
        code, out, errors = demo.ended()

        assert code == 1
        assert re.fullmatch(
            r"label-2 \(pid \d+\) ended with code 7 before it had registered; the last it wrote: the cascade is gone",
            errors.splitlines()[-1],
        )
        assert out == ""
        assert demo.agents() == []


@pytest.mark.parametrize(
    ("number", "moment", "code"),
    [(signal.SIGINT, "extract: extract-", 130), (signal.SIGTERM, "combine-1 starts", 143)],
    ids=["ctrl-c at work", "terminated at the start"],
)
def test_demo_that_is_told_to_stop_ends_its_agents_first(
    tmp_path: Path, number: signal.Signals, moment: str, code: int
) -> None:
    with DemoProcess(tmp_path) as demo:
        demo.read_until(moment)
        assert len(demo.agents()) >= 6
        demo.popen.send_signal(number)
        ended, out, errors = demo.ended()

        assert demo.agents() == []
        assert ended == code
        assert "every agent has ended" in errors
        assert "Traceback" not in errors
        assert out == ""


@pytest.mark.parametrize("moment", ["combine-1 starts", "extract: extract-"], ids=["at the start", "at work"])
def test_agents_of_a_demo_that_was_killed_end_by_themselves(tmp_path: Path, moment: str) -> None:
    with DemoProcess(tmp_path) as demo:
        demo.read_until(moment)
        assert len(demo.agents()) >= 6
        os.kill(demo.popen.pid, signal.SIGKILL)
        demo.ended()

        assert demo.agents_left() == []
