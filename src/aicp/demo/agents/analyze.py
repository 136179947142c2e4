"""ANALYZE: the dominant colours."""

from typing import Any

import msgspec

from aicp.demo.colors import find_colors
from aicp.demo.params import PictureTask, read_params
from aicp.demo.picture import open_picture


def analyze(params: dict[str, Any]) -> dict[str, Any]:
    """Give `{colors}` of `{image}`.

    Raises:
        InvalidInput: The params or the picture cannot be used.
    """
    image = open_picture(read_params(params, PictureTask).image)
    return {"colors": msgspec.to_builtins(find_colors(image))}
