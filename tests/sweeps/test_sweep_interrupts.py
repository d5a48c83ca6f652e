from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from stpl.errors import Terminated
from stpl.sweeps.interrupts import orderly_interrupts, waiting


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python hears signals between instructions


def test_interrupt_is_kept_until_the_worker_waits() -> None:
    reached = []
    with orderly_interrupts():
        interrupt()
        reached.append("the transaction's end")
        with pytest.raises(KeyboardInterrupt), waiting():
            reached.append("waiting")
        with waiting():  # it is heard once
            reached.append("the trial's end")
    assert reached == ["the transaction's end", "the trial's end"]


def test_interrupt_while_waiting_is_heard_at_once() -> None:
    with orderly_interrupts():
        with pytest.raises(Terminated), waiting():
            interrupt(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), waiting():
            interrupt()


def test_second_interrupt_is_heard_wherever_it_comes() -> None:
    with orderly_interrupts():
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_handlers_are_put_back_and_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with orderly_interrupts():
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
            interrupt()
            with waiting():
                pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
def test_other_threads_are_left_alone() -> None:
    found = []

    def body() -> None:
        with orderly_interrupts(), waiting():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
