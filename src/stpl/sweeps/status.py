"""`stpl sweep status`: what runs where, what failed and why, and how long it will take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stpl.errors import RecordError, StplError, note
from stpl.runs.record import METRICS
from stpl.sweeps.claims import Failure, name_of
from stpl.sweeps.grid import Cell, cells, narrow
from stpl.sweeps.progress import clock, read_steps
from stpl.sweeps.queues import ASKED, folder_token
from stpl.sweeps.schema import read_sweep
from stpl.sweeps.storage import opened


@dataclass(frozen=True)
class Running:
    """A trial that runs.

    Attributes:
        name: the run's key in a grid, without its seed in a search.
        worker: host and process.
        seconds: since it was claimed.
        step: the last step of the run that is being trained, 0 if none is known.
        steps: their number, 0 if unknown.
    """

    name: str
    worker: str
    seconds: float
    step: int
    steps: int


@dataclass(frozen=True)
class Status:
    """How far one sweep is.

    Attributes:
        study: `bench/file`.
        total: number of trials that the file asks for now.
        done: number of recorded ones among these.
        early: number of those that the pruner ended.
        waiting: number of those enqueued.
        running: those that run.
        failed: name → last failure of those whose last attempt failed and that no one tries at the moment.
        eta: seconds until all are done at the pace so far, `None` if unknown or nothing runs.
    """

    study: str
    total: int
    done: int
    early: int
    waiting: int
    running: tuple[Running, ...]
    failed: dict[str, Failure]
    eta: float | None


def read_status(url: str, runs: Path) -> list[Status]:
    """The status of every sweep in the database at `url`; step numbers are read below `runs`."""
    with opened(url) as storage:
        names = optuna.get_all_study_names(storage=storage)
        return [_status(optuna.load_study(study_name=name, storage=storage), runs) for name in sorted(names)]


@dataclass(frozen=True)
class _Asked:
    """What a sweep's file asks for now.

    Attributes:
        total: number of trials.
        cells: key → cell of a grid; `None` for a search, whose trials are the first `total` begun.
    """

    total: int
    cells: Mapping[str, Cell] | None


def _status(study: optuna.Study, runs: Path) -> Status:
    trials = study.get_trials(deepcopy=False)
    asked = _asked(study)
    by_name = _by_name(trials, asked)
    states = {name: {trial.state for trial in found} for name, found in by_name.items()}
    done = {name for name, found in states.items() if TrialState.COMPLETE in found}
    if asked is not None and asked.cells is not None and _is_of(study, runs):
        done = {name for name, cell in asked.cells.items() if _is_recorded(cell, runs)}
    early = {name for name, found in states.items() if TrialState.PRUNED in found} - done
    active = {name for name, found in states.items() if found & {TrialState.RUNNING, TrialState.WAITING}}
    running = [_running(trial, runs) for trial in trials if trial.state == TrialState.RUNNING]
    ended = len(done) + len(early)
    total = max(int(study.user_attrs.get("total", 0)), ended) if asked is None else asked.total
    return Status(
        study=study.study_name,
        total=total,
        done=len(done),
        early=len(early),
        waiting=len([name for name, found in states.items() if TrialState.WAITING in found]),
        running=tuple(running),
        failed=_failures(by_name, done | early | active),
        eta=_eta(trials, running, total - ended),
    )


def _asked(study: optuna.Study) -> _Asked | None:
    """What the sweep's file asks for now; `None`, and a note, if that cannot be known."""
    given = study.user_attrs.get(ASKED)
    if given is None:  # a study of an older version
        return None
    data, experiments = (None if given.get(key) is None else Path(given[key]) for key in ("data", "experiments"))
    try:
        plan = narrow(read_sweep(Path(given["file"])), given.get("bench"), given.get("seeds"), data, experiments)
        if plan.method != "grid":
            return _Asked(plan.run_cap or 0, None)
        found = {str(cell.key): cell for cell in cells(plan)}
    except StplError as error:
        note(f"the counts are of all that it ever asked for, its file cannot be used: {error.what}", given["file"])
        return None
    return _Asked(len(found), found)


def _by_name(trials: Sequence[FrozenTrial], asked: _Asked | None) -> dict[str, list[FrozenTrial]]:
    """The trials that the file asks for, each with its further attempts: by cell, or by the first attempt's number."""
    found: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        name = name_of(trial)
        if name is not None:
            found.setdefault(str(trial.user_attrs.get("root", name)), []).append(trial)
    if asked is None:
        return found
    if asked.cells is None:
        return dict(list(found.items())[: asked.total])
    return {name: attempts for name, attempts in found.items() if name in asked.cells}


def _is_recorded(cell: Cell, runs: Path) -> bool:
    try:
        return cell.key.read(runs) is not None
    except RecordError as error:
        note(error.what, error.where)
        return False


def _is_of(study: optuna.Study, runs: Path) -> bool:
    """Whether the sweep's records lie in this folder of runs, so that they can be asked what is done."""
    token = folder_token(runs)
    return token is not None and token == study.user_attrs.get("runs")


def _running(trial: FrozenTrial, runs: Path) -> Running:
    name = str(name_of(trial) or "drawing its parameters")
    began = trial.datetime_start or datetime.now()
    # In a search the name lacks the seed: the run that was written to last is the one being trained.
    folders = [runs / name, *(runs / name).glob("seed*")]
    files = [folder / METRICS for folder in folders if (folder / METRICS).is_file()]
    newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
    step, steps = (0, 0) if newest is None else read_steps(newest)
    seconds = (datetime.now() - began).total_seconds()
    return Running(name, str(trial.user_attrs.get("worker", "?")), seconds, step, steps)


def _failures(by_name: dict[str, list[FrozenTrial]], fine: Iterable[str]) -> dict[str, Failure]:
    found = {}
    for name, trials in by_name.items():
        failures = [trial.user_attrs["failure"] for trial in trials if "failure" in trial.user_attrs]
        if failures and name not in fine:
            found[name] = cast(Failure, failures[-1])
    return found


def _eta(trials: Sequence[FrozenTrial], running: Sequence[Running], left: int) -> float | None:
    """What is left at the mean duration of the finished, by as many workers as run now."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    durations = [_duration(trial) for trial in finished if _duration(trial) > timedelta(seconds=1)]
    if not durations or not running or left <= 0:
        return None
    mean = statistics.fmean(duration.total_seconds() for duration in durations)
    spent = sum(min(item.seconds, mean) for item in running)
    return max(0.0, mean * left - spent) / len(running)


def _duration(trial: FrozenTrial) -> timedelta:
    return trial.duration or timedelta(0)  # what was recorded before the sweep began has none


def show(item: Status, console: Console) -> None:
    """Print a sweep's status."""
    eta = "" if item.eta is None else f", ETA {clock(item.eta)}"
    early = f", {item.early} ended early" if item.early else ""
    line = f"{item.done} of {item.total} recorded{early}, {len(item.running)} running, {item.waiting} waiting"
    console.print(Text(f"{item.study}: {line}, {len(item.failed)} failed{eta}", style="bold"), soft_wrap=True)
    if item.running:
        table = Table("run", "worker", "step", "for", box=box.SIMPLE_HEAD, pad_edge=False)
        for running in item.running:
            step = f"{running.step}/{running.steps}" if running.steps else ""
            table.add_row(*map(Text, (running.name, running.worker, step, clock(running.seconds))))
        console.print(table)
    for failure in item.failed.values():
        told = [line for line in failure["tail"].splitlines() if not line.lstrip().startswith("→")]  # how to mend it
        last = told[-1] if told else "no output"
        line = f"failed: {failure['run']} (exit code {failure['code']}): {last}\n  → {failure['log']}"
        console.print(Text(line), soft_wrap=True)
