"""`aicp version`."""

import platform

from aicp.cli.output import Format, Output, facts, write
from aicp.version import __version__


def version(output: Output = Format.TABLE) -> None:
    """Say which AICP this is."""
    told = {"aicp": __version__, "python": platform.python_version(), "platform": platform.platform()}
    write(told, output, facts(**told))
