"""One worker at one sweep file: claim a trial, run its cells, judge them, until nothing is left."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path

import optuna
from optuna.trial import Trial, TrialState
from rich.console import Console

from stpl.errors import DIVERGED, STOPPED, ConfigError, RecordError
from stpl.runs.folder import LOG, lock_run
from stpl.runs.record import RunRecord
from stpl.sweeps.claims import Failure, TrialFailedError
from stpl.sweeps.grid import Cell, command_line, write_arguments
from stpl.sweeps.launcher import Launcher
from stpl.sweeps.metric import curve, final_value
from stpl.sweeps.progress import Progress
from stpl.sweeps.queues import GridQueue, Job, SearchQueue, make_queue
from stpl.sweeps.schema import Sweep
from stpl.sweeps.search_tables import write_results
from stpl.sweeps.settings import Settings
from stpl.sweeps.storage import default_url, opened
from stpl.sweeps.trial import Outcome, run_trial

_USER_MISTAKE = 2  # exit code of a trial whose options are wrong: trying again cannot help
_LOOK_SECONDS = 10.0  # how old the estimate of what is left may be
_STOPPED_AT = re.compile(r"stopped at step (\d+)")  # what `stpl fit` says of a run that ended before its last step
_LOCKED = "is training in this folder"  # what `lock_run` says


class Worker:
    """Works at one sweep file.

    Args:
        sweep: the file.
        settings: of the call.
        launcher: starts the trials.
        console: where to tell how it goes.
    """

    def __init__(self, sweep: Sweep, settings: Settings, launcher: Launcher, console: Console) -> None:
        self.sweep, self._settings, self._launcher, self._console = sweep, settings, launcher, console
        self._url = settings.storage or default_url(settings.runs, sweep.bench)
        self._name = sweep.path.stem
        self._durations: dict[str, float] = {}  # of the cells that this worker ran
        self._stopped: dict[str, int] = {}  # step at which a session of the cell ended

    def work(self) -> bool:
        """Run all that is left; whether every trial is done (and none was given up)."""
        with opened(self._url) as storage:
            self._queue = make_queue(
                storage,
                self.sweep,
                self._settings.runs,
                self._settings.attempts,
                self._settings.sampler,
            )
            self._progress = Progress(self._name, self._queue.total, self._console)
            records = self._queue.records()
            values = {name: self._value(self._queue.cells[name], record) for name, record in records.items()}
            self._queue.mark_recorded(values)
            while left := self._queue.left():
                if self._queue.offer():
                    self._queue.claim(self._run)
                else:
                    self._progress.wait(left)
                    self._queue.wait()
            return self._end()

    def _end(self) -> bool:
        self._queue.tidy()
        failed = self._queue.given_up()
        if isinstance(self._queue, SearchQueue):
            write_results(self._queue, self._progress.tell)
        for name, failure in failed.items():
            how = f"exit code {failure['code']}" if failure["code"] else "no record"
            self._progress.tell(f"{name} failed with {how}; {failure['log']} ends:")
            self._progress.tell("\n".join(f"    {line}" for line in failure["tail"].splitlines()))
        self._progress.tell(f"{self._name}: {self._summary(len(failed))}")
        return not failed

    def _summary(self, failed: int) -> str:
        total, early = self._queue.total, self._queue.ended_early()
        things = "cells" if isinstance(self._queue, GridQueue) else "trials"
        if failed:
            return f"{failed} of {total} {things} failed"
        return f"all {total} {things} are {f'done, {early} of them ended early' if early else 'recorded'}"

    def _run(self, trial: Trial) -> float:
        """Run one claimed trial; the mean over its seeds of the metric."""
        job = self._queue.job(trial)
        self._look_around()
        watch = _Watch(trial, self.sweep)
        values = []
        for cell in job.cells:
            watch.follow(cell.key.directory(self._settings.runs))
            values.append(self._value(cell, self._complete(cell, job, trial, watch)))
            watch.look(may_end=cell is not job.cells[-1])
        return statistics.fmean(values)

    def _look_around(self, ended: int = 0) -> None:
        """See what all workers have done; `ended` trials are over, but the study does not know it yet."""
        recorded = {name: record["seconds"] for name, record in self._queue.records().items()}
        self._left, self._looked = self._queue.left() - ended, time.monotonic()
        durations = list((self._durations | recorded).values())
        self._progress.know(durations, self._left, len(self._queue.trials(TrialState.RUNNING)))

    def _complete(self, cell: Cell, job: Job, trial: Trial, watch: _Watch) -> RunRecord:
        """The record of a cell, which is trained if it has none."""
        while (record := cell.key.read(self._settings.runs)) is None:
            if _is_busy(cell.key.directory(self._settings.runs)):
                self._progress.wait(self._left)  # somebody runs it by hand, or a worker that was taken for dead
                self._queue.wait()
            else:
                self._attempt(cell, job, trial, watch)
        return record

    def _attempt(self, cell: Cell, job: Job, trial: Trial, watch: _Watch) -> None:
        directory = cell.key.directory(self._settings.runs)
        title = job.title if len(job.cells) == 1 else f"{job.title}, seed {cell.key.seed}"
        self._progress.start(title, job.place, directory)
        write_arguments(self.sweep, cell, self._settings.runs)
        command = command_line(self.sweep, cell, self._settings.runs)
        try:
            outcome = run_trial(self._launcher, command, directory, self._settings.runs, lambda: self._tick(watch))
        except optuna.TrialPruned as early:
            self._progress.finish(f"ended early ({early})")
            raise
        except BaseException:
            self._progress.finish("stopped")
            raise
        self._judge(cell, job, trial, outcome)

    def _tick(self, watch: _Watch) -> None:
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look_around()
        self._progress.tick()
        watch.look(may_end=True)

    def _judge(self, cell: Cell, job: Job, trial: Trial, outcome: Outcome) -> None:
        record, directory = cell.key.read(self._settings.runs), cell.key.directory(self._settings.runs)
        if outcome.code == 0 and record is not None:
            value = self._value(cell, record)
            short = "mIoU" if self.sweep.metric == "val/miou" else self.sweep.metric
            self._durations[str(cell.key)] = record["seconds"]
            self._look_around(ended=isinstance(self._queue, SearchQueue) and cell is job.cells[-1])
            self._progress.finish(f"{short} {value:.2f} in {outcome.seconds:.0f} s")
            return
        if outcome.code == _USER_MISTAKE and _LOCKED in outcome.tail:
            self._progress.finish("runs elsewhere")
            return
        if outcome.code == STOPPED and self._went_on(cell, outcome):
            self._progress.finish(f"stopped at step {self._stopped[str(cell.key)]}, goes on")
            return
        ended = f"exit code {outcome.code}" if outcome.code else "it wrote no record"
        failure = Failure(run=str(cell.key), code=outcome.code, tail=outcome.tail, log=str(directory / LOG))
        self._queue.fail(trial, failure)
        if outcome.code == _USER_MISTAKE:
            self._progress.finish(f"failed ({ended})")
            raise ConfigError(
                f"the trial refuses its options:\n{outcome.tail}",
                where=directory / LOG,
                mend="mend what it names and call again; what is recorded is kept",
            )
        times, allowed = 1 + len(self._queue.failures(job.name)), self._settings.attempts
        over = times >= allowed or outcome.code == DIVERGED
        again = "given up" if over else f"trying again (attempt {times + 1} of {allowed})"
        self._progress.finish(f"failed ({ended}), {again}")
        raise TrialFailedError(job.name)

    def _went_on(self, cell: Cell, outcome: Outcome) -> bool:
        """Whether a session that was stopped (`trainer.max_time`, say) came further than the one before it."""
        step = max((int(found) for found in _STOPPED_AT.findall(outcome.tail)), default=-1)
        before = self._stopped.get(str(cell.key), -1)
        self._stopped[str(cell.key)] = step
        return step > before

    def _value(self, cell: Cell, record: RunRecord) -> float:
        return final_value(record, cell.key.directory(self._settings.runs), self.sweep.metric)


class _Watch:
    """Reports the metric's values to the study while a trial runs, and ends it where the pruner says so.

    Evaluations are counted over all seeds of the trial, from 0, the evaluation of the first one's starting point. At
    evaluation i of a seed, the value is the mean over the seeds begun of their values at i.
    """

    def __init__(self, trial: Trial, sweep: Sweep) -> None:
        self._trial, self._name = trial, sweep.metric
        self._curves: list[list[float]] = []
        self._reported, self._size = 0, -1

    def follow(self, directory: Path) -> None:
        """The next cell begins."""
        self._directory = directory
        self._curves.append([])
        self._reported, self._size = 0, -1

    def look(self, *, may_end: bool) -> None:
        """Report what is new; raises `optuna.TrialPruned` if the trial may end here and the pruner says so."""
        found = curve(self._directory, self._name)
        if len(found) <= self._reported:
            return
        self._curves[-1] = found
        before = sum(map(len, self._curves[:-1]))
        for index in range(self._reported, len(found)):
            self._trial.report(self._mean_at(index), before + index)
            if may_end and self._trial.should_prune():
                raise optuna.TrialPruned(f"evaluation {before + index}: {self._name} {self._mean_at(index):.2f}")
        self._reported = len(found)

    def _mean_at(self, index: int) -> float:
        return statistics.fmean(values[min(index, len(values) - 1)] for values in self._curves if values)


def _is_busy(directory: Path) -> bool:
    """Whether a process is training in the folder."""
    if not directory.exists():
        return False
    try:
        with lock_run(directory):
            return False
    except RecordError:
        return True
