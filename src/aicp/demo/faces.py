# mypy: untyped-calls-exclude=skimage
"""Faces that look at the camera, by the trained cascade inside scikit-image.

The cascade says yes to many a window that holds no face. A face convinces it again and again, at neighbouring places
and sizes, and does so in its mirror image, too; foliage, cells and cat's fur do not. So windows vote: a face is where
enough of them agree, both ways round.

Source: Liao et al., "Learning Multi-scale Block Local Binary Patterns for Face Recognition", ICB 2007 (the detector).
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from skimage import data
from skimage.feature import Cascade

from aicp.demo.findings import Box, Face

# Measured on the 26 PNG and JPEG pictures inside scikit-image, each at up to 11 sizes from 360 to 860 pixels: the
# astronaut's face gets 16 to 23 votes, nothing else gets 12. Of 100 cut-out faces 86 get them, of 100 others none.
VOTES_MIN = 12
FACES_MAX = 64

_EDGE_MAX = 800
_WINDOW_SHARE_MIN = 0.0375
# The cascade was trained on windows of 24 pixels and knows nothing smaller.
_WINDOW_MIN = 24
_SCALE_STEP = 1.1
_ALIKE_OVERLAP = 0.35
_SAME_FACE_SHARE = 0.5

_Windows = NDArray[np.int64]


def find_faces(image: Image.Image) -> list[Face]:
    """Look for faces at least 4 % of the longer edge wide; from left to right, at most `FACES_MAX`.

    Costs about a second for a picture of 800 pixels; a larger one is made that small first.
    """
    small = image.convert("L")
    small.thumbnail((_EDGE_MAX, _EDGE_MAX), Image.Resampling.LANCZOS)
    found = [Face(face.box.scaled(image.width / small.width), face.votes) for face in _find_in(small)]
    return sorted(_without_doubles(found), key=lambda face: (face.box.x, face.box.y))


def _find_in(grey: Image.Image) -> list[Face]:
    smallest = max(_WINDOW_MIN, round(max(grey.size) * _WINDOW_SHARE_MIN))
    agreed = _agreement(_windows(grey, smallest, min(grey.size)))
    strongest = sorted(agreed, key=lambda face: -face.votes)[:FACES_MAX]
    seen_twice = (Face(face.box, min(face.votes, _mirror_votes(grey, face.box))) for face in strongest)
    return [face for face in seen_twice if face.votes >= VOTES_MIN]


def _windows(grey: Image.Image, smallest: int, largest: int) -> _Windows:
    """Every window the cascade says yes to, as rows of left, top, right, bottom."""
    if largest < smallest:
        return np.empty((0, 4), dtype=np.int64)
    hits = _cascade().detect_multi_scale(
        img=np.asarray(grey.convert("RGB")),
        scale_factor=_SCALE_STEP,
        step_ratio=1,
        min_size=(smallest, smallest),
        max_size=(largest, largest),
        # One neighbour and an overlap that cannot be reached: nothing is merged or dropped before it has voted.
        min_neighbor_number=1,
        intersection_score_threshold=1.01,
    )
    rows = [(hit["c"], hit["r"], hit["c"] + hit["width"], hit["r"] + hit["height"]) for hit in hits]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def _agreement(windows: _Windows) -> list[Face]:
    """Gather windows around their common middle; those with too few votes are no faces and are left out."""
    members: list[list[_Windows]] = []
    means = np.empty((0, 4))
    for window in windows[np.argsort(windows[:, 0] - windows[:, 2], kind="stable")]:
        overlaps = _overlaps(means, window)
        nearest = int(np.argmax(overlaps)) if len(overlaps) else -1
        if nearest >= 0 and overlaps[nearest] > _ALIKE_OVERLAP:
            members[nearest].append(window)
            means[nearest] = np.mean(members[nearest], axis=0)
        else:
            members.append([window])
            means = np.vstack([means, window])
    return [
        Face(Box.spanning(*mean), len(group))
        for mean, group in zip(means, members, strict=True)
        if len(group) >= VOTES_MIN
    ]


def _mirror_votes(grey: Image.Image, box: Box) -> int:
    """How many windows find the same face when its surroundings are seen in a mirror."""
    pad = box.width // 2
    left, top = max(0, box.x - pad), max(0, box.y - pad)
    crop = grey.crop((left, top, min(grey.width, box.right + pad), min(grey.height, box.bottom + pad)))
    smallest = max(_WINDOW_MIN, round(box.width * 0.7))
    mirrored = _windows(ImageOps.mirror(crop), smallest, min(round(box.width * 1.4), *crop.size))
    back = np.column_stack(
        [
            crop.width - mirrored[:, 2] + left,
            mirrored[:, 1] + top,
            crop.width - mirrored[:, 0] + left,
            mirrored[:, 3] + top,
        ]
    )
    target = np.array([box.x, box.y, box.right, box.bottom])
    return int(np.count_nonzero(_overlaps(back, target) > _ALIKE_OVERLAP))


def _overlaps(rectangles: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Shared area over joint area, of each row with the other, 0-1."""
    shared = np.clip(np.minimum(rectangles[:, 2:], other[2:]) - np.maximum(rectangles[:, :2], other[:2]), 0, None).prod(
        axis=1
    )
    areas = (rectangles[:, 2:] - rectangles[:, :2]).prod(axis=1)
    joint: NDArray[np.float64] = shared / (areas + (other[2:] - other[:2]).prod() - shared)
    return joint


def _without_doubles(faces: list[Face]) -> list[Face]:
    """Of faces that lie largely in one another the one with most votes."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.votes, -face.box.area)):
        if not any(_is_same(face.box, other.box) for other in kept):
            kept.append(face)
    return kept


def _is_same(one: Box, other: Box) -> bool:
    return one.shared_area(other) > _SAME_FACE_SHARE * min(one.area, other.area)


@cache
def _cascade() -> Cascade:
    return Cascade(data.lbp_frontal_face_cascade_filename())
