"""What the demo leaves behind: the annotated picture and the report, in a directory of the user's choice."""

import base64
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from aicp.demo.story import Failover, Step, Story, Timings
from aicp.errors import SettingsError

PICTURE_FILE = "annotated.png"
REPORT_FILE = "report.json"


class DemoReport(msgspec.Struct, frozen=True):
    """`report.json`.

    Attributes:
        summary: One sentence.
        picture: What was looked at.
        faces: From left to right.
        text_lines: In reading order.
        colors: The largest share first.
        regions: The largest first.
        failover: Who died and who took over; None when nobody did.
        steps: Who did what.
        timings: Where the time went.
        chain_id: The chain that did it.
    """

    summary: str
    picture: dict[str, Any]
    faces: list[Any]
    text_lines: list[Any]
    colors: list[Any]
    regions: list[Any]
    failover: Failover | None
    steps: tuple[Step, ...]
    timings: Timings
    chain_id: str


class OutputFiles:
    """The files of one run.

    Args:
        directory: Where they go; made when it is not there.

    Attributes:
        picture: The annotated picture.
        report: The report.

    Raises:
        SettingsError: Nothing can be written there.
    """

    def __init__(self, directory: Path) -> None:
        self.picture = directory / PICTURE_FILE
        self.report = directory / REPORT_FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # Only writing shows that it can be done: modes do not tell of full disks and foreign file systems.
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            raise _unwritable(directory, error) from error

    def write(self, report: DemoReport, picture_base64: str) -> None:
        """Write both, each at once and whole.

        Raises:
            SettingsError: One cannot be written.
        """
        _write(self.picture, base64.b64decode(picture_base64))
        _write(self.report, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def make_report(combined: Mapping[str, Any], story: Story) -> DemoReport:
    """What COMBINE found, and how it came about."""
    return DemoReport(
        **{name: combined[name] for name in ("summary", "picture", "faces", "text_lines", "colors", "regions")},
        failover=story.failover,
        steps=story.steps,
        timings=story.timings,
        chain_id=story.chain_id,
    )


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(f"{path} cannot be written ({(error.strerror or str(error)).lower()}); choose another --out.")
