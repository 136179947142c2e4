"""Smooth lines and letters on pictures, with the font that ships inside Pillow."""

import unicodedata
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

PAPER = "#0f141b"
CARD = "#18202b"
INK = "#eef2f7"
FAINT = "#93a1b3"

CHIP_HEIGHT = 22

# Everything is drawn this many times larger and scaled down: Pillow does not smooth edges.
_FINE = 2
_CHIP_SIZE = 14
# What the font knows beside ASCII, and stand-ins for dashes, single quotes, sharp s, arrow, times and bullet.
_KNOWN = frozenset("\u201c\u201d·©°")
_STAND_INS = str.maketrans(
    {0x2013: "-", 0x2014: "-", 0x2018: "'", 0x2019: "'", 0xDF: "ss", 0x2192: ">", 0xD7: "x", 0x2022: "·"}
)

_Spot = tuple[float, float]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Pen:
    """Draws on a sheet of its own.

    Coordinates, widths and sizes are pixels of the finished sheet; colours may carry an alpha (`#rrggbbaa`), which
    replaces what is below instead of mixing with it.

    Args:
        size: Width and height of the sheet.
        ground: Its colour; clear by default, to be laid over a picture.
    """

    def __init__(self, size: tuple[int, int], ground: str = "#00000000") -> None:
        self._size = size
        self._sheet = Image.new("RGBA", (size[0] * _FINE, size[1] * _FINE), ground)
        self._draw = ImageDraw.Draw(self._sheet)

    def finished(self) -> Image.Image:
        """The sheet, RGBA, at its own size."""
        return self._sheet.resize(self._size, Image.Resampling.BOX)

    def path(self, spots: Sequence[_Spot], ink: str, width: float) -> None:
        """A line through all spots."""
        self._draw.line(self._placed(spots), fill=ink, width=round(width * _FINE), joint="curve")

    def area(self, spots: Sequence[_Spot], ink: str) -> None:
        """A filled polygon."""
        self._draw.polygon(self._placed(spots), fill=ink)

    def card(self, left: float, top: float, width: float, height: float, ink: str, *, radius: float = 6) -> None:
        """A filled rectangle with round corners."""
        self._draw.rounded_rectangle(self._edges(left, top, width, height), radius * _FINE, fill=ink)

    def frame(self, left: float, top: float, width: float, height: float, ink: str, *, line: float = 4) -> None:
        """An empty rectangle with round corners; its line lies inside."""
        edges = self._edges(left, top, width, height)
        self._draw.rounded_rectangle(edges, 8 * _FINE, outline=ink, width=round(line * _FINE))

    def chip(self, left: float, top: float, label: str, ink: str) -> None:
        """A small label, `CHIP_HEIGHT` high, moved back onto the sheet where it would leave it."""
        width = chip_width(label)
        left = max(0.0, min(left, self._size[0] - width))
        top = max(0.0, min(top, self._size[1] - CHIP_HEIGHT))
        self.card(left, top, width, CHIP_HEIGHT, ink)
        self.write(left + width / 2, top + CHIP_HEIGHT / 2, label, _CHIP_SIZE, PAPER, anchor="mm")

    def write(self, x: float, y: float, text: str, size: int, ink: str, *, anchor: str = "ls") -> None:
        """One row of text; `anchor` says which of its points is at x, y (as in Pillow: `ls` is left, base line)."""
        self._draw.text((x * _FINE, y * _FINE), text, fill=ink, font=_font(size * _FINE), anchor=anchor)

    def _edges(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        right, bottom = (left + max(1.0, width)) * _FINE - 1, (top + max(1.0, height)) * _FINE - 1
        return left * _FINE, top * _FINE, right, bottom

    @staticmethod
    def _placed(spots: Sequence[_Spot]) -> list[_Spot]:
        return [(x * _FINE, y * _FINE) for x, y in spots]


def chip_width(label: str) -> float:
    """How wide a chip with this label is."""
    return max(CHIP_HEIGHT, text_width(label, _CHIP_SIZE) + 12)


def text_width(text: str, size: int) -> float:
    """How wide a row of text is, in pixels."""
    return _font(size * _FINE).getlength(text) / _FINE


def legible(text: str) -> str:
    """The text in letters the font has: accents are dropped, other scripts become question marks."""
    bare = unicodedata.normalize("NFKD", text.translate(_STAND_INS))
    return "".join(_letter(sign) for sign in bare if not unicodedata.combining(sign))


def shortened(text: str, size: int, width: float) -> str:
    """The text, or as much of its beginning as fits into `width` pixels, with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    kept = _fitting(text, size, width - text_width("…", size))
    return f"{text[:kept].rstrip()}…"


def folded(text: str, size: int, width: float, rows_max: int) -> list[str]:
    """The text in at most `rows_max` rows of at most `width` pixels, broken at spaces; the last one is shortened."""
    rows: list[str] = []
    while text and len(rows) < rows_max - 1 and text_width(text, size) > width:
        kept = _fitting(text, size, width)
        # A word longer than the row is broken where the row ends.
        cut = text.rfind(" ", 0, kept + 1)
        cut = cut if cut > 0 else max(1, kept)
        rows.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*rows, shortened(text, size, width)]


def _fitting(text: str, size: int, width: float) -> int:
    """How many letters fit, by halving."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle], size) <= width else (low, middle - 1)
    return low


def _letter(sign: str) -> str:
    if sign in _KNOWN or (sign.isascii() and sign.isprintable()):
        return sign
    return "?"


@cache
def _font(size: int) -> _Font:
    return ImageFont.load_default(size=size)
