"""Signals that a run hears: which end it, and how a handler is set for a while. Imports no torch."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""Signals that end a run so that the same call goes on: of a scheduler, a terminal that closes, or a user."""


@contextmanager
def heard(handler: Callable[[int, FrameType | None], Any] | signal.Handlers, numbers: Sequence[int]) -> Iterator[None]:
    """Have a handler hear signals for a while; the handlers from before are put back at the end.

    A signal that is ignored stays so, as under `nohup` and in the background of a shell. Only the main thread may set
    handlers: in another one this does nothing.

    Args:
        handler: as `signal.signal` takes it.
        numbers: of the signals.
    """
    main = threading.current_thread() is threading.main_thread()
    listening = [number for number in numbers if main and signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in listening}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
