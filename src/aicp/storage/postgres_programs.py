"""PostgreSQL's own programs: where they are, how they learn of a database with its password unseen, and their end."""

import asyncio
import contextlib
import os
import shutil
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from aicp.errors import AicpError, SettingsError, StorageError
from aicp.storage.postgres_address import PostgresAddress

T = TypeVar("T")

LINES_KEPT = 20
LINE_CHARS_MAX = 300
END_WAIT_S = 5.0

_OF_LIBPQ = frozenset({
    "application_name", "gsslib", "host", "krbsrvname", "options", "passfile", "port", "service", "servicefile",
    "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert", "sslcrl", "sslkey", "sslmode", "sslnegotiation",
    "sslrootcert", "target_session_attrs", "user",
})  # fmt: skip
"""What the programs take in a URL. Whatever else AICP's driver takes there is a setting of the server."""

_NAMED_ELSE = {"dbname": "dbname", "database": "dbname"}


class Target(msgspec.Struct, frozen=True):
    """A database as a program is told of it.

    Attributes:
        url: For its arguments, which everybody on the machine may read: without a password.
        environ: The environment to run in, which holds the password.
    """

    url: str
    environ: Mapping[str, str]

    def __repr__(self) -> str:
        """As people may see it."""
        return f"Target({self.url})"


def find_program(name: str) -> str:
    """Where `pg_dump` and its kin are.

    Raises:
        SettingsError: Not in the PATH.
    """
    found = shutil.which(name)
    if found is None:
        raise SettingsError(
            f"There is no {name} in the PATH: install PostgreSQL's client programs, of the server's version or a later "
            "one (on Debian: postgresql-client)."
        )
    return found


def target_of(address: PostgresAddress, environ: Mapping[str, str] | None = None) -> Target:
    """How to tell a program of a database.

    Raises:
        SettingsError: Its URL has what only arguments could tell, and must not.
    """
    parts = urllib.parse.urlsplit(address.url)
    params = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    if params.get("sslpassword"):
        raise SettingsError("The database URL has an sslpassword, which pg_dump cannot be told: use a key without one.")
    who, at, where = parts.netloc.rpartition("@")
    user, _, password = who.partition(":")
    secret = urllib.parse.unquote(password) or params.pop("password", "")
    told = os.environ if environ is None else environ
    ours = {"LC_ALL": "C", "PGCONNECT_TIMEOUT": str(max(2, round(address.connect_timeout_s)))}
    if secret:
        ours["PGPASSWORD"] = secret
    query = urllib.parse.urlencode(_as_libpq(params), quote_via=urllib.parse.quote)
    return Target(f"postgresql://{user}{at}{where}{parts.path}{f'?{query}' if query else ''}", {**told, **ours})


class Running:
    """A program that runs.

    Args:
        name: For people.
        process: It.
        on_line: Called with each line it says on stderr.
    """

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, on_line: Callable[[str], None] | None = None
    ) -> None:
        self.process = process
        self._name = name
        self._on_line = on_line
        self._said: deque[str] = deque(maxlen=LINES_KEPT)

    async def ended(self) -> str:
        """Wait for its end; what it complained of, and nothing when it did what it was asked."""
        stderr = _piped(self.process.stderr)
        while piece := await self._line(stderr):
            line = piece.decode(errors="replace").strip()[:LINE_CHARS_MAX]
            self._said.append(line)
            if self._on_line is not None:
                self._on_line(line)
        code = await self.process.wait()
        return "" if code == 0 else self._complaint(code)

    async def read(self, size_max: int) -> bytes:
        """Some of its output; nothing at its end."""
        return await _piped(self.process.stdout).read(size_max)

    async def feed(self, data: bytes) -> None:
        """Give it input.

        Raises:
            ConnectionError: It has ended.
        """
        stdin = _piped(self.process.stdin)
        stdin.write(data)
        await stdin.drain()

    def end_input(self) -> None:
        """Tell it that there is no more to come."""
        _piped(self.process.stdin).close()

    async def _line(self, stderr: asyncio.StreamReader) -> bytes:
        try:
            return await stderr.readline()
        except ValueError:
            # Longer than the reader's buffer, and no line one would want to read.
            return b"\n"

    def _complaint(self, code: int) -> str:
        for line in self._said:
            for mark in ("error: ", "ERROR:  ", "FATAL:  "):
                if mark in line:
                    return line.rpartition(mark)[2].rstrip(".")
        return f"{self._name} ended with {code}"


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    takes_input: bool = False,
    gives_output: bool = False,
    on_line: Callable[[str], None] | None = None,
) -> AsyncIterator[Running]:
    """A program for as long as a block lasts; it is killed when it has not ended by then.

    Raises:
        SettingsError: It cannot be run.
    """
    nothing, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    name = os.path.basename(command[0])  # noqa: PTH119 - of a text that is a path
    try:
        process = await asyncio.create_subprocess_exec(
            *command, env=environ, stdin=pipe if takes_input else nothing, stdout=pipe if gives_output else nothing,
            stderr=pipe,
        )  # fmt: skip
    except OSError as error:
        raise SettingsError(f"{command[0]} cannot be run: {error.strerror}.") from error
    try:
        yield Running(name, process, on_line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await _reaped(process)


def program_error(name: str, complaint: str, place: str) -> AicpError:
    """What to raise when a program did not do what it was asked."""
    if "version mismatch" in complaint:
        return SettingsError(
            f"The {name} in the PATH is older than the server of {place}: install the client programs of its version."
        )
    return StorageError(f"{name} failed on {place}: {complaint}.")


def _piped(stream: T | None) -> T:
    if stream is None:
        raise RuntimeError("this stream of the program was not asked for")
    return stream


async def _reaped(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_WAIT_S):
            await process.wait()


def _as_libpq(params: Mapping[str, str]) -> dict[str, str]:
    known = {_NAMED_ELSE.get(name, name): value for name, value in params.items() if name in _OF_LIBPQ | {*_NAMED_ELSE}}
    settings = [
        f"-c{name}={value.replace(chr(92), chr(92) * 2).replace(' ', chr(92) + ' ')}"
        for name, value in params.items()
        if name not in _OF_LIBPQ | {*_NAMED_ELSE}
    ]
    if settings:
        known["options"] = " ".join([*filter(None, [known.get("options", "")]), *settings])
    return known
