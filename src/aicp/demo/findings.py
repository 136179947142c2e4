"""What the demo's agents find in a picture, as values that travel as JSON.

Places are whole pixels of the picture the agents were given: x to the right, y down, from its upper left corner.
"""

from typing import Self

import msgspec

Point = tuple[int, int]
Rgb = tuple[int, int, int]


class Box(msgspec.Struct, frozen=True):
    """An upright rectangle.

    Attributes:
        x: Left edge.
        y: Upper edge.
        width: At least 1.
        height: At least 1.
    """

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def spanning(cls, left: float, top: float, right: float, bottom: float) -> Self:
        """The rectangle between two edges each way, rounded to whole pixels."""
        x, y = round(left), round(top)
        return cls(x, y, max(1, round(right) - x), max(1, round(bottom) - y))

    @property
    def right(self) -> int:
        """First column to the right of it."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below it."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """In pixels."""
        return self.width * self.height

    def scaled(self, factor: float) -> Self:
        """The same place in a picture `factor` times as large."""
        return self.spanning(self.x * factor, self.y * factor, self.right * factor, self.bottom * factor)

    def shared_area(self, other: Self) -> int:
        """Pixels that lie in both."""
        width = min(self.right, other.right) - max(self.x, other.x)
        height = min(self.bottom, other.bottom) - max(self.y, other.y)
        return max(0, width) * max(0, height)


class Face(msgspec.Struct, frozen=True):
    """A face that looks at the camera.

    Attributes:
        box: Where, from the brows to the chin.
        votes: How many windows of the detector agree, in the picture or in its mirror image, the lesser of the two.
    """

    box: Box
    votes: int


class Region(msgspec.Struct, frozen=True):
    """A connected part of the picture that looks alike. What it shows is not known.

    Attributes:
        box: The rectangle around it.
        area_share: Its part of the picture's pixels, 0-1.
        outline: Its outer contour, a closed polygon of at most 120 points; holes are not told.
        hex: Its mean colour, `#rrggbb`.
    """

    box: Box
    area_share: float
    outline: tuple[Point, ...]
    hex: str


class TextLine(msgspec.Struct, frozen=True):
    """A line of text that was read.

    Attributes:
        text: Never empty, on one line.
        confidence: What the reader thinks of it, 0-1.
        box: The upright rectangle around it.
        corners: Its own four corners from the upper left, clockwise: a line on a tilted page is tilted.
    """

    text: str
    confidence: float
    box: Box
    corners: tuple[Point, Point, Point, Point]


class Color(msgspec.Struct, frozen=True):
    """A dominant colour.

    Attributes:
        name: The nearest of some forty plain names.
        hex: `#rrggbb`.
        rgb: Red, green, blue, 0-255.
        share: Part of the picture's pixels that are nearest to it, 0-1; the shares of a palette add up to 1.
    """

    name: str
    hex: str
    rgb: Rgb
    share: float


class EncodedPicture(msgspec.Struct, frozen=True):
    """A picture on its way between agents.

    Attributes:
        png_base64: An RGB PNG of at most 8 MiB before base64.
        width: In pixels.
        height: In pixels.
        sha256: Hexadecimal digest of the PNG's bytes.
    """

    png_base64: str
    width: int
    height: int
    sha256: str


class Original(msgspec.Struct, frozen=True):
    """The picture as it was given, before it was turned upright and made smaller.

    Attributes:
        format: `PNG`, `JPEG`, …
        width: In pixels, as stored.
        height: In pixels, as stored.
        size_bytes: Of the file.
    """

    format: str
    width: int
    height: int
    size_bytes: int


class LoadedPicture(msgspec.Struct, frozen=True):
    """What FETCH hands on.

    Attributes:
        image: The picture for the other agents.
        original: What it was made from.
    """

    image: EncodedPicture
    original: Original


class Findings(msgspec.Struct, frozen=True):
    """What COMBINE is given.

    Attributes:
        source: Where the picture came from, as the user said it.
        image: The picture.
        faces: Found by LABEL.
        regions: Found by LABEL.
        lines: Read by EXTRACT, in reading order.
        colors: Found by ANALYZE.
        original: What FETCH knows of the file, if it is handed on.
    """

    source: str
    image: EncodedPicture
    faces: tuple[Face, ...] = ()
    regions: tuple[Region, ...] = ()
    lines: tuple[TextLine, ...] = ()
    colors: tuple[Color, ...] = ()
    original: Original | None = None


class PictureFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The picture in the report: all but its pixels.

    Attributes:
        source: Where it came from.
        width: In pixels; every box and point of the report refers to this size.
        height: In pixels.
        sha256: Digest of the PNG the agents were given.
        original: The file it was made from.
    """

    source: str
    width: int
    height: int
    sha256: str
    original: Original | None = None


class Report(msgspec.Struct, frozen=True):
    """All that was found.

    Attributes:
        summary: One sentence.
        picture: What was looked at.
        faces: From left to right.
        regions: The largest first.
        text_lines: In reading order.
        colors: The largest share first.
    """

    summary: str
    picture: PictureFacts
    faces: tuple[Face, ...]
    regions: tuple[Region, ...]
    text_lines: tuple[TextLine, ...]
    colors: tuple[Color, ...]
