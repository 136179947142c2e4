"""The report, the sheet a person looks at, and the agents' work from JSON to JSON."""

import base64
import io
import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from PIL import Image, ImageColor

from aicp.demo.agents.analyze import analyze
from aicp.demo.agents.combine import combine
from aicp.demo.agents.extract import extract
from aicp.demo.agents.fetch import fetch
from aicp.demo.agents.label import label
from aicp.demo.drawing import draw_report
from aicp.demo.extra import check_extra
from aicp.demo.findings import Box, Color, EncodedPicture, Face, Findings, Region, TextLine
from aicp.demo.overlay import FACE_INK
from aicp.demo.pen import folded, legible, shortened, text_width
from aicp.demo.picture import NotAPicture, encode_picture
from aicp.demo.report import make_report
from aicp.demo.sample import make_sample
from aicp.errors import InvalidInput, SettingsError

ANSWER_BYTES_MAX = 16 * 1024 * 1024


def picture(width: int, height: int) -> tuple[Image.Image, EncodedPicture]:
    image = Image.new("RGB", (width, height), "#405060")
    return image, encode_picture(image)


def findings(encoded: EncodedPicture, **found: Any) -> Findings:
    return Findings("http://127.0.0.1/cat.png", encoded, **found)


def line(text: str, top: int) -> TextLine:
    corners = ((10, top), (200, top), (200, top + 20), (10, top + 20))
    return TextLine(text, 0.97, Box(10, top, 190, 20), corners)


def region(place: int) -> Region:
    outline = ((place, place), (90, place), (90, 90), (place, 90), (place, place))
    return Region(Box(place, place, 90 - place, 90 - place), 0.1, outline, "#aabbcc")


@pytest.mark.parametrize(
    ("found", "summary"),
    [
        ({}, "no faces, no lines of text and no regions."),
        (
            {
                "faces": (Face(Box(1, 1, 9, 9), 20),),
                "lines": (line("a", 1), line("b", 30)),
                "regions": (region(1),),
                "colors": (Color("red", "#ff0000", (255, 0, 0), 1.0),),
            },
            "1 face, 2 lines of text and 1 region, mostly red.",
        ),
    ],
)
def test_the_report_says_in_one_sentence_what_was_found(found: dict[str, Any], summary: str) -> None:
    _, encoded = picture(100, 100)
    assert make_report(findings(encoded, **found)).summary == summary


def test_the_report_names_what_it_holds() -> None:
    _, encoded = picture(100, 80)
    report = msgspec.to_builtins(make_report(findings(encoded, lines=(line("hello", 5),))))
    assert set(report) == {"summary", "picture", "faces", "regions", "text_lines", "colors"}
    assert report["text_lines"][0]["text"] == "hello"
    assert report["picture"] == {
        "source": "http://127.0.0.1/cat.png",
        "width": 100,
        "height": 80,
        "sha256": encoded.sha256,
    }


@pytest.mark.parametrize("size", [(1, 1), (20, 900), (2000, 3), (2000, 2000), (1376, 576)])
def test_a_picture_of_any_shape_gets_a_sheet_of_bounded_size(size: tuple[int, int]) -> None:
    image, encoded = picture(*size)
    colors = tuple(Color("reddish brown", "#884422", (136, 68, 34), 1 / 7) for _ in range(7))
    everything = findings(
        encoded,
        faces=tuple(Face(Box(5 * n, 5 * n, 60, 60), 20) for n in range(64)),
        regions=tuple(region(n) for n in range(8)),
        lines=tuple(line(f"number {n} " * 30, 3 * n) for n in range(300)),
        colors=colors,
    )
    sheet = draw_report(image, make_report(everything))
    assert 900 <= sheet.width <= 2000
    assert 600 <= sheet.height <= 1300


def test_a_face_is_framed_where_it_is() -> None:
    image, encoded = picture(1280, 640)
    report = make_report(findings(encoded, faces=(Face(Box(400, 200, 100, 100), 20),)))
    bare, drawn = draw_report(image, make_report(findings(encoded))), draw_report(image, report)
    # The picture is shown at its own size, so one corner of the sheet's picture is found by its first pixel.
    left, top = 36, 36 + 80
    amber = ImageColor.getrgb(FACE_INK)
    assert bare.getpixel((left + 401, top + 250)) == image.getpixel((401, 250))
    assert drawn.getpixel((left + 401, top + 250)) == amber
    assert drawn.getpixel((left + 498, top + 250)) == amber
    assert drawn.getpixel((left + 450, top + 250)) == image.getpixel((450, 250))


def test_the_palette_shows_each_color_over_its_share() -> None:
    image, encoded = picture(1280, 640)
    colors = (Color("red", "#ff0000", (255, 0, 0), 0.75), Color("blue", "#0000ff", (0, 0, 255), 0.25))
    sheet = draw_report(image, make_report(findings(encoded, colors=colors)))
    row = [sheet.getpixel((36 + x, 36 + 80 + 640 + 28 + 20)) for x in range(1280)]
    assert row.count((255, 0, 0)) == pytest.approx(960, abs=2)
    assert row.count((0, 0, 255)) == pytest.approx(320, abs=2)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße", "Grusse"),
        ("naïve café", "naive cafe"),
        ("日本", "??"),
        ("a\tb\n", "a?b?"),
        ("10 \u00d7 4 \u2013 ok…", "10 x 4 - ok..."),
    ],
)
def test_what_the_font_cannot_write_is_told_plainly(text: str, shown: str) -> None:
    assert legible(text) == shown


def test_a_long_row_is_cut_to_its_width_with_an_ellipsis() -> None:
    cut = shortened("w" * 500, 17, 200)
    assert cut.endswith("…")
    assert 180 < text_width(cut, 17) <= 200
    assert shortened("short", 17, 200) == "short"


def test_a_text_is_folded_at_its_spaces_and_loses_no_word_that_has_room() -> None:
    rows = folded("the quick brown fox jumps over the lazy dog", 17, 150, 9)
    assert " ".join(rows) == "the quick brown fox jumps over the lazy dog"
    assert max(text_width(row, 17) for row in rows) <= 150
    assert len(folded("word " * 200, 17, 150, 2)) == 2
    assert "".join(folded("x" * 60, 17, 150, 99)) == "x" * 60


def test_the_agents_work_goes_from_json_to_json_and_ends_in_a_report() -> None:
    def travel(value: dict[str, Any]) -> dict[str, Any]:
        encoded = msgspec.json.encode(value)
        assert len(encoded) < ANSWER_BYTES_MAX
        arrived: dict[str, Any] = json.loads(encoded)
        return arrived

    fetched = travel(fetch(make_sample(), "sample.png"))
    task = {"image": fetched["image"]}
    found = travel(label(task)) | travel(extract(task)) | travel(analyze(task))
    combined = travel(combine({"source": "sample.png", **fetched, **found}))
    report = combined["report"]
    assert [len(report[name]) for name in ("faces", "text_lines")] == [1, 7]
    assert len(report["colors"]) >= 3
    assert report["picture"]["original"]["format"] == "PNG"
    sheet = Image.open(io.BytesIO(base64.b64decode(combined["annotated_png_base64"])))
    assert sheet.width > 1376


def test_a_file_that_is_no_picture_is_refused_by_fetch() -> None:
    with pytest.raises(NotAPicture, match=r"page\.html"):
        fetch(b"<html>", "page.html")


@pytest.mark.parametrize("work", [label, extract, analyze, combine])
def test_params_that_do_not_fit_are_refused_in_one_sentence(work: Any) -> None:
    with pytest.raises(InvalidInput, match="params do not fit"):
        work({"image": {"png_base64": 3}})


def test_a_missing_extra_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aicp.demo.extra.find_spec", lambda name: None if name in {"skimage", "PIL"} else object())
    with pytest.raises(SettingsError, match=r'needs Pillow, scikit-image; install with `pip install "aicp\[demo\]"`'):
        check_extra()


def test_an_installed_extra_passes() -> None:
    check_extra()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("aicp.demo", {"PIL", "numpy", "skimage", "rapidocr", "onnxruntime"}),
        ("aicp.demo.extra", {"PIL", "numpy", "skimage", "rapidocr", "onnxruntime"}),
        ("aicp.demo.agents.label", {"rapidocr", "onnxruntime"}),
        ("aicp.demo.agents.extract", {"skimage"}),
    ],
)
def test_a_process_loads_only_what_its_work_needs(module: str, heavy: set[str]) -> None:
    code = f"import {module}, sys; print(*(name for name in {sorted(heavy)} if name in sys.modules))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert child.stdout.strip() == ""
