"""A worker's side of `stpl.sweeps.launch`: request a trial, wait for it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

_KILLED = -signal.SIGKILL


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

    def wait(self, seconds: float = float("inf")) -> int | None:
        """Wait for the trial's end, at most so long; its `code`."""
        answers, end = self._launcher.stdout, time.monotonic() + seconds
        assert answers is not None
        while self.code is None and (left := end - time.monotonic()) > 0:
            if select.select([answers], [], [], None if left == float("inf") else left)[0]:
                self._receive(os.read(answers.fileno(), 4096))
        return self.code

    def _receive(self, answer: bytes) -> None:
        if not answer:
            self._launcher.wait()  # its files close a moment before `poll` says that it was killed
            self.code = _KILLED  # the launcher, and the trial with it
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
