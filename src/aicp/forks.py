"""What a forked child must not inherit: locks, listening sockets and connections are closed in it at once.

    opens a descriptor  ->  closed_in_child(owner, descriptors)  ->  fork  ->  the child replaces each by /dev/null

A descriptor that only the child still holds keeps a lock taken, a port bound and a connection open after its owner has
died. The kernel releases them when the last copy is closed, so the child closes its copies before its first line runs.
Programs that are executed inherit nothing: Python opens descriptors as not inheritable.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import msgspec

from aicp.errors import ForkedProcess

T = TypeVar("T")


class HomeProcess:
    """The process in which an object was made, and works.

    Args:
        name: What the object is, as the subject of a sentence: `This node`.
    """

    __slots__ = ("_forks", "_name", "_pid")

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = os.getpid()
        self._forks = _state.forks

    @property
    def is_left(self) -> bool:
        """True in a process that was forked after the object was made."""
        return self._forks != _state.forks

    def require(self) -> None:
        """Check that this is the process of the object; costs some 100 ns.

        Raises:
            ForkedProcess: It was forked after the object was made.
        """
        if self._forks != _state.forks:
            raise ForkedProcess(
                f"{self._name} belongs to process {self._pid} and cannot be used in process {os.getpid()}, which was "
                "forked from it: make another one there, in a process that was started with 'spawn'."
            )


def closed_in_child(owner: T, descriptors: Callable[[T], Iterable[int]]) -> None:
    """Close descriptors in every process that is forked while `owner` lives.

    Args:
        owner: Has the descriptors; held weakly.
        descriptors: Returns the open ones; called in the child, with the owner. Negative numbers are skipped.
    """
    _state.owners[owner] = descriptors


def close_socket_in_child(opened: socket.socket) -> socket.socket:
    """Close a socket in every process that is forked while it is open; returns the socket."""
    closed_in_child(opened, lambda it: (it.fileno(),))
    return opened


def kept_in_child(item: object) -> None:
    """Never finalize an object in a forked child, where its clean-up would reach what the parent still uses."""
    _state.kept.add(item)


@contextlib.contextmanager
def signals_reset_in_child(numbers: Iterable[int]) -> Iterator[None]:
    """Give signals their default meaning in every process that is forked inside the block.

    A child inherits the handlers of an event loop that does not run there, and the pipe that wakes the parent's: what
    is sent to the child would stop the parent, and not the child.
    """
    before = _state.signals
    _state.signals = before | frozenset(numbers)
    try:
        yield
    finally:
        _state.signals = before


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Let no other thread fork until the block ends: between opening a descriptor and registering it."""
    with _gate:
        yield


class _Immortal(msgspec.Struct, gc=False):
    """Refers to itself, and the garbage collector does not see it: what it holds is not finalized, even at exit."""

    held: list[Any]


class _State:
    """What this process has opened, and how many forks away from the first Python process it is."""

    def __init__(self) -> None:
        self.forks = 0
        self.owners: WeakKeyDictionary[Any, Callable[[Any], Iterable[int]]] = WeakKeyDictionary()
        self.signals: frozenset[int] = frozenset()
        self.kept: WeakSet[object] = WeakSet()


def _begin_child() -> None:
    _gate.release()
    _state.forks += 1
    _keep(_state.kept)
    _replace(_inherited(_state.owners))
    _reset(_state.signals)
    _state.signals = frozenset()
    _state.owners.clear()
    _state.kept.clear()


def _keep(items: Iterable[object]) -> None:
    immortal = _Immortal([])
    immortal.held += [immortal, *items]


def _inherited(owners: WeakKeyDictionary[Any, Callable[[Any], Iterable[int]]]) -> Iterator[int]:
    for owner, descriptors in list(owners.items()):
        # One owner that was half made at the fork must not keep the others' descriptors open.
        with contextlib.suppress(Exception):
            yield from (number for number in descriptors(owner) if number >= 0)


def _reset(numbers: frozenset[int]) -> None:
    if numbers:
        signal.set_wakeup_fd(-1)
    for number in numbers:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _replace(descriptors: Iterable[int]) -> None:
    """Put /dev/null in place: a number that was merely closed would be reused, and then closed by its first owner."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for number in descriptors:
            with contextlib.suppress(OSError):
                os.dup2(null, number, inheritable=False)
    finally:
        os.close(null)


_state = _State()
_gate = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_gate.acquire, after_in_parent=_gate.release, after_in_child=_begin_child)
