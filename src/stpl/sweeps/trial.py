"""One trial: a process in a group of its own, its output in its run's folder."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stpl.files import writing
from stpl.runs.folder import LOG
from stpl.sweeps.interrupts import waiting
from stpl.sweeps.launcher import Launched, Launcher

PATIENCE_SECONDS = 20.0
"""How long a trial may take to write its checkpoint and end after SIGTERM."""

_POLL_SECONDS = 0.5
_TAIL_LINES = 15


@dataclass(frozen=True)
class EndedTrial:
    """How a trial ended: exit status (negative if a signal ended it), wall time, the last lines of what it printed."""

    code: int
    seconds: float
    tail: str


def run_trial(
    launcher: Launcher, command: list[str], directory: Path, runs: Path, on_tick: Callable[[], None]
) -> EndedTrial:
    """Run `command` to its end; its output is appended to `<directory>/log.txt`.

    `directory` is made if absent; the trial gets `runs` as `$STPL_RUNS`; `on_tick` is called about twice a second.

    Raises:
        StplError: if the log cannot be written.
        BaseException: whatever interrupts the wait, after the trial has been ended: SIGTERM, then SIGKILL after 20 s
            or at a second interrupt.
    """
    start = time.monotonic()
    with writing(directory / LOG):
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / LOG).open("ab", buffering=0) as log:
            log.write(f"\n=== {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC $ {shlex.join(command)}\n".encode())
            offset = log.tell()
    environment = {**os.environ, "STPL_RUNS": str(runs.absolute()), "PYTHONUNBUFFERED": "1"}
    code = _wait(launcher.start(command, directory / LOG, environment), on_tick)
    return EndedTrial(code, time.monotonic() - start, _tail(directory / LOG, offset))


def _wait(trial: Launched, on_tick: Callable[[], None]) -> int:
    try:
        while True:
            with waiting():
                code = trial.wait(_POLL_SECONDS)
            if code is not None:
                return code
            on_tick()
    finally:
        _end(trial)


def _end(trial: Launched) -> None:
    """End the trial if it still runs, and whatever it left behind in its group."""
    try:
        if trial.code is None:
            trial.signal(signal.SIGTERM)
            with waiting():
                trial.wait(PATIENCE_SECONDS)
    finally:
        trial.signal(signal.SIGKILL)
        trial.wait()


def _tail(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(max(offset, path.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(line.rstrip() for line in lines[-_TAIL_LINES:]).strip()
