"""Exceptions that no part may raise: each kind is logged once with its traceback, and all are counted."""

import logging

KINDS_MAX = 1_000
_log = logging.getLogger(__name__)


class Defects:
    """Reports defects of AICP itself.

    Attributes:
        count: Defects so far, repeated ones included.
    """

    def __init__(self) -> None:
        self.count = 0
        self._known: set[tuple[str, str, int]] = set()

    def report(self, subject: str, error: BaseException, consequence: str = "retrying with backoff") -> None:
        """Count a defect; log it with its traceback if none of its type was raised at its place before.

        Args:
            subject: What it befell, as a log line begins with it: `task 01.a`.
            error: As it was raised.
            consequence: What happens now, as the log line says it.
        """
        self.count += 1
        kind = _kind_of(error)
        if kind not in self._known and len(self._known) < KINDS_MAX:
            self._known.add(kind)
            _log.error("%s: defect, %s: %s", subject, consequence, type(error).__name__, exc_info=error)


def _kind_of(error: BaseException) -> tuple[str, str, int]:
    """The type and the place where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = ("", 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    return type(error).__qualname__, *place
