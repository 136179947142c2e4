"""The picture as the user names it: a path, a URL, or nothing for the sample."""

from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from aicp.demo.picture import FILE_BYTES_MAX, NotAPicture, check_weight, decode_picture
from aicp.demo.sample import make_sample
from aicp.errors import InvalidInput

SAMPLE_NAME = "the sample picture"


class PictureMissing(InvalidInput):
    """There is no such picture."""

    code = "picture_missing"


class Source(Protocol):
    """Where the picture comes from.

    Attributes:
        name: What the user calls it.
    """

    name: str

    def locate(self, loopback_url: str) -> str:
        """The URL where FETCH gets it; `loopback_url` is where the demo serves what it has itself."""

    def read(self) -> bytes:
        """What the demo has to serve; nothing when FETCH gets it elsewhere. Costs up to a second."""


def find_source(image: str | None) -> Source:
    """What `--image` names; a file is looked at before anything is started.

    Raises:
        InvalidInput: It is no file, no picture or no URL that could be fetched.
    """
    if image is None:
        return _Sample()
    return _Elsewhere(image) if "://" in image else _File(image)


class _Sample:
    name = SAMPLE_NAME

    def locate(self, loopback_url: str) -> str:
        return loopback_url

    def read(self) -> bytes:
        return make_sample()


class _File:
    def __init__(self, path: str) -> None:
        self.name = path
        self._data = _read_file(Path(path))
        decode_picture(self._data, path)

    def locate(self, loopback_url: str) -> str:
        return loopback_url

    def read(self) -> bytes:
        return self._data


class _Elsewhere:
    def __init__(self, url: str) -> None:
        self.name = url
        try:
            parts = urlsplit(url)
            sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or parts.username is not None:
            raise PictureMissing(
                f"{url} is no address that can be fetched; it must be a path, or begin with http(s)://"
            )

    def locate(self, loopback_url: str) -> str:  # noqa: ARG002 - the demo has no part in it
        return self.name

    def read(self) -> bytes:
        return b""


def _read_file(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise NotAPicture(f"{path} is no file; give the path of a picture")
        check_weight(path.stat().st_size, str(path))
        with path.open("rb") as file:
            # The file may have grown since: never more than one byte too many.
            return file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise PictureMissing(f"{path} cannot be read ({told.lower()}); check the path") from error
