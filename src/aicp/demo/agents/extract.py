"""EXTRACT: the text."""

from typing import Any

import msgspec

from aicp.demo.params import PictureTask, read_params
from aicp.demo.picture import open_picture
from aicp.demo.text import read_lines


def extract(params: dict[str, Any]) -> dict[str, Any]:
    """Give `{lines}` of `{image}`.

    Raises:
        InvalidInput: The params or the picture cannot be used.
    """
    image = open_picture(read_params(params, PictureTask).image)
    return {"lines": msgspec.to_builtins(read_lines(image))}
