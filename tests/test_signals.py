"""Handlers of signals are lent: what is ignored stays ignored, and what was set before is set again."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import cast

from lightning import Trainer

from stpl.runs.trainer import signals_raised


def test_signals_that_are_ignored_stay_so_and_handlers_are_put_back() -> None:
    """As under `nohup`."""
    trainer = SimpleNamespace(received_sigterm=False)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_raised(cast(Trainer, trainer)):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert callable(signal.getsignal(signal.SIGUSR2))
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
