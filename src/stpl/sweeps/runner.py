"""One worker at one sweep file: claim a trial, run its cells, evaluate them, until nothing is left."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState
from rich.console import Console

from stpl.errors import DIVERGED, STOPPED, ConfigError, RecordError, unknown
from stpl.runs.folder import LOG, lock_run
from stpl.runs.record import METRICS, RunRecord, flat, read_metrics
from stpl.sweeps.claims import Failure, TrialFailedError
from stpl.sweeps.display import Display
from stpl.sweeps.grid import Cell, command_line, write_arguments
from stpl.sweeps.launcher import EndedTrial, Launcher
from stpl.sweeps.queues import GridQueue, Job, SearchQueue
from stpl.sweeps.schema import Sweep
from stpl.sweeps.search_tables import write_results
from stpl.sweeps.storage import default_url, opened
from stpl.sweeps.supervisor import WorkerOptions
from stpl.yaml_files import is_number

_USER_MISTAKE = 2  # exit code of a trial whose options are wrong: trying again cannot help
_LOOK_SECONDS = 10.0  # how old the estimate of what is left may be
_STOPPED_AT = re.compile(r"stopped at step (\d+)")  # what `stpl fit` says of a run that ended before its last step
_LOCKED = "is training in this folder"  # what `lock_run` says


class Worker:
    """Works at one sweep file."""

    def __init__(self, sweep: Sweep, options: WorkerOptions, launcher: Launcher, console: Console) -> None:
        self.sweep, self._options, self._launcher, self._console = sweep, options, launcher, console
        self._runs = options.runs
        self._name = sweep.path.stem
        self._durations: dict[str, float] = {}  # of the cells that this worker ran
        self._stopped: dict[str, int] = {}  # step at which a session of the cell ended

    def work(self) -> bool:
        """Run all that is left; whether every trial is done (and none was given up)."""
        options = self._options
        with opened(options.storage or default_url(self._runs, self.sweep.bench)) as storage:
            kind = GridQueue if self.sweep.method == "grid" else SearchQueue
            self._queue = kind(storage, self.sweep, self._runs, options.attempts, options.sampler)
            self._display = Display(self._name, self._queue.total, self._console)
            records = self._queue.records()
            values = {name: self._value(self._queue.cells[name], record) for name, record in records.items()}
            self._queue.mark_recorded(values)
            while left := self._queue.left():
                if self._queue.offer():
                    self._queue.claim(self._run)
                else:
                    self._display.on_wait(left)
                    self._queue.wait()
            return self._end()

    def _end(self) -> bool:
        self._queue.tidy()
        failed = self._queue.given_up()
        if isinstance(self._queue, SearchQueue):
            write_results(self._queue, self._display.print)
        for name, failure in failed.items():
            how = f"exit code {failure['code']}" if failure["code"] else "no record"
            self._display.print(f"{name} failed with {how}; {failure['log']} ends:")
            self._display.print("\n".join(f"    {line}" for line in failure["tail"].splitlines()))
        total, early = self._queue.total, self._queue.ended_early()
        things = "cells" if isinstance(self._queue, GridQueue) else "trials"
        done = f"all {total} {things} are {f'done, {early} of them ended early' if early else 'recorded'}"
        self._display.print(f"{self._name}: {f'{len(failed)} of {total} {things} failed' if failed else done}")
        return not failed

    def _run(self, trial: Trial) -> float:
        """Run one claimed trial; the mean over its seeds of the metric."""
        job = self._queue.job(trial)
        self._look_around()
        watch = _Watch(trial, self.sweep.metric)
        values = []
        for cell in job.cells:
            values.append(self._value(cell, self._complete(cell, job, trial, watch)))
            watch.look(cell.key.directory(self._runs), may_end=cell is not job.cells[-1])
        return statistics.fmean(values)

    def _look_around(self, ended: int = 0) -> None:
        """See what all workers have done; `ended` trials are over, but the study does not know it yet."""
        recorded = {name: record["seconds"] for name, record in self._queue.records().items()}
        self._left, self._looked = self._queue.left() - ended, time.monotonic()
        durations = list((self._durations | recorded).values())
        self._display.update(durations, self._left, len(self._queue.trials(TrialState.RUNNING)))

    def _complete(self, cell: Cell, job: Job, trial: Trial, watch: _Watch) -> RunRecord:
        """The record of a cell, which is trained if it has none."""
        while (record := cell.key.read(self._runs)) is None:
            if _is_busy(cell.key.directory(self._runs)):
                self._display.on_wait(self._left)  # somebody runs it by hand, or a worker that seemed dead
                self._queue.wait()
            else:
                self._attempt(cell, job, trial, watch)
        return record

    def _attempt(self, cell: Cell, job: Job, trial: Trial, watch: _Watch) -> None:
        directory = cell.key.directory(self._runs)
        title = job.title if len(job.cells) == 1 else f"{job.title}, seed {cell.key.seed}"
        self._display.on_start(title, job.place, directory)
        write_arguments(self.sweep, cell, self._runs)
        command = command_line(self.sweep, cell, self._runs)
        try:
            ended = self._launcher.run(command, directory, self._runs, lambda: self._tick(watch, directory))
        except optuna.TrialPruned as early:
            self._display.on_end(f"ended early ({early})")
            raise
        except BaseException:
            self._display.on_end("stopped")
            raise
        self._conclude(cell, job, trial, ended)

    def _tick(self, watch: _Watch, directory: Path) -> None:
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look_around()
        self._display.on_tick()
        watch.look(directory, may_end=True)

    def _conclude(self, cell: Cell, job: Job, trial: Trial, ended: EndedTrial) -> None:
        record, directory = cell.key.read(self._runs), cell.key.directory(self._runs)
        if ended.code == 0 and record is not None:
            value = self._value(cell, record)
            short = "mIoU" if self.sweep.metric == "val/miou" else self.sweep.metric
            self._durations[str(cell.key)] = record["seconds"]
            self._look_around(ended=isinstance(self._queue, SearchQueue) and cell is job.cells[-1])
            self._display.on_end(f"{short} {value:.2f} in {ended.seconds:.0f} s")
            return
        if ended.code == _USER_MISTAKE and _LOCKED in ended.tail:
            self._display.on_end("runs elsewhere")
            return
        if ended.code == STOPPED and self._went_on(cell, ended):
            self._display.on_end(f"stopped at step {self._stopped[str(cell.key)]}, goes on")
            return
        how = f"exit code {ended.code}" if ended.code else "it wrote no record"
        failure = Failure(run=str(cell.key), code=ended.code, tail=ended.tail, log=str(directory / LOG))
        trial.set_user_attr("failure", failure)
        if ended.code == _USER_MISTAKE:
            self._display.on_end(f"failed ({how})")
            mend = "mend what it names and call again; what is recorded is kept"
            raise ConfigError(f"the trial refuses its options:\n{ended.tail}", where=directory / LOG, mend=mend)
        times, allowed = 1 + len(self._queue.failures(job.name)), self._options.attempts
        over = times >= allowed or ended.code == DIVERGED
        again = "given up" if over else f"trying again (attempt {times + 1} of {allowed})"
        self._display.on_end(f"failed ({how}), {again}")
        raise TrialFailedError(job.name)

    def _went_on(self, cell: Cell, ended: EndedTrial) -> bool:
        """Whether a session that was stopped (`trainer.max_time`, say) came further than the one before it."""
        step = max((int(found) for found in _STOPPED_AT.findall(ended.tail)), default=-1)
        before = self._stopped.get(str(cell.key), -1)
        self._stopped[str(cell.key)] = step
        return step > before

    def _value(self, cell: Cell, record: RunRecord) -> float:
        return final_value(record, cell.key.directory(self._runs), self.sweep.metric)


class _Watch:
    """Reports the metric's values to the study while a trial runs, and ends it where the pruner says so.

    Evaluations are counted over all seeds of the trial, from 0, the evaluation of the first one's starting point. At
    evaluation i of a seed, the value is the mean over the seeds begun of their values at i.
    """

    def __init__(self, trial: Trial, metric: str) -> None:
        self._trial, self._name = trial, metric
        self._curves: dict[Path, list[float]] = {}

    def look(self, directory: Path, *, may_end: bool) -> None:
        """Report what is new in a run's folder.

        Raises:
            optuna.TrialPruned: the trial may end here and the pruner says so.
        """
        found, reported = curve(directory, self._name), len(self._curves.get(directory, ()))
        if len(found) <= reported:
            return
        self._curves[directory] = found
        before = sum(map(len, self._curves.values())) - len(found)
        for index in range(reported, len(found)):
            mean = statistics.fmean(values[min(index, len(values) - 1)] for values in self._curves.values())
            self._trial.report(mean, before + index)
            if may_end and self._trial.should_prune():
                raise optuna.TrialPruned(f"evaluation {before + index}: {self._name} {mean:.2f}")


def curve(directory: Path, name: str) -> list[float]:
    """The values of a metric in a run's `metrics.csv`, in the order of writing; empty if there are none yet."""
    return [value for _, found, value in read_metrics(directory / METRICS) if found == name]


def final_value(record: RunRecord, directory: Path, name: str) -> float:
    """The value of a metric at the end of a recorded run.

    Its `name` is `val/…`, `selected/…` or `best/…` for an evaluation in the record (`val/iou/road` for one class), a
    field of the record such as `seconds`, or any other name in metrics.csv, whose last value counts.

    Raises:
        ConfigError: if the run has no such number.
    """
    fields: dict[str, Any] = {**record}
    known = {key: float(value) for key, value in fields.items() if is_number(value)}
    for moment, evaluation in (("val", record["last"]), ("selected", record["selected"]), ("best", record["best"])):
        known |= {f"{moment}/{key}": value for key, value in flat(evaluation or {}).items()}
    if name in known:
        return known[name]
    values = curve(directory, name)
    if values:
        return values[-1]
    error = unknown("metric", name, {*known, *(found for _, found, _ in read_metrics(directory / METRICS))}, directory)
    raise ConfigError(error.what, where=directory, mend=f"name another in the sweep file; {error.mend}")


def _is_busy(directory: Path) -> bool:
    """Whether a process is training in the folder."""
    if not directory.exists():
        return False
    try:
        with lock_run(directory):
            return False
    except RecordError:
        return True
