"""Bytes from anywhere become a picture, or one clear sentence."""

import base64
import hashlib
import io
import struct
import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aicp.demo.findings import EncodedPicture
from aicp.demo.picture import (
    EDGE_MAX,
    FILE_BYTES_MAX,
    PNG_BYTES_MAX,
    InvalidPicture,
    NotAPicture,
    PictureDamaged,
    PictureTooHeavy,
    PictureTooLarge,
    check_weight,
    decode_picture,
    encode_picture,
    encode_png,
    load_picture,
    open_picture,
)
from aicp.errors import InvalidInput

NAME = "http://127.0.0.1:9/cat.png"


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    ramp = np.add.outer(np.arange(height), np.arange(width)) % 256
    return Image.fromarray(np.dstack([ramp, ramp[::-1], 255 - ramp]).astype(np.uint8))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose head announces a huge picture."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    told = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(told)


def picture_or_sentence(data: bytes) -> Image.Image | str:
    try:
        return decode_picture(data, NAME)
    except InvalidPicture as error:
        return error.message


SMALL_FILES = [file_of(gradient(24, 18), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]


def test_a_picture_survives_its_way_between_agents_unchanged() -> None:
    image = gradient(300, 200)
    opened = open_picture(load_picture(encode_png(image), NAME).image)
    assert opened.tobytes() == image.tobytes()


def test_what_is_loaded_tells_size_digest_and_original() -> None:
    data = file_of(gradient(30, 20), "JPEG")
    loaded = load_picture(data, NAME)
    png = base64.b64decode(loaded.image.png_base64)
    assert (loaded.image.width, loaded.image.height) == (30, 20)
    assert loaded.image.sha256 == hashlib.sha256(png).hexdigest()
    assert msgspec.to_builtins(loaded.original) == {
        "format": "JPEG",
        "width": 30,
        "height": 20,
        "size_bytes": len(data),
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_told_of_is_read(kind: str) -> None:
    image = decode_picture(file_of(gradient(40, 30), kind), NAME)
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_a_photo_taken_sideways_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the stored picture's left edge is the scene's top
    stored = Image.new("RGB", (40, 20), "white")
    stored.paste("black", (0, 0, 8, 20))
    upright = decode_picture(file_of(stored, "JPEG", exif=exif), NAME)
    assert upright.size == (20, 40)
    assert max(upright.crop((0, 0, 20, 5)).convert("L").tobytes()) < 60


def test_what_is_transparent_lies_on_white() -> None:
    image = decode_picture(encode_png(Image.new("RGBA", (4, 4), (255, 0, 0, 0))), NAME)
    assert image.getpixel((1, 1)) == (255, 255, 255)


def test_deep_grey_is_stretched_to_what_can_be_seen() -> None:
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 16).reshape(16, 16))
    image = decode_picture(file_of(deep, "PNG"), NAME).convert("L")
    assert image.getextrema() == (0, 255)


def test_a_large_picture_is_made_small_enough_to_work_on() -> None:
    loaded = load_picture(file_of(gradient(5000, 2500), "JPEG"), NAME)
    assert (loaded.image.width, loaded.image.height) == (EDGE_MAX, EDGE_MAX // 2)
    assert (loaded.original.width, loaded.original.height) == (5000, 2500)


def test_a_picture_that_does_not_compress_is_shrunk_until_it_may_travel() -> None:
    encoded = encode_picture(noise(2000, 2000))
    assert PNG_BYTES_MAX / 2 < len(base64.b64decode(encoded.png_base64)) <= PNG_BYTES_MAX
    assert open_picture(encoded).size == (encoded.width, encoded.height)


def test_a_file_that_is_too_heavy_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(PictureTooHeavy, match=r"cat\.png has more than 25 MiB; save it smaller"):
        load_picture(b"\0" * (FILE_BYTES_MAX + 1), NAME)


def test_a_download_may_ask_by_size_alone() -> None:
    check_weight(FILE_BYTES_MAX, NAME)
    with pytest.raises(PictureTooHeavy):
        check_weight(200 * 1024 * 1024, NAME)


@pytest.mark.parametrize(("width", "height"), [(10_000, 4_001), (12_000, 9_000), (60_000, 60_000), (2**31 - 1, 1)])
def test_a_decompression_bomb_is_refused_by_its_head(width: int, height: int) -> None:
    with pytest.raises(PictureTooLarge, match=r"cat\.png has more than 40 megapixels; scale it down"):
        load_picture(png_claiming(width, height), NAME)


@pytest.mark.parametrize(
    "data", [b"", b"<!doctype html><title>A cat</title>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0" * 99]
)
def test_what_is_no_picture_is_told_so(data: bytes) -> None:
    with pytest.raises(NotAPicture, match=r"cat\.png is not in a format that is read here .*PNG, JPEG.*; give the"):
        load_picture(data, NAME)


@pytest.mark.parametrize("data", SMALL_FILES)
def test_a_file_cut_short_is_told_to_be_damaged(data: bytes) -> None:
    with pytest.raises(InvalidPicture, match=r"cat\.png"):
        load_picture(data[: len(data) // 2], NAME)


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(SMALL_FILES),
    wounds=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_a_wounded_file_becomes_a_picture_or_a_sentence_and_nothing_else(
    data: bytes, wounds: list[tuple[int, int]]
) -> None:
    wounded = bytearray(data)
    for place, value in wounds:
        wounded[place % len(wounded)] = value
    outcome = picture_or_sentence(bytes(wounded))
    assert NAME in outcome if isinstance(outcome, str) else outcome.mode == "RGB"


def test_a_long_name_is_shown_in_part() -> None:
    with pytest.raises(NotAPicture) as caught:
        load_picture(b"", "http://x/" + "y" * 5000)
    assert len(caught.value.message) < 600


def test_a_picture_altered_on_the_way_is_refused() -> None:
    honest = encode_picture(gradient(8, 8))
    other = encode_picture(gradient(9, 9))
    with pytest.raises(PictureDamaged, match="sha256"):
        open_picture(EncodedPicture(other.png_base64, 8, 8, honest.sha256))


def test_what_is_no_base64_is_refused() -> None:
    with pytest.raises(PictureDamaged, match="no base64"):
        open_picture(EncodedPicture("not base64 ö", 8, 8, ""))


def test_every_refusal_is_invalid_input_with_a_code_of_its_own() -> None:
    kinds = (InvalidPicture, PictureTooHeavy, PictureTooLarge, NotAPicture, PictureDamaged)
    assert all(issubclass(kind, InvalidInput) for kind in kinds)
    assert len({kind.code for kind in kinds} | {InvalidInput.code}) == len(kinds) + 1
