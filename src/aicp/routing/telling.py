"""What is observed can never fail a task."""

import logging

from aicp.model.event import Event
from aicp.ports import Observer

_log = logging.getLogger(__name__)


class SafeObserver:
    """Passes events on; what the observer raises is logged and harms nobody.

    Args:
        observer: Told of every event.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def notify(self, event: Event) -> None:
        """Something happened."""
        try:
            self._observer.notify(event)
        except Exception:  # noqa: BLE001 - it is somebody else's code, and only looks on
            _log.exception("an observer failed on %s", type(event).__name__)


def made_safe(observer: Observer | None) -> Observer | None:
    """The observer, unable to do harm; None for nobody."""
    return SafeObserver(observer) if observer is not None else None
