"""FETCH: a file becomes the picture all others work on. How the bytes come here is its caller's business."""

from typing import Any

import msgspec

from aicp.demo.picture import load_picture


def fetch(data: bytes, name: str) -> dict[str, Any]:
    """Give `{image, original}` of a file.

    Args:
        data: The file, at most `FILE_BYTES_MAX` bytes.
        name: Its URL or path, for the sentence when it cannot be used.

    Raises:
        InvalidPicture: It cannot be used; the subclass says why.
    """
    result: dict[str, Any] = msgspec.to_builtins(load_picture(data, name))
    return result
