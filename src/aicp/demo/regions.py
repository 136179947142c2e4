# mypy: untyped-calls-exclude=skimage
"""Large parts of a picture that look alike. They get no names: what they show is not known here.

Source: Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import approximate_polygon, find_contours, regionprops
from skimage.segmentation import felzenszwalb

from aicp.demo.findings import Box, Point, Region

REGIONS_MAX = 8
AREA_SHARE_MIN = 0.02
OUTLINE_POINTS_MAX = 120

_EDGE_MAX = 400
# A larger scale makes larger segments; at 500 a printed page stays whole, and a helmet is not torn apart.
_SCALE = 500
_SIGMA = 0.8

_Mask = NDArray[np.bool_]


def find_regions(image: Image.Image) -> list[Region]:
    """The largest regions first, at most `REGIONS_MAX`, each at least 2 % of the picture. Costs about 0.2 s."""
    small = image.convert("RGB")
    small.thumbnail((_EDGE_MAX, _EDGE_MAX), Image.Resampling.LANCZOS)
    pixels = np.asarray(small)
    # Segments are numbered from 0, and regionprops takes 0 for background.
    labels = _segment(pixels) + 1
    largest = sorted(regionprops(labels), key=lambda segment: -segment.area)[:REGIONS_MAX]
    masks = [labels == segment.label for segment in largest if segment.area >= AREA_SHARE_MIN * labels.size]
    return [_describe(mask, pixels, image.width / small.width) for mask in masks]


def _segment(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    smallest = max(1, round(AREA_SHARE_MIN / 2 * pixels.shape[0] * pixels.shape[1]))
    segments: NDArray[np.int64] = felzenszwalb(pixels, scale=_SCALE, sigma=_SIGMA, min_size=smallest)
    return segments


def _describe(mask: _Mask, pixels: NDArray[np.uint8], factor: float) -> Region:
    rows, columns = np.nonzero(mask)
    red, green, blue = (round(float(value)) for value in pixels[mask].mean(axis=0))
    return Region(
        box=Box.spanning(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1).scaled(factor),
        area_share=round(float(mask.mean()), 4),
        outline=_outline(mask, factor),
        hex=f"#{red:02x}{green:02x}{blue:02x}",
    )


def _outline(mask: _Mask, factor: float) -> tuple[Point, ...]:
    """The longest contour, simplified until it is short enough to travel."""
    # The frame of zeros closes contours that end at the picture's edge; it shifts them by one pixel.
    contour = max(find_contours(np.pad(mask, 1).astype(float), 0.5), key=len)
    tolerance = 1.5
    polygon = approximate_polygon(contour, tolerance)
    while len(polygon) > OUTLINE_POINTS_MAX:
        tolerance *= 1.5
        polygon = approximate_polygon(contour, tolerance)
    # Contours run through pixel centres: half a pixel back to the corner they are counted from.
    return tuple((round((column - 0.5) * factor), round((row - 0.5) * factor)) for row, column in polygon)
