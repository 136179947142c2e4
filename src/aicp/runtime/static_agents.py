"""Keeps the agents of a file registered: what the file says is so about a second later."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from aicp.errors import AicpError, InvalidAgent
from aicp.model.agent import AgentProfile
from aicp.private_files import is_no_file
from aicp.runtime.agents_file import StaticAgent, named_bearer_files, read_static_agents
from aicp.runtime.ains import Ains
from aicp.runtime.documents import FILE_BYTES_MAX

LOOK_EVERY_S = 1.0
TRY_AGAIN_EVERY_S = 5.0
SETTLED_S = 0.1
LOOKS_UNTIL_SETTLED_MAX = 20
ASKED_AT_ONCE_MAX = 64
INSTANCE_CHARS_MAX = 256
_log = logging.getLogger(__name__)


class Seen(msgspec.Struct, frozen=True):
    """What a file looked like: it is read again when that changes.

    Attributes:
        digest: Of its content; empty when it could not be read.
        mode: Who may read it.
        bearers: Each token file that it names, with its time of change and size; zeros for one that is not there.
    """

    digest: bytes
    mode: int
    bearers: tuple[tuple[Path, int, int], ...]


class StaticAgents:
    """The agents of a file, put to use as it says; the file's word counts whenever it changes.

    They are never written to the database, so whoever is taken out of the file is gone. What is commanded about one of
    them meanwhile (drain, remove, register) holds until its entry changes, or the next start. An agent that does not
    say what it is, or whose name leads nowhere, is asked again every 5 s.

    Args:
        file: JSON, YAML or TOML.
        ains: Takes them in.
        say: Told in a sentence what was taken over.
    """

    def __init__(self, file: Path, ains: Ains, say: Callable[[str], None]) -> None:
        self._file = file
        self._ains = ains
        self._say = say
        self._seen = Seen(b"", 0, ())
        self._list: Mapping[str, StaticAgent] = {}
        self._known: dict[str, AgentProfile] = {}
        self._keys: dict[str, str] = {}
        self._troubles: dict[str, str] = {}

    async def begin(self) -> None:
        """Read the file for the first time.

        Raises:
            SettingsError: It cannot be read, or has no list of agents.
            InvalidAgent: An entry cannot be used.
        """
        self._seen = await self._look(self._seen)
        await self._take_over(await asyncio.to_thread(read_static_agents, self._file))

    async def keep_on(self) -> None:
        """Look every second whether it changed, for ever."""
        loop = asyncio.get_running_loop()
        try_again_at = loop.time() + TRY_AGAIN_EVERY_S
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._follow()
                if loop.time() >= try_again_at:
                    await self._register(list(self._troubles))
                    try_again_at = loop.time() + TRY_AGAIN_EVERY_S
            except Exception:  # noqa: BLE001 - supervised: whatever it is, it is logged and the looks go on
                _log.exception("the agents of %s could not be taken over", self._file)

    async def _follow(self) -> None:
        seen = await self._look(self._seen)
        if seen == self._seen:
            return
        self._seen = await self._settled(seen)
        try:
            changed = await asyncio.to_thread(read_static_agents, self._file)
        except AicpError as error:
            _log.warning("%s. Its agents stay as they were.", error.message.rstrip("."))
            return
        await self._take_over(changed)

    async def _settled(self, seen: Seen) -> Seen:
        """What it looks like once nobody writes any more: half a file may look like a shorter list."""
        for _ in range(LOOKS_UNTIL_SETTLED_MAX):
            await asyncio.sleep(SETTLED_S)
            before, seen = seen, await self._look(seen)
            if seen == before:
                break
        return seen

    async def _look(self, before: Seen) -> Seen:
        return await asyncio.to_thread(_look_at, self._file, before)

    async def _take_over(self, changed: Mapping[str, StaticAgent]) -> None:
        old, self._list = self._list, changed
        gone = old.keys() - changed.keys()
        for key in gone:
            self._remove(key)
        altered = [key for key, agent in changed.items() if old.get(key) != agent]
        await self._register(altered)
        self._tell(len(changed), [key for key in altered if key not in old], len(altered), len(gone))

    def _tell(self, listed: int, added: list[str], altered: int, gone: int) -> None:
        if not (altered or gone) and self._known:
            return
        changes = f"{len(added)} added, {altered - len(added)} changed, {gone} removed"
        waiting = f"; {len(self._troubles)} not in use yet" if self._troubles else ""
        self._say(f"{self._file} lists {listed} agents: {changes}{waiting}.")

    async def _register(self, keys: Iterable[str]) -> None:
        """Put these to use, some at a time; one that is dead holds nobody up."""
        in_turn = iter(list(keys))
        async with asyncio.TaskGroup() as registering:
            for _ in range(ASKED_AT_ONCE_MAX):
                registering.create_task(self._register_each(in_turn))

    async def _register_each(self, keys: Iterator[str]) -> None:
        for key in keys:
            # Ten thousand that need not be asked would keep everything else waiting for a second.
            await asyncio.sleep(0)
            try:
                await self._use(key, self._list[key])
            except AicpError as error:
                self._note_trouble(key, _why(error))

    async def _use(self, key: str, agent: StaticAgent) -> None:
        said = agent.registration
        profile = await self._ains.complete(said, agent.tenant)
        if not profile.instance_id:
            # At another address it is another process.
            profile = msgspec.structs.replace(profile, instance_id=said.endpoint[:INSTANCE_CHARS_MAX])
        self._refuse_namesake(key, profile.agent_id)
        if key in self._known and self._known[key].agent_id != profile.agent_id:
            self._remove(key)
        self._ains.put(profile)
        self._known[key] = profile
        self._keys[profile.agent_id] = key
        self._troubles.pop(key, None)

    def _refuse_namesake(self, key: str, agent_id: str) -> None:
        other = self._keys.get(agent_id, key)
        if other != key:
            raise InvalidAgent(f"it is '{agent_id}' like that at {self._known[other].endpoint}; give one another id")

    def _remove(self, key: str) -> None:
        self._troubles.pop(key, None)
        profile = self._known.pop(key, None)
        if profile is None:
            return
        del self._keys[profile.agent_id]
        if self._ains.is_current(profile):
            self._ains.remove(profile.agent_id)

    def _note_trouble(self, key: str, told: str) -> None:
        if self._troubles.get(key) != told:
            agent_id = self._known[key].agent_id if key in self._known else self._list[key].registration.agent_id
            about = {"agent_id": agent_id} if agent_id is not None else None
            sentence = "agent %s of %s is not used as it says: %s; it is tried again"
            _log.warning(sentence, key, self._file, told, extra=about)
        self._troubles[key] = told


@asynccontextmanager
async def static_agents(file: Path | None, ains: Ains, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Keep the agents of a file registered while the block lasts; of no file, none.

    Raises:
        SettingsError: It cannot be read, or has no list of agents.
        InvalidAgent: An entry cannot be used.
    """
    if file is None:
        yield
        return
    agents = StaticAgents(file, ains, say)
    await agents.begin()
    keeping = asyncio.create_task(agents.keep_on(), name="agents of a file")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait((keeping,))


def _why(error: AicpError) -> str:
    """What is wrong, without where: there is one agent it can be about."""
    return "; ".join(fault.message for fault in error.faults) if isinstance(error, InvalidAgent) else error.message


def _look_at(file: Path, before: Seen) -> Seen:
    if is_no_file(file):
        # A pipe would be waited for; whoever reads it next says what it is.
        return Seen(b"", 0, ())
    try:
        with file.open("rb") as opened:
            digest = hashlib.sha256(opened.read(FILE_BYTES_MAX + 1)).digest()
        mode = file.stat().st_mode
    except OSError:
        return Seen(b"", 0, ())
    # Asked before the list is read, and of a list that cannot be used as well: a token that it lacks may come.
    named = (named for named, *_ in before.bearers) if digest == before.digest else named_bearer_files(file)
    return Seen(digest, mode, tuple(map(_state_of, named)))


def _state_of(file: Path) -> tuple[Path, int, int]:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return (file, 0, 0)
    # Of its rights as well as of its content: one that could not be read may be now.
    return (file, status.st_ctime_ns, status.st_size)
