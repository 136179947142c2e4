"""Params of the demo's capabilities: JSON becomes values, or one clear sentence."""

from typing import Any, TypeVar

import msgspec

from aicp.demo.findings import EncodedPicture
from aicp.errors import InvalidInput

_T = TypeVar("_T", bound=msgspec.Struct)


class PictureTask(msgspec.Struct, frozen=True):
    """What LABEL, EXTRACT and ANALYZE are given.

    Attributes:
        image: The picture to look at.
    """

    image: EncodedPicture


def read_params(params: dict[str, Any], kind: type[_T]) -> _T:
    """The params as a value; what is not known is ignored.

    Raises:
        InvalidInput: Something is missing or of another type; the sentence says what and where.
    """
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"params do not fit: {error}") from error
