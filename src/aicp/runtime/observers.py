"""Passes events on to everybody who looks on."""

import logging
from collections.abc import Callable

from aicp.model.event import Event
from aicp.ports import Observer

_log = logging.getLogger(__name__)


class Observers:
    """Passes each event to every observer; one that raises is logged and harms nobody."""

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()

    def add(self, observer: Observer) -> Callable[[], None]:
        """Pass events to `observer` from now on; returns what takes it off again."""
        self._observers = (*self._observers, observer)
        return lambda: self._remove(observer)

    def notify(self, event: Event) -> None:
        """Something happened."""
        for observer in self._observers:
            try:
                observer.notify(event)
            except Exception:  # noqa: BLE001 - what is observed can never fail a task
                _log.exception("an observer failed on %s", type(event).__name__)

    def _remove(self, observer: Observer) -> None:
        self._observers = tuple(other for other in self._observers if other is not observer)
