# mypy: untyped-calls-exclude=skimage
"""The picture the demo looks at when it is given none."""

from PIL import Image
from skimage import data

from aicp.demo.picture import encode_png

_MARGIN = 32
# The page is photographed small; at twice its size a reader made for documents finds every line.
_PAGE_SCALE = 2
_BACKDROP = (36, 52, 71)


def make_sample() -> bytes:
    """A PNG of 1376x576: an astronaut beside a page of a manual.

    Both pictures ship inside scikit-image; nothing is downloaded.
    """
    portrait = Image.fromarray(data.astronaut())
    page = Image.fromarray(data.page()).convert("RGB")
    page = page.resize((page.width * _PAGE_SCALE, page.height * _PAGE_SCALE), Image.Resampling.LANCZOS)
    return encode_png(_side_by_side(portrait, page))


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    height = max(left.height, right.height) + 2 * _MARGIN
    canvas = Image.new("RGB", (left.width + right.width + 3 * _MARGIN, height), _BACKDROP)
    canvas.paste(left, (_MARGIN, (height - left.height) // 2))
    canvas.paste(right, (left.width + 2 * _MARGIN, (height - right.height) // 2))
    return canvas
