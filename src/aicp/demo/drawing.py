"""The sheet a person looks at: the picture with what was found on it, the palette below, the rest beside."""

from PIL import Image

from aicp.demo.findings import Box, Report
from aicp.demo.overlay import annotate
from aicp.demo.panel import PALETTE_HEIGHT, Panel, draw_palette
from aicp.demo.pen import FAINT, INK, PAPER, Pen, legible, shortened

_MARGIN = 36
_GAP = 28
_HEADER_HEIGHT = 80
_PANEL_WIDTH = 570
_BODY_HEIGHT_MIN = 640
_PICTURE_MAX = (1280, 960)
_PICTURE_MIN = (860, 560)
_MAGNIFY_MAX = 4.0


def draw_report(image: Image.Image, report: Report) -> Image.Image:
    """Draw the report's findings on and beside the picture they were found in.

    Args:
        image: The picture; boxes refer to its pixels.
        report: What was found in it.

    Returns:
        A sheet of at most about 1950x1270 pixels.
    """
    stage = annotate(image, report, _fitting_scale(image.size))
    # Under a narrow picture the palette could not be read.
    width = max(stage.width, _PICTURE_MIN[0])
    height = max(stage.height + _GAP + PALETTE_HEIGHT, _BODY_HEIGHT_MIN)
    body = Box(_MARGIN, _MARGIN + _HEADER_HEIGHT, width + _GAP + _PANEL_WIDTH, height)
    room = height - _GAP - PALETTE_HEIGHT
    pen = Pen((body.right + _MARGIN, body.bottom + _MARGIN), PAPER)
    _draw_header(pen, report, body.width)
    draw_palette(pen, report.colors, Box(body.x, body.y + room + _GAP, width, PALETTE_HEIGHT))
    Panel(pen, Box(body.right - _PANEL_WIDTH, body.y, _PANEL_WIDTH, height)).tell(report)
    sheet = pen.finished().convert("RGB")
    sheet.paste(stage, (body.x + (width - stage.width) // 2, body.y + (room - stage.height) // 2))
    return sheet


def _fitting_scale(size: tuple[int, int]) -> float:
    fits = min(_PICTURE_MAX[0] / size[0], _PICTURE_MAX[1] / size[1])
    fills = min(_PICTURE_MIN[0] / size[0], _PICTURE_MIN[1] / size[1])
    return min(fits, max(1.0, fills), _MAGNIFY_MAX)


def _draw_header(pen: Pen, report: Report, width: int) -> None:
    picture = report.picture
    pen.write(_MARGIN, _MARGIN + 28, "What the agents found", 32, INK)
    told = legible(f"{report.summary}  {picture.width} x {picture.height} pixels, {picture.source}")
    pen.write(_MARGIN, _MARGIN + 60, shortened(told, 18, width), 18, FAINT)
