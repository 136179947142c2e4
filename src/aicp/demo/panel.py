"""What was found, told beside the picture, and the palette below it."""

from collections.abc import Sequence

from aicp.demo.findings import Box, Color, Face, Region, Report, TextLine
from aicp.demo.overlay import FACE_INK, TEXT_INK, region_ink, region_letter
from aicp.demo.pen import CARD, CHIP_HEIGHT, FAINT, INK, Pen, folded, legible, shortened

PALETTE_HEIGHT = 124

_PAD = 24
_ROW = 31
_HEADING = 52
_BODY = 17
_INDENT = 36
_CONFIDENCE_WIDTH = 48
# More lines than this get one row each, shortened where they are longer.
_FOLDED_LINES_MAX = 12
_FACES_SHOWN_MAX = 4
_REGION_COLUMNS = 2
_STRIP_HEIGHT = 40


class Panel:
    """A card that is written from top to bottom.

    Args:
        pen: What it is drawn with.
        place: Where on the pen's sheet.
    """

    def __init__(self, pen: Pen, place: Box) -> None:
        self._pen = pen
        self._left = place.x + _PAD
        self._width = place.width - 2 * _PAD
        self._y = place.y + _PAD // 2
        self._bottom = place.bottom - _PAD // 2
        pen.card(place.x, place.y, place.width, place.height, CARD, radius=14)

    def tell(self, report: Report) -> None:
        """Text takes the room that faces and regions leave."""
        self._tell_faces(report.faces)
        reserved = _HEADING + _ROW * -(-len(report.regions) // _REGION_COLUMNS)
        self._tell_text(report.text_lines, self._bottom - reserved)
        self._tell_regions(report.regions)

    def _tell_faces(self, faces: Sequence[Face]) -> None:
        self._head("Faces", len(faces), "face")
        for number, face in enumerate(faces[:_FACES_SHOWN_MAX], start=1):
            box = face.box
            self._item(str(number), FACE_INK, [f"{box.width} x {box.height} pixels at {box.x}, {box.y}"])
        if len(faces) > _FACES_SHOWN_MAX:
            self._note(f"and {len(faces) - _FACES_SHOWN_MAX} more")

    def _tell_text(self, lines: Sequence[TextLine], bottom: int) -> None:
        self._head("Text", len(lines), "line")
        width = self._width - _INDENT - _CONFIDENCE_WIDTH
        rows_max = 2 if len(lines) <= _FOLDED_LINES_MAX else 1
        for number, line in enumerate(lines, start=1):
            rows = folded(legible(line.text), _BODY, width, rows_max)
            left_over = len(lines) - number
            # The last row that fits belongs to the count of what does not.
            if self._y + _ROW * (len(rows) + bool(left_over)) > bottom:
                self._note(f"and {left_over + 1} more")
                return
            self._write_right(self._y, f"{line.confidence:.0%}", 15)
            self._item(str(number), TEXT_INK, rows)

    def _tell_regions(self, regions: Sequence[Region]) -> None:
        self._head("Regions", len(regions), "region")
        top, width = self._y, self._width // _REGION_COLUMNS
        for place, region in enumerate(regions):
            left = self._left + place % _REGION_COLUMNS * width
            self._y = top + place // _REGION_COLUMNS * _ROW
            self._pen.chip(left, self._y, region_letter(place), region_ink(place))
            self._pen.card(left + 33, self._y, 24, CHIP_HEIGHT, INK)
            self._pen.card(left + 34, self._y + 1, 22, CHIP_HEIGHT - 2, region.hex, radius=5)
            self._write(left + 68, f"{region.area_share:.1%} of the picture", INK)

    def _head(self, title: str, count: int, unit: str) -> None:
        self._pen.write(self._left, self._y + 34, title, 21, INK)
        told = f"{count} {unit}{'' if count == 1 else 's'}" if count else "none found"
        self._write_right(self._y + 17, told, _BODY)
        self._y += _HEADING

    def _item(self, chip: str, ink: str, rows: Sequence[str]) -> None:
        self._pen.chip(self._left, self._y, chip, ink)
        for row in rows:
            self._write(self._left + _INDENT, row, INK)
            self._y += _ROW

    def _note(self, text: str) -> None:
        self._write(self._left + _INDENT, text, FAINT)
        self._y += _ROW

    def _write(self, left: float, text: str, ink: str) -> None:
        self._pen.write(left, self._y + 17, text, _BODY, ink)

    def _write_right(self, top: float, text: str, size: int) -> None:
        self._pen.write(self._left + self._width, top + 17, text, size, FAINT, anchor="rs")


def draw_palette(pen: Pen, colors: Sequence[Color], place: Box) -> None:
    """A strip parted as the picture is, and under it each colour by name, share and hex."""
    told = 0.0
    for number, color in enumerate(colors):
        # Each colour runs to the strip's end, and the next one covers what is its own: no gaps from rounding.
        start = place.width * min(1.0, told)
        pen.card(place.x + start, place.y, place.width - start, _STRIP_HEIGHT, color.hex, radius=0)
        told += color.share
        width = place.width // len(colors)
        _draw_legend(pen, color, place.x + number * width, place.y + _STRIP_HEIGHT + 18, width)


def _draw_legend(pen: Pen, color: Color, left: int, top: int, width: int) -> None:
    pen.card(left, top, 26, CHIP_HEIGHT, INK)
    pen.card(left + 1, top + 1, 24, CHIP_HEIGHT - 2, color.hex, radius=5)
    pen.write(left + 36, top + 11, f"{color.share:.1%}", 16, INK, anchor="lm")
    pen.write(left, top + 36, shortened(color.name, 16, width - 8), 16, INK, anchor="lm")
    pen.write(left, top + 58, color.hex, 16, FAINT, anchor="lm")
