"""`stpl sweep`: run every cell of sweep files exactly once, whatever dies in between."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from stpl.errors import ConfigError, StplError
from stpl.record import RunRecord
from stpl.sweeps.grid import Cell, cells, command_line, narrow
from stpl.sweeps.progress import Progress
from stpl.sweeps.schema import Sweep, read_sweep
from stpl.sweeps.trial import LOG, Outcome, run_trial

_USER_MISTAKE = 2  # exit code of a trial whose options are wrong: trying again cannot help


def sweep(
    files: list[Path],
    *,
    bench: str | None = None,
    seeds: int | None = None,
    runs: Path = Path("runs"),
    storage: str | None = None,
    max_retries: int = 3,
    dry_run: bool = False,
) -> None:
    """Run the cells of sweep files, one subprocess each, skipping what is recorded.

    The files run in the given order; one begins only when every cell of those before it is recorded. Call it again at
    any time: what is recorded is skipped, what was killed resumes from its checkpoint.

    Args:
        files: sweep files in W&B's schema with `method: grid`.
        bench: benchmark to run on instead of the one in the files.
        seeds: run the seeds 0 to this number minus one instead of those in the files (a constant seed stays).
        runs: folder of all runs.
        storage: URL of the database that several workers share; an SQLite file beside the runs if not given.
        max_retries: how often a cell that fails is tried again.
        dry_run: list the cells and whether they are recorded, and run nothing.

    Raises:
        StplError: for a sweep file, a record or a trial's options that cannot be used as they are.
        SystemExit: 1 if cells failed for good; 130 after Ctrl-C and 143 after SIGTERM, leaving all resumable.
    """
    if max_retries < 0:
        raise ConfigError(f"{max_retries} retries are not possible", where="max_retries", mend="choose 0 or more")
    if os.name != "posix":
        raise StplError("sweeps need process groups, which this system lacks", mend="run it on Linux, macOS or WSL")
    console = Console(highlight=False)
    schedules = [_Schedule(narrow(read_sweep(path), bench, seeds), runs, console, max_retries) for path in files]
    for schedule in schedules:
        for cell in schedule.cells.values():
            command_line(schedule.sweep, cell)  # every mistake is told before anything runs
    if dry_run:
        for schedule in schedules:
            schedule.show()
        return
    with _interruptible(console):
        for schedule in schedules:
            schedule.run(storage)


class _Schedule:
    """The cells of one file and how far they are."""

    def __init__(self, sweep: Sweep, runs: Path, console: Console, max_retries: int) -> None:
        self.sweep, self._runs, self._console, self._max_retries = sweep, runs, console, max_retries
        self.cells = {str(cell.key): cell for cell in cells(sweep)}
        self._attempts: Counter[str] = Counter()
        self._failed: dict[str, Outcome] = {}

    def run(self, storage: str | None) -> None:
        """Run all that is not recorded; exits with 1 if cells failed for good."""
        records = self._records()
        durations = [record["seconds"] for record in records.values()]
        self._progress = Progress(self.sweep.path.stem, len(self.cells), durations, self._console)
        if len(records) < len(self.cells):
            self._work(storage, records)
        if self._failed:
            self._report_failures()
        self._progress.tell(f"{self.sweep.path.stem}: all {len(self.cells)} cells are recorded")

    def show(self) -> None:
        """List the cells without running any."""
        records = self._records()
        for index, (name, cell) in enumerate(self.cells.items(), 1):
            state = "recorded" if name in records else "to run"
            self._console.print(f"[{index}/{len(self.cells)}] {cell.title}: {state}", markup=False, soft_wrap=True)

    def _work(self, storage: str | None, records: dict[str, RunRecord]) -> None:
        from stpl.sweeps.claims import CellQueue, open_storage  # Optuna takes most of a second to import

        bench = next(iter(self.cells.values())).key.bench
        url = storage or f"sqlite:///{(self._runs / bench / 'sweeps.sqlite3').absolute()}"
        queue = CellQueue(open_storage(url), f"{bench}/{self.sweep.path.stem}", self.sweep.goal)
        queue.mark_recorded({name: record["last"]["miou"] for name, record in records.items()})
        while todo := self._todo():
            if queue.offer(todo):
                queue.claim(todo, self._train)
            else:
                self._progress.wait(len(todo))
                queue.wait()

    def _train(self, name: str) -> float:
        """Train one claimed cell; its mIoU at the last step."""
        from stpl.sweeps.claims import TrialFailedError

        cell = self.cells[name]
        record = cell.key.read(self._runs)
        if record is None:
            outcome = self._try(cell)
            record = cell.key.read(self._runs) if outcome.code == 0 else None
            self._judge(name, outcome, record)
        if record is None:
            raise TrialFailedError(name)
        return float(record["last"]["miou"])

    def _try(self, cell: Cell) -> Outcome:
        directory = cell.key.directory(self._runs)
        index = 1 + list(self.cells.values()).index(cell)
        self._progress.start(cell.title, index, len(self._todo()), directory)
        try:
            return run_trial(command_line(self.sweep, cell), directory, self._runs, self._progress.tick)
        except BaseException:
            self._progress.finish("stopped", None)
            raise

    def _judge(self, name: str, outcome: Outcome, record: RunRecord | None) -> None:
        if record is not None:
            seconds = record["seconds"]
            self._progress.finish(f"mIoU {record['last']['miou']:.2f} in {outcome.seconds:.0f} s", seconds)
            return
        self._attempts[name] += 1
        ended = f"exit code {outcome.code}" if outcome.code else "it wrote no record"
        if outcome.code == _USER_MISTAKE:
            self._progress.finish(f"failed ({ended})", None)
            raise ConfigError(
                f"the trial refuses its options:\n{outcome.tail}",
                where=self._log(name),
                mend="mend what it names and call again; what is recorded is kept",
            )
        final = self._attempts[name] > self._max_retries
        again = "given up" if final else f"trying again ({self._attempts[name]} of {self._max_retries})"
        self._progress.finish(f"failed ({ended}), {again}", None)
        if final:
            self._failed[name] = outcome

    def _report_failures(self) -> None:
        for name, outcome in self._failed.items():
            self._progress.tell(f"{name} failed with exit code {outcome.code}; {self._log(name)} ends:")
            self._progress.tell("\n".join(f"    {line}" for line in outcome.tail.splitlines()))
        self._progress.tell(f"{self.sweep.path.stem}: {len(self._failed)} of {len(self.cells)} cells failed")
        raise SystemExit(1)

    def _records(self) -> dict[str, RunRecord]:
        found = {name: cell.key.read(self._runs) for name, cell in self.cells.items()}
        return {name: record for name, record in found.items() if record is not None}

    def _todo(self) -> list[str]:
        done = self._records()
        return [name for name in self.cells if name not in done and name not in self._failed]

    def _log(self, name: str) -> Path:
        return self.cells[name].key.directory(self._runs) / LOG


class _Terminated(KeyboardInterrupt):
    """SIGTERM, treated like Ctrl-C but for the exit code."""


@contextmanager
def _interruptible(console: Console) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into the exit codes 130 and 143."""
    main = threading.current_thread() is threading.main_thread()  # only it may set signal handlers
    before = signal.signal(signal.SIGTERM, _terminate) if main else None
    try:
        yield
    except KeyboardInterrupt as interrupt:
        console.print("interrupted; call again to resume")
        raise SystemExit(143 if isinstance(interrupt, _Terminated) else 130) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated
