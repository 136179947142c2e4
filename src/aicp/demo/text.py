"""The text in a picture, by PP-OCR models that ship inside rapidocr; nothing is downloaded."""

import threading
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rapidocr import RapidOCR

from aicp.demo.findings import Box, Point, TextLine

CONFIDENCE_MIN = 0.6
# A single letter is soon seen in anything.
SINGLE_CONFIDENCE_MIN = 0.9
LINES_MAX = 300

# A second thread spins while it waits: on a busy machine it was seen to cost half as much processor time again.
_THREADS = 1
# The detector scales the shorter edge up to 736 pixels. A strip of 3x2000 would grow to hundreds of megapixels (18 GB
# were seen), so pictures are padded to at most 1:4 before.
_ASPECT_MAX = 4
_EDGE_MIN = 64
_SAME_ROW_SHARE = 0.5

# The engine keeps the size of the picture it works on in itself: one picture at a time.
_reading = threading.Lock()


def warm_up() -> None:
    """Load the models, about 2 s, so that the first task does not wait for it."""
    read_lines(Image.new("RGB", (_EDGE_MIN, _EDGE_MIN), "white"))


def read_lines(image: Image.Image) -> list[TextLine]:
    """Read a picture; in reading order, at most `LINES_MAX` lines.

    Costs about a second for a page of ten lines. Calls from several threads take turns.
    """
    padded = _padded(image.convert("RGB"))
    # The models were trained on blue, green, red.
    pixels = np.ascontiguousarray(np.asarray(padded)[:, :, ::-1])
    with _reading:
        output = _engine()(pixels)
    lines = _lines(output, image.size)
    return _in_reading_order(lines)[:LINES_MAX]


def _padded(image: Image.Image) -> Image.Image:
    """On white, right and below only, so that places stay what they are."""
    shortest = max(_EDGE_MIN, -(-max(image.size) // _ASPECT_MAX))
    canvas = Image.new("RGB", (max(image.width, shortest), max(image.height, shortest)), "white")
    canvas.paste(image)
    return canvas


def _lines(output: Any, size: tuple[int, int]) -> list[TextLine]:
    if output.boxes is None:
        return []
    found = (
        _line(text, score, corners, size)
        for text, score, corners in zip(output.txts, output.scores, output.boxes, strict=True)
    )
    return [line for line in found if line.text and line.confidence >= _confidence_min(line.text)]


def _confidence_min(text: str) -> float:
    return SINGLE_CONFIDENCE_MIN if len(text) == 1 else CONFIDENCE_MIN


def _line(text: str, score: float, corners: NDArray[Any], size: tuple[int, int]) -> TextLine:
    inside = np.clip(np.rint(corners).astype(int), 0, size)
    box = Box.spanning(*inside.min(axis=0).tolist(), *inside.max(axis=0).tolist())
    first, second, third, fourth = (_point(corner) for corner in inside)
    return TextLine(" ".join(text.split()), round(float(score), 4), box, (first, second, third, fourth))


def _point(corner: NDArray[Any]) -> Point:
    return int(corner[0]), int(corner[1])


def _in_reading_order(lines: list[TextLine]) -> list[TextLine]:
    """Rows from top to bottom, each from left to right; lines that overlap by half their height share a row."""
    rows: list[list[TextLine]] = []
    for line in sorted(lines, key=lambda line: line.box.y + line.box.height / 2):
        if rows and _share_a_row(rows[-1][-1].box, line.box):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box.x)]


def _share_a_row(one: Box, other: Box) -> bool:
    overlap = min(one.bottom, other.bottom) - max(one.y, other.y)
    return overlap >= _SAME_ROW_SHARE * min(one.height, other.height)


@cache
def _engine() -> RapidOCR:
    return RapidOCR(
        params={
            "Global.log_level": "error",
            # The classifier for lines that stand on their heads turned good lines of tilted pages.
            "Global.use_cls": False,
            "Det.max_candidates": LINES_MAX,
            "EngineConfig.onnxruntime.intra_op_num_threads": _THREADS,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
