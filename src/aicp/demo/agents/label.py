"""LABEL: faces and regions."""

from typing import Any

import msgspec

from aicp.demo.faces import find_faces
from aicp.demo.params import PictureTask, read_params
from aicp.demo.picture import open_picture
from aicp.demo.regions import find_regions


def label(params: dict[str, Any]) -> dict[str, Any]:
    """Give `{faces, regions}` of `{image}`.

    Raises:
        InvalidInput: The params or the picture cannot be used.
    """
    image = open_picture(read_params(params, PictureTask).image)
    return {
        "faces": msgspec.to_builtins(find_faces(image)),
        "regions": msgspec.to_builtins(find_regions(image)),
    }
