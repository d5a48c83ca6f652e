"""A worker's side of `stpl.sweeps.launch`: request a trial, a process in a group of its own, wait for it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from stpl.files import writing
from stpl.runs.folder import LOG
from stpl.sweeps.interrupts import waiting

_PATIENCE_SECONDS = 20.0  # for a trial to write its checkpoint and end after SIGTERM
_POLL_SECONDS = 0.5
_TAIL_LINES = 15


@dataclass(frozen=True)
class EndedTrial:
    """How a trial ended: exit status (negative if a signal ended it), wall time, the last lines of what it printed."""

    code: int
    seconds: float
    tail: str


class Launcher:
    """The process that starts the trials of a worker, one at a time; begun at once, and again if it was killed.

    Args:
        prepared: whether it imports this program at once, for trials that run it. These must not use a GPU: CUDA does
            not survive a fork.
    """

    def __init__(self, *, prepared: bool) -> None:
        self._prepared = prepared
        self._process = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        role = "prepared" if self._prepared else "bare"
        return subprocess.Popen(
            [sys.executable, "-m", "stpl.sweeps.launch", str(os.getpid()), role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C in the terminal reaches the sweep alone, which ends the trial in good order
        )

    def run(self, command: Sequence[str], directory: Path, runs: Path, on_tick: Callable[[], None]) -> EndedTrial:
        """Run `command` to its end; its output is appended to `<directory>/log.txt`.

        `directory` is made if absent; the trial gets `runs` as `$STPL_RUNS`; `on_tick` is called about twice a second.

        Raises:
            StplError: if the log cannot be written.
            BaseException: whatever interrupts the wait, after the trial has been ended: SIGTERM, then SIGKILL after
                20 s or at a second interrupt.
        """
        begin, log = time.monotonic(), directory / LOG
        with writing(log):
            directory.mkdir(parents=True, exist_ok=True)
            with log.open("ab", buffering=0) as file:
                file.write(f"\n=== {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC $ {shlex.join(command)}\n".encode())
                offset = file.tell()
        environment = {**os.environ, "STPL_RUNS": str(runs.absolute()), "PYTHONUNBUFFERED": "1"}
        trial = self.start(command, log, environment)
        try:
            while trial.code is None:
                with waiting():
                    trial.wait(_POLL_SECONDS)
                if trial.code is None:
                    on_tick()
        finally:
            trial.end()
        return EndedTrial(trial.code, time.monotonic() - begin, _tail(log, offset))

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Launched:
        """Request a trial, which begins as soon as the launcher is ready; `log` takes what it prints."""
        if self._process.poll() is not None:
            self.close()
            self._process = self._begin()
        request = {
            "command": list(command),
            "arguments": own_arguments(command) if self._prepared else None,
            "log": str(log.absolute()),
            "environment": dict(environment),
        }
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed just now, and the trial will read as killed
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return Launched(self._process)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def own_arguments(command: Sequence[str]) -> list[str] | None:
    """The words after `python -m stpl`, if that is what `command` runs, by this very interpreter; else `None`."""
    words = list(command[1:] if command[:1] == ["/usr/bin/env"] else command)
    return words[3:] if words[:3] == [sys.executable, "-m", "stpl"] else None


class Launched:
    """A requested trial.

    Attributes:
        code: exit status, negative if a signal ended it; `None` until `wait` learns it.
    """

    def __init__(self, launcher: subprocess.Popen[bytes]) -> None:
        self.code: int | None = None
        self._launcher = launcher
        self._pid: int | None = None

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the trial's end, at most so long; its `code`."""
        answers, end = self._launcher.stdout, None if seconds is None else time.monotonic() + seconds
        assert answers is not None
        while self.code is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([answers], [], [], left)[0]:
                break
            self._receive(os.read(answers.fileno(), 4096))
        return self.code

    def _receive(self, answer: bytes) -> None:
        if not answer:
            self._launcher.wait()  # its files close a moment before `poll` says that it was killed
            self.code = -signal.SIGKILL  # the launcher, and the trial with it
        for number in map(int, answer.split()):  # a line is written at once, so none is read in parts
            if self._pid is None:
                self._pid = number
            else:
                self.code = number

    def signal(self, number: int) -> None:
        """Send a signal to the trial and what it has started; to the launcher if the trial has not begun."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            if self._pid is not None:
                os.killpg(self._pid, number)
            elif self.code is None:
                self._launcher.kill()

    def end(self) -> None:
        """End the trial if it still runs, and whatever it left behind in its group."""
        try:
            if self.code is None:
                self.signal(signal.SIGTERM)
                with waiting():
                    self.wait(_PATIENCE_SECONDS)
        finally:
            self.signal(signal.SIGKILL)
            self.wait()


def _tail(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(max(offset, path.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(line.rstrip() for line in lines[-_TAIL_LINES:]).strip()
