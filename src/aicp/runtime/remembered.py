"""Which agents are on record: saved when they register, forgotten when they are removed, if need be a little later."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from aicp.model.agent import AgentProfile
from aicp.ports import Claim, Registrations


class Remembered:
    """The agents that this node and its replicas remember over a restart.

    Agents that register before `load` are saved by `save_waiting`: the store is not open before the start. Whom it
    could not forget yet it keeps until it can.

    Args:
        registrations: Remembers them; None for nobody.
        is_current: True while an agent is here as a profile says.
    """

    def __init__(self, registrations: Registrations | None, is_current: Callable[[AgentProfile], bool]) -> None:
        self._registrations = registrations
        self._is_current = is_current
        self._saved: set[str] = set()
        self._waiting: dict[str, AgentProfile] | None = {}
        self._to_forget: set[str] = set()
        self._changing: dict[str, _Change] = {}
        self._changed: set[str] = set()

    def __contains__(self, agent_id: str) -> bool:
        return agent_id in self._saved

    async def load(self) -> Sequence[AgentProfile]:
        """Whom an earlier process remembered, or another one does.

        Raises:
            SettingsError: A secret cannot be unsealed.
            StorageError: They could not be read.
        """
        found = await self._registrations.load() if self._registrations is not None else ()
        self._saved.update(profile.agent_id for profile in found)
        return found

    async def save_waiting(self) -> None:
        """Remember those who came before the start, and from now on whoever comes.

        Raises:
            SettingsError: One has a secret, and there is no key to seal it with.
            StorageError: One could not be recorded.
        """
        waiting, self._waiting = self._waiting or {}, None
        for profile in waiting.values():
            await self.save(profile)

    async def save(self, profile: AgentProfile, claim: Claim | None = None) -> None:
        """Remember an agent; one that was removed or replaced while this waited for its turn is not.

        Args:
            profile: The agent.
            claim: Asked with whom another replica may have recorded since; what it raises is raised here.

        Raises:
            SettingsError: It has a secret, and there is no key to seal it with.
            StorageError: It could not be recorded.
        """
        if self._registrations is None:
            return
        agent_id = profile.agent_id
        if self._waiting is not None:
            self._waiting[agent_id] = profile
            return
        self._to_forget.discard(agent_id)
        self._saved.add(agent_id)
        with self.change_of(agent_id) as turn:
            async with turn:
                if self._is_current(profile):
                    await self._registrations.save(profile, claim)

    def let_go(self, agent_id: str) -> None:
        """It is not to be remembered, unless it is saved again."""
        if self._waiting:
            self._waiting.pop(agent_id, None)
        if agent_id in self._saved:
            self._saved.discard(agent_id)
            self._to_forget.add(agent_id)

    async def forget_removed(self) -> None:
        """Forget for good whom `let_go` named.

        Raises:
            StorageError: Some could not be forgotten; they are by the next call.
        """
        while self._registrations is not None and self._to_forget:
            agent_id = next(iter(self._to_forget))
            with self.change_of(agent_id) as turn:
                async with turn:
                    if agent_id in self._to_forget:
                        await self._registrations.forget(agent_id)
                        self._to_forget.discard(agent_id)

    # -- beside other replicas

    def expect_news(self) -> None:
        """What other replicas changed is about to be read: what is changed here from now on may not be in it."""
        self._changed = set(self._changing)

    def is_changing(self, agent_id: str) -> bool:
        """True when news of an agent may be older than what this replica knows: look again, then that is clear."""
        return agent_id in self._changed or agent_id in self._to_forget

    def saved_elsewhere(self, agent_id: str) -> None:
        """Another replica remembers it for all."""
        self._saved.add(agent_id)

    def forgotten_elsewhere(self, agent_id: str) -> None:
        """Another replica has forgotten it for all."""
        self._saved.discard(agent_id)

    @contextmanager
    def change_of(self, agent_id: str) -> Iterator[asyncio.Lock]:
        """While this lasts, and until the next look at what others changed begins, this replica's word counts.

        Gives what lets one write at a time: the record ends as the last word says, however long the one before took.
        """
        change = self._changing.setdefault(agent_id, _Change())
        change.parts += 1
        self._changed.add(agent_id)
        try:
            yield change.turn
        finally:
            change.parts -= 1
            if not change.parts:
                del self._changing[agent_id]


class _Change:
    """What goes on about one agent: how many are at it, of whom one writes."""

    __slots__ = ("parts", "turn")

    def __init__(self) -> None:
        self.parts = 0
        self.turn = asyncio.Lock()
