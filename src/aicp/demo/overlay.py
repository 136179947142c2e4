"""What was found, drawn on the picture where it was found."""

from collections.abc import Sequence

from PIL import Image

from aicp.demo.findings import Face, Point, Region, Report, TextLine
from aicp.demo.pen import CHIP_HEIGHT, Pen, chip_width

FACE_INK = "#ffc53d"
TEXT_INK = "#19e0c6"
REGION_INKS = ("#ff6f91", "#7fb0ff", "#c792ff", "#6fe07c", "#ff9d4d", "#4fd2ff", "#ff86dd", "#e3ea5a")

_SHADE = "#00000080"


def region_letter(place: int) -> str:
    """A for the first region of the report, B for the second."""
    return chr(ord("A") + place)


def region_ink(place: int) -> str:
    """The colour the region at this place in the report is drawn in."""
    return REGION_INKS[place % len(REGION_INKS)]


def annotate(image: Image.Image, report: Report, scale: float) -> Image.Image:
    """The picture `scale` times as large, with regions outlined and lettered, lines and faces boxed and numbered."""
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    overlay = _Overlay(size, scale)
    overlay.mark_regions(report.regions)
    overlay.mark_lines(report.text_lines)
    overlay.mark_faces(report.faces)
    ground = image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    return Image.alpha_composite(ground, overlay.pen.finished()).convert("RGB")


class _Overlay:
    """A clear sheet over the picture; takes the picture's coordinates."""

    def __init__(self, size: tuple[int, int], scale: float) -> None:
        self.pen = Pen(size)
        self._scale = scale

    def mark_regions(self, regions: Sequence[Region]) -> None:
        """All contours first: no letter is crossed by one."""
        for place, region in enumerate(regions):
            contour = self._placed(region.outline)
            self.pen.path(contour, _SHADE, 4)
            self.pen.path(contour, region_ink(place), 2)
        for place, region in enumerate(regions):
            # A letter at the corner hides less of what it names than one in the middle.
            x, y = min(self._placed(region.outline), key=sum)
            self.pen.chip(x - CHIP_HEIGHT / 2, y - CHIP_HEIGHT / 2, region_letter(place), region_ink(place))

    def mark_lines(self, lines: Sequence[TextLine]) -> None:
        """Each in its own four corners, its number before it, or behind it where there is no room."""
        for number, line in enumerate(lines, start=1):
            corners = self._placed(line.corners)
            self.pen.path([*corners, *corners[:2]], TEXT_INK, 2)
            before = corners[0][0] - chip_width(str(number)) - 3
            left, start, end = (before, 0, 3) if before >= 0 else (corners[1][0] + 3, 1, 2)
            middle = (corners[start][1] + corners[end][1]) / 2
            self.pen.chip(left, middle - CHIP_HEIGHT / 2, str(number), TEXT_INK)

    def mark_faces(self, faces: Sequence[Face]) -> None:
        """Each in a box, with its label below."""
        for number, face in enumerate(faces, start=1):
            (x, y), (right, bottom) = self._placed([(face.box.x, face.box.y), (face.box.right, face.box.bottom)])
            width, height = right - x, bottom - y
            self.pen.frame(x - 1, y - 1, width + 2, height + 2, _SHADE, line=6)
            self.pen.frame(x, y, width, height, FACE_INK)
            self.pen.chip(x, bottom + 4, f"face {number}", FACE_INK)

    def _placed(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        return [(x * self._scale, y * self._scale) for x, y in points]
