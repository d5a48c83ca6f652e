"""Ctrl-C and the signals that end a run, heard where a worker waits and nowhere else.

An interrupt in the middle of a database transaction would leave the connection, and the claim with it, in a state that
nobody can tell. So the first one is kept until the worker waits, for its trial or for others, which is nearly always;
a second one that comes before the first was heard is raised where it is.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stpl.errors import ENDING_SIGNALS, Terminated

_kept: list[int] = []
_waiting = False


@contextmanager
def orderly_interrupts() -> Iterator[None]:
    """Within, interrupts raise `KeyboardInterrupt` or `Terminated` in `waiting` only.

    An interrupt that was ignored before stays so, as in the background of a shell. No effect outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():  # only it may set signal handlers
        yield
        return
    _kept.clear()
    heard = [n for n in (signal.SIGINT, *ENDING_SIGNALS) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, _receive) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
