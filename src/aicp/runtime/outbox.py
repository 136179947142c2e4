"""What this replica has to tell the others: gathered as it happens, bounded, and handed out as notices."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import msgspec

from aicp.model.event import AgentChanged, AttemptEnded, CircuitChanged, Event
from aicp.model.live import LiveEvent
from aicp.model.notice import Notice, Opening, Relayed
from aicp.model.views import AgentHealth
from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import CircuitState
from aicp.routing.health import agent_health
from aicp.scheduling.task_scheduler import TaskScheduler

K = TypeVar("K")
T = TypeVar("T")

EVENTS_MAX = 2_000
HEARD_MAX = 10_000
OPENINGS_MAX = 1_000
HEALTH_MAX = 500

_OWN_MATTERS = frozenset({"heard", "unheard", "offline"})
"""What every replica finds out, and tells, by itself."""


class Outbox:
    """An observer of a node that remembers what the others should know. For one event loop.

    Args:
        board: Knows how long circuits stay open.
        scheduler: Knows the agents.

    Attributes:
        is_alone: True while nobody is there to be told: then nothing is gathered.
        is_urgent: True when a circuit opened since everything was told.
    """

    def __init__(self, board: CircuitBoard, scheduler: TaskScheduler) -> None:
        self._board = board
        self._scheduler = scheduler
        self.is_alone = True
        self.is_urgent = False
        self._heard: dict[str, str] = {}
        self._open: dict[str, set[str]] = {}
        self._opened: dict[tuple[str, str], None] = {}
        self._touched: dict[str, None] = {}
        self._events: deque[Relayed] = deque()
        self._lost = 0

    @property
    def has_events(self) -> bool:
        """True when something happened that somebody elsewhere may be waiting for."""
        return bool(self._events)

    def notify(self, event: Event) -> None:
        """Something happened: an agent fared in some way, or a circuit changed."""
        if isinstance(event, CircuitChanged):
            self._note_circuit(event)
        elif isinstance(event, AgentChanged) and event.change == "removed":
            self.forget(event.agent_id)
        if isinstance(event, CircuitChanged | AttemptEnded | AgentChanged):
            self._touched[event.agent_id] = None

    def forget(self, agent_id: str) -> None:
        """An agent was removed, here or elsewhere: when it comes again, the first opening is news."""
        self._open.pop(agent_id, None)

    def heard(self, agent_id: str, instance_id: str) -> None:
        """An agent sent a heartbeat."""
        if not self.is_alone:
            self._heard[agent_id] = instance_id

    def relay(self, event: LiveEvent, tenant: str | None) -> None:
        """This replica told its readers of something; more than 2,000 that were not told yet are counted only."""
        if self.is_alone or event.is_out is not None or event.change in _OWN_MATTERS:
            return
        if len(self._events) >= EVENTS_MAX:
            self._lost += 1
        else:
            self._events.append(Relayed.of(event, tenant))

    def touch_all(self) -> None:
        """Somebody is new: tell how every agent fares that was ever used."""
        for member in self._scheduler.members():
            agent_id = member.profile.agent_id
            if member.successes or member.failures or self._board.get_metrics(agent_id):
                self._touched[agent_id] = None

    def take_events(self) -> Notice:
        """A notice with what happened, and nothing else."""
        events, lost = tuple(self._events), self._lost
        self._events.clear()
        self._lost = 0
        return Notice(events=events, lost=lost)

    def take_all(self) -> Notice:
        """A notice with everything that is to be told once a second; what finds no room is told in the next."""
        self.is_urgent = False
        return msgspec.structs.replace(
            self.take_events(),
            heard=_taken(self._heard, HEARD_MAX),
            openings=tuple(self._openings()),
            health=dict(self._health(_taken(self._touched, HEALTH_MAX))),
        )

    def put_back(self, notice: Notice) -> None:
        """A notice could not be told: what still counts is told later, and its events are lost."""
        self._heard = notice.heard | self._heard
        self._opened = {(opening.agent_id, opening.capability): None for opening in notice.openings} | self._opened
        self._touched = dict.fromkeys(notice.health) | self._touched
        self._lost += notice.lost + len(notice.events)

    def _note_circuit(self, event: CircuitChanged) -> None:
        """An opening is told once: a replica that alone cannot reach an agent must not keep it from the others."""
        known = self._open.setdefault(event.agent_id, set())
        if event.state != CircuitState.OPEN:
            known.discard(event.capability)
        elif event.capability not in known:
            known.add(event.capability)
            self._opened[event.agent_id, event.capability] = None
            self.is_urgent = True
        if not known:
            del self._open[event.agent_id]

    def _openings(self) -> Iterator[Opening]:
        for agent_id, capability in _taken(self._opened, OPENINGS_MAX):
            wait_s = self._board.ready_in_s(agent_id, capability)
            if 0 < wait_s < math.inf:
                yield Opening(agent_id, capability, round(wait_s, 3))

    def _health(self, agent_ids: Iterable[str]) -> Iterator[tuple[str, AgentHealth]]:
        for agent_id in agent_ids:
            member = self._scheduler.find_member(agent_id)
            if member is not None:
                yield agent_id, agent_health(member, self._board)


def _taken(waiting: dict[K, T], limit: int) -> dict[K, T]:
    """The first so many, which are taken out."""
    return {key: waiting.pop(key) for key in list(islice(waiting, limit))}
