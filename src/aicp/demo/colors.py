# mypy: untyped-calls-exclude=skimage
"""The colours a picture is made of, as the eye groups them."""

from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab

from aicp.demo.findings import Color, Rgb

COLORS_MAX = 7
SHARE_MIN = 0.01

_EDGE_MAX = 200
_FINE_COLORS = 32
# Below this distance in Lab two colours read as one.
_SAME_DISTANCE = 12.0

# Plain names for what people call a colour, and where they stand, some at several places; the nearest is taken.
_NAMES: tuple[tuple[str, Rgb], ...] = (
    ("white", (255, 255, 255)),
    ("off-white", (244, 240, 230)),
    ("silver", (222, 222, 222)),
    ("light gray", (192, 192, 192)),
    ("gray", (148, 148, 148)),
    ("gray", (128, 128, 128)),
    ("dark gray", (96, 96, 96)),
    ("charcoal", (56, 58, 62)),
    ("black", (10, 10, 10)),
    ("black", (0, 0, 0)),
    ("red", (210, 30, 36)),
    ("red", (255, 0, 0)),
    ("red", (225, 40, 40)),
    ("dark red", (128, 24, 24)),
    ("brick red", (172, 50, 30)),
    ("pink", (244, 166, 190)),
    ("rose", (200, 110, 120)),
    ("coral", (244, 120, 96)),
    ("orange", (242, 130, 34)),
    ("orange", (255, 165, 0)),
    ("burnt orange", (206, 92, 54)),
    ("peach", (246, 202, 166)),
    ("brown", (122, 76, 42)),
    ("light brown", (168, 116, 78)),
    ("reddish brown", (110, 48, 28)),
    ("dark brown", (52, 32, 20)),
    ("taupe", (138, 116, 102)),
    ("tan", (204, 164, 122)),
    ("beige", (228, 210, 184)),
    ("cream", (250, 238, 208)),
    ("gold", (206, 158, 46)),
    ("yellow", (244, 214, 32)),
    ("yellow", (255, 255, 0)),
    ("olive", (116, 116, 36)),
    ("light green", (152, 214, 142)),
    ("green", (46, 142, 60)),
    ("green", (0, 128, 0)),
    ("dark green", (24, 72, 40)),
    ("bright green", (60, 208, 60)),
    ("bright green", (0, 255, 0)),
    ("lime", (160, 216, 40)),
    ("teal", (28, 126, 124)),
    ("teal", (0, 128, 128)),
    ("turquoise", (64, 204, 200)),
    ("turquoise", (0, 255, 255)),
    ("light blue", (166, 206, 236)),
    ("sky blue", (104, 176, 226)),
    ("blue", (36, 92, 204)),
    ("blue", (0, 0, 255)),
    ("dark blue", (24, 40, 110)),
    ("dark blue", (0, 0, 128)),
    ("navy", (28, 40, 68)),
    ("slate", (74, 90, 116)),
    ("dark slate", (38, 52, 70)),
    ("lavender", (182, 174, 220)),
    ("purple", (108, 62, 156)),
    ("purple", (128, 0, 128)),
    ("purple", (75, 0, 130)),
    ("dark purple", (58, 28, 84)),
    ("magenta", (200, 48, 160)),
    ("magenta", (255, 0, 255)),
)

_Lab = NDArray[np.float64]


def find_colors(image: Image.Image) -> list[Color]:
    """The dominant colours, the largest share first, at most `COLORS_MAX`. The same picture gives the same answer."""
    small = image.convert("RGB")
    # Pixels are picked, not averaged: averages at edges are colours that nobody sees.
    small.thumbnail((_EDGE_MAX, _EDGE_MAX), Image.Resampling.NEAREST)
    labs, shares = _fine_palette(small)
    labs, shares = _coarsened(labs, shares)
    order = np.argsort(-shares, kind="stable")
    return [_color(labs[place], float(shares[place])) for place in order]


def name_color(rgb: Rgb) -> str:
    """What people would call it: the nearest of the names known here, by CIEDE2000."""
    names, labs = _named()
    return names[int(np.argmin(deltaE_ciede2000(labs, _lab(rgb)[None])))]


def _fine_palette(image: Image.Image) -> tuple[_Lab, NDArray[np.float64]]:
    quantized = image.quantize(_FINE_COLORS, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    counts = np.bincount(np.asarray(quantized).ravel(), minlength=_FINE_COLORS).astype(np.float64)
    palette = np.array(quantized.getpalette(), dtype=np.uint8).reshape(-1, 3)
    used = np.flatnonzero(counts)
    return rgb2lab(palette[used][None])[0], counts[used] / counts.sum()


def _coarsened(labs: _Lab, shares: NDArray[np.float64]) -> tuple[_Lab, NDArray[np.float64]]:
    """Merge the two that hurt least (Ward's method), until few, distinct and sizeable colours are left."""
    while len(shares) > 1:
        one, other = min(combinations(range(len(shares)), 2), key=lambda pair: _loss(labs, shares, *pair))
        distinct = np.linalg.norm(labs[one] - labs[other]) >= _SAME_DISTANCE
        if len(shares) <= COLORS_MAX and distinct and shares.min() >= SHARE_MIN:
            break
        joint = shares[one] + shares[other]
        labs[one] = (labs[one] * shares[one] + labs[other] * shares[other]) / joint
        shares[one] = joint
        labs, shares = np.delete(labs, other, axis=0), np.delete(shares, other)
    return labs, shares


def _loss(labs: _Lab, shares: NDArray[np.float64], one: int, other: int) -> float:
    gap = labs[one] - labs[other]
    return float(gap @ gap * shares[one] * shares[other] / (shares[one] + shares[other]))


def _color(lab: _Lab, share: float) -> Color:
    red, green, blue = (round(float(part) * 255) for part in lab2rgb(lab[None, None])[0, 0])
    return Color(
        name_color((red, green, blue)), f"#{red:02x}{green:02x}{blue:02x}", (red, green, blue), round(share, 4)
    )


def _lab(rgb: Rgb) -> _Lab:
    lab: _Lab = rgb2lab(np.array([[rgb]], dtype=np.uint8))[0, 0]
    return lab


@cache
def _named() -> tuple[tuple[str, ...], _Lab]:
    return tuple(name for name, _ in _NAMES), np.array([_lab(rgb) for _, rgb in _NAMES])
