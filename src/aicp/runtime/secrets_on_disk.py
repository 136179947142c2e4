"""Which files of a server hold secrets, or decide what it does."""

from collections.abc import Iterator
from pathlib import Path

from aicp.private_files import PrivateFile, Reach
from aicp.runtime.agents_file import named_bearer_files
from aicp.runtime.settings import ADMIN_KEY_FILE, SECRET_KEY_FILE, Settings


def files_of_server(settings: Settings) -> Iterator[PrivateFile]:
    """What other users must not reach of a server with these settings, its database aside; some may not be there."""
    yield from files_of_data_dir(settings.data_dir)
    if settings.tls is not None:
        yield PrivateFile("TLS key", settings.tls.key)
        yield PrivateFile("TLS certificate", settings.tls.certificate, Reach.TRUSTED)
    if settings.agents_file is not None:
        yield from files_of_agents(settings.agents_file)


def files_of_data_dir(directory: Path) -> Iterator[PrivateFile]:
    """The directory itself, which not every user may write to, and its keys."""
    yield PrivateFile("data directory", directory, Reach.DIRECTORY)
    yield PrivateFile("admin key", directory / ADMIN_KEY_FILE)
    yield PrivateFile("secret key", directory / SECRET_KEY_FILE)


def files_of_agents(path: Path) -> Iterator[PrivateFile]:
    """An agents file, which others must not change, and the token files it names.

    A token inside an agents file that others can read is refused when the file is read.
    """
    yield PrivateFile("agents file", path, Reach.TRUSTED)
    for named in named_bearer_files(path):
        yield PrivateFile("token file", named)
