"""`stpl sweep --workers=N`: several workers on this machine, each a process of its own, begun again when killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO

from rich.console import Console
from rich.text import Text

from stpl import machine
from stpl.errors import StplError
from stpl.option_types import Count
from stpl.signals import ENDING_SIGNALS, heard

BEGAN = "STPL_SWEEP_BEGAN"
"""Environment variable: when the call of `stpl sweep` began that this worker belongs to, in ISO form."""

_MOST_ON_CPU = 4
_POLL_SECONDS = 0.2
_QUICK_SECONDS = 10.0
_QUICK_DEATHS = 10
"""A worker that dies so often in a row, each time so soon, will not live."""


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker needs to know of one call of `stpl sweep`, apart from the sweeps.

    Attributes:
        runs: folder of all runs.
        storage: URL of the database that several workers share (SQLite, PostgreSQL, MySQL, or `grpc://host:port` of
            `stpl sweep serve`); an SQLite file beside the runs if not given.
        attempts: how often a trial that fails is tried before it is recorded as failed and the sweep goes on.
        sampler: of searches: tpe (the default of `bayes`), random, gp, qmc or cmaes.
    """

    runs: Path = Path("runs")
    storage: str | None = None
    attempts: Count = 3
    sampler: str | None = None


@dataclass(frozen=True)
class Place:
    """What a worker has of the machine: its number from 1, variables for it and its trials, CPU cores (`None`: all)."""

    number: int
    environment: Mapping[str, str]
    cores: frozenset[int] | None


def places(count: int) -> list[Place]:
    """Divide the machine among `count` workers: a GPU each, or equal shares of the CPU cores. Some may share one.

    0 makes one worker per GPU; without a GPU one per core, at most four: two runs of one thread each are done sooner
    than one of two threads after the other, but each run has a gigabyte of its own.
    """
    gpus, cores = machine.visible_gpus(), machine.cores()
    count = count or len(gpus) or min(len(cores), _MOST_ON_CPU)
    found = []
    for index in range(count):
        share = cores[index * len(cores) // count : (index + 1) * len(cores) // count] or [cores[index % len(cores)]]
        threads = min(len(share), int(os.environ.get("OMP_NUM_THREADS") or len(share)))
        environment = {"OMP_NUM_THREADS": str(threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        else:
            environment[machine.SWEEP_CORES] = ",".join(map(str, cores))
        found.append(Place(index + 1, environment, None if gpus else frozenset(share)))
    return found


def supervise(files: Sequence[Path], options: Mapping[str, object], workers: int, console: Console) -> None:
    """Run workers until nothing is left, and begin those again that are killed.

    The first Ctrl-C, or another signal that ends a run, lets every worker end its trial and its claim in good order;
    the second ends all now.

    Each worker gets the `options` of `stpl sweep` that are not `None`; its lines on the `console` have its number.

    Raises:
        StplError: if a worker dies again and again.
        SystemExit: with the worst exit code of the workers; 128 and its number after a signal.
    """
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-m", "stpl", "sweep", *map(str, files), *given, "--workers=1"]
    crew = [_Member(place, command, console) for place in places(workers)]
    with _forwarded(crew, console) as stopped:
        for member in crew:
            member.start()
        while any(member.is_alive() for member in crew):
            time.sleep(_POLL_SECONDS)
            for member in crew:
                if member.was_killed() and not stopped:
                    member.start()
            if any((member.code or 0) > 1 for member in crew):  # a mistake that every worker would meet
                for member in crew:
                    member.stop()
    codes = [member.code or 0 for member in crew]
    if stopped:
        raise SystemExit(128 + stopped[0])
    if any(codes):
        raise SystemExit(max(codes))


@contextmanager
def _forwarded(crew: Sequence[_Member], console: Console) -> Iterator[list[int]]:
    """Hand interrupts on to the crew: the first has it end in good order, the next now. The list has their numbers."""
    stopped: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopped:
            console.print("stopping; once more to stop at once")
        stopped.append(number)
        for member in crew:
            member.stop(again=True)

    try:
        with heard(stop, (signal.SIGINT, *ENDING_SIGNALS)):
            yield stopped
    finally:
        for member in crew:
            member.kill()


@dataclass
class _Member:
    """One worker: its process, begun as often as it is killed."""

    place: Place
    command: Sequence[str]
    console: Console
    began: str = field(default_factory=lambda: datetime.now().isoformat())
    process: subprocess.Popen[str] | None = None
    stopping: bool = False
    _deaths: int = 0
    _started: float = 0.0
    _reader: threading.Thread | None = None

    @property
    def code(self) -> int | None:
        """Its exit code; `None` while it lives."""
        return None if self.process is None else self.process.poll()

    def start(self) -> None:
        """Begin it, or begin it again."""
        if self.process is not None:
            quick = time.monotonic() - self._started < _QUICK_SECONDS
            self._deaths, signal_number = self._deaths + 1 if quick else 1, -(self.code or 0)
            if self._deaths >= _QUICK_DEATHS:
                what = f"worker {self.place.number} was killed {self._deaths} times in a row by signal {signal_number}"
                raise StplError(what, mend="see whether memory runs out, and use fewer workers")
            self._print(f"killed by signal {signal_number}, begun again")
        self._started = time.monotonic()
        # Its own group: Ctrl-C in the terminal reaches the supervisor alone. `launch.py` ties it to this process.
        launch = str(Path(__file__).with_name("launch.py"))
        self.process = subprocess.Popen(
            [sys.executable, "-I", launch, str(os.getpid()), "execute", *self.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self.place.environment, BEGAN: self.began, "PYTHONUNBUFFERED": "1"},
            process_group=0,
        )
        if sys.platform == "linux" and self.place.cores is not None:
            with suppress(OSError):  # it is dead already, or a container forbids it
                os.sched_setaffinity(self.process.pid, self.place.cores)
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._relay, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def is_alive(self) -> bool:
        """Whether it runs, or is about to be begun again."""
        return self.code is None or self.was_killed()

    def was_killed(self) -> bool:
        """Whether a signal ended it that did not come from here."""
        return not self.stopping and self.code is not None and self.code < 0

    def stop(self, *, again: bool = False) -> None:
        """Terminate it; `again`, even if that was done before: then it ends at once."""
        if self.process is not None and self.code is None and (again or not self.stopping):
            self.process.terminate()
        self.stopping = True

    def kill(self) -> None:
        """End it now, and wait until its last line is relayed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self._reader is not None:
            self._reader.join()

    def _relay(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._print(line.rstrip("\n"))

    def _print(self, line: str) -> None:
        self.console.print(Text(f"[worker {self.place.number}] {line}"), soft_wrap=True)
