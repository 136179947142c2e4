"""Bytes from anywhere become a picture, or one clear sentence; and pictures travel as JSON.

InvalidInput
└── InvalidPicture
    ├── PictureTooHeavy     more than 25 MiB
    ├── PictureTooLarge     more than 40 megapixels
    ├── NotAPicture         no format that is read here
    └── PictureDamaged      begins like a picture, and cannot be decoded to its end
"""

import base64
import binascii
import hashlib
import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from aicp.demo.findings import EncodedPicture, LoadedPicture, Original
from aicp.errors import InvalidInput

MIB = 1024 * 1024
FILE_BYTES_MAX = 25 * MIB
PIXELS_MAX = 40_000_000
EDGE_MAX = 2000
PNG_BYTES_MAX = 8 * MIB
# Formats whose decoders are in every Pillow wheel and run no program (PostScript would).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

_NAME_CHARS_MAX = 200
_SHRINKS_MAX = 8


class InvalidPicture(InvalidInput):
    """The picture cannot be used."""

    code = "invalid_picture"


class PictureTooHeavy(InvalidPicture):
    """The picture is too heavy."""

    code = "picture_too_heavy"


class PictureTooLarge(InvalidPicture):
    """The picture has too many pixels."""

    code = "picture_too_large"


class NotAPicture(InvalidPicture):
    """This is no picture."""

    code = "not_a_picture"


class PictureDamaged(InvalidPicture):
    """The picture is damaged."""

    code = "picture_damaged"


def check_weight(size_bytes: int, name: str) -> None:
    """Refuse a file by its size alone, so that a download can stop early.

    Raises:
        PictureTooHeavy: It has more than `FILE_BYTES_MAX` bytes.
    """
    if size_bytes > FILE_BYTES_MAX:
        raise PictureTooHeavy(
            f"{_shown(name)} has more than {FILE_BYTES_MAX // MIB} MiB; save it smaller or as JPEG and try again"
        )


def load_picture(data: bytes, name: str) -> LoadedPicture:
    """Make of a file what the agents work on: upright, RGB, no edge above `EDGE_MAX`.

    Args:
        data: The file.
        name: Path or URL, for the sentence when it cannot be used.

    Raises:
        InvalidPicture: It cannot be used; the subclass says why.
    """
    image = _opened(data, name)
    original = Original(image.format or "", image.width, image.height, len(data))
    return LoadedPicture(encode_picture(_developed(image, name)), original)


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Like `load_picture`, and gives the pixels.

    Raises:
        InvalidPicture: It cannot be used; the subclass says why.
    """
    return _developed(_opened(data, name), name)


def encode_picture(image: Image.Image) -> EncodedPicture:
    """Make a picture ready to travel; one that compresses badly is made smaller until it has `PNG_BYTES_MAX`."""
    png = encode_png(image)
    for _ in range(_SHRINKS_MAX):
        if len(png) <= PNG_BYTES_MAX:
            break
        image = ImageOps.scale(image, 0.95 * math.sqrt(PNG_BYTES_MAX / len(png)), Image.Resampling.LANCZOS)
        png = encode_png(image)
    return EncodedPicture(base64.b64encode(png).decode("ascii"), *image.size, hashlib.sha256(png).hexdigest())


def encode_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def open_picture(encoded: EncodedPicture) -> Image.Image:
    """The pixels of a picture that travelled.

    Raises:
        InvalidPicture: It is not what was sent, or no picture; the subclass says why.
    """
    check_weight(len(encoded.png_base64) * 3 // 4, "`image`")
    try:
        png = base64.b64decode(encoded.png_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureDamaged("`image.png_base64` is no base64; send the PNG's bytes in base64") from error
    if hashlib.sha256(png).hexdigest() != encoded.sha256:
        raise PictureDamaged("`image.sha256` does not match `image.png_base64`; send the digest of the PNG's bytes")
    return decode_picture(png, "`image`")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    with warnings.catch_warnings():
        # What decoders mutter about odd files would reach the terminal; what matters raises, or is checked here.
        warnings.simplefilter("ignore")
        try:
            yield
        except UnidentifiedImageError as error:
            raise NotAPicture(
                f"{_shown(name)} is not in a format that is read here ({', '.join(FORMATS)}); "
                "give the address of the picture itself, not of a page that shows it"
            ) from error
        except Image.DecompressionBombError as error:
            raise _too_large(name) from error
        except Exception as error:
            # Decoders fed with hostile bytes raise whatever they stumble over.
            raise PictureDamaged(f"{_shown(name)} cannot be decoded to its end; get it anew") from error


def _opened(data: bytes, name: str) -> Image.Image:
    """The picture's head is read, its pixels are not yet."""
    check_weight(len(data), name)
    with _decoding(name):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > PIXELS_MAX:
        raise _too_large(name)
    return image


def _too_large(name: str) -> PictureTooLarge:
    return PictureTooLarge(f"{_shown(name)} has more than {PIXELS_MAX // 1_000_000} megapixels; scale it down")


def _developed(image: Image.Image, name: str) -> Image.Image:
    with _decoding(name):
        # A JPEG decodes at an eighth of the cost when the decoder knows how little is wanted of it.
        image.draft("RGB", (EDGE_MAX, EDGE_MAX))
        upright = ImageOps.exif_transpose(image)
        flat = _flattened(_in_eight_bits(upright))
        flat.thumbnail((EDGE_MAX, EDGE_MAX), Image.Resampling.LANCZOS)
    return flat


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Stretch deep grey pictures (16 bits, floats) from their own black to their own white; others pass."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))


def _flattened(image: Image.Image) -> Image.Image:
    """RGB; what is transparent lies on white, as on a page."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    page = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")


def _shown(name: str) -> str:
    return name if len(name) <= _NAME_CHARS_MAX else f"{name[:_NAME_CHARS_MAX]}…"
