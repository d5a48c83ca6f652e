"""Ctrl-C and the signals that end a run: they take effect where a worker waits and nowhere else.

In the middle of a database transaction one would leave the claim in a state that nobody knows. So the first is kept
until the worker waits, which is nearly always; a second one that comes before that is raised where it is.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stpl.errors import Terminated
from stpl.signals import ENDING_SIGNALS, heard

_kept: list[int] = []
_waiting = False


@contextmanager
def orderly_interrupts() -> Iterator[None]:
    """Within, interrupts raise `KeyboardInterrupt` or `Terminated` in `waiting` only.

    An interrupt that was ignored before stays so, as in the background of a shell. No effect outside the main thread.
    """
    _kept.clear()
    with heard(_receive, (signal.SIGINT, *ENDING_SIGNALS)):
        yield


@contextmanager
def waiting() -> Iterator[None]:
    """Within, nothing happens that an interrupt could harm; one that was kept is raised at once."""
    global _waiting
    _waiting = True
    try:
        if _kept:
            raise _error(_kept.pop())
        yield
    finally:
        _waiting = False


def _receive(number: int, frame: FrameType | None) -> None:
    if _waiting or _kept:
        raise _error(number)
    _kept.append(number)


def _error(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
