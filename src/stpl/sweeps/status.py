"""`stpl sweep status`: what runs where, what failed and why, and how long it will take."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stpl.errors import RecordError, StplError, note
from stpl.runs.record import METRICS, read_steps
from stpl.sweeps.claims import Failure, folder_token, name_of
from stpl.sweeps.display import clock
from stpl.sweeps.grid import Cell, cells, narrow
from stpl.sweeps.queues import CALL
from stpl.sweeps.schema import read_sweep
from stpl.sweeps.storage import opened


@dataclass(frozen=True)
class Running:
    """A trial that runs: its worker (host and process), seconds since its claim, its step (0 of 0 if unknown)."""

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
        total: number of trials of the file as it is now; the other numbers are of these.
        done: number of recorded ones.
        early: number of those that the pruner ended.
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


def _status(study: optuna.Study, runs: Path) -> Status:
    trials = study.get_trials(deepcopy=False)
    wanted = _wanted(study)
    by_name = _by_name(trials, wanted)
    states = {name: {trial.state for trial in found} for name, found in by_name.items()}
    done = {name for name, found in states.items() if TrialState.COMPLETE in found}
    token = folder_token(runs)
    if isinstance(wanted, Mapping) and token is not None and token == study.user_attrs.get("runs"):
        done = {name for name, cell in wanted.items() if _is_recorded(cell, runs)}  # they lie in this folder
    early = {name for name, found in states.items() if TrialState.PRUNED in found} - done
    active = {name for name, found in states.items() if found & {TrialState.RUNNING, TrialState.WAITING}}
    running = [_running(trial, runs) for trial in trials if trial.state == TrialState.RUNNING]
    failed: dict[str, Failure] = {}
    for name, trial in ((name, trial) for name, found in by_name.items() for trial in found):
        if "failure" in trial.user_attrs and name not in done | early | active:
            failed[name] = trial.user_attrs["failure"]
    ended = len(done) + len(early)
    if wanted is None:
        total = max(int(study.user_attrs.get("total", 0)), ended)
    else:
        total = wanted if isinstance(wanted, int) else len(wanted)
    return Status(
        study=study.study_name,
        total=total,
        done=len(done),
        early=len(early),
        waiting=len([name for name, found in states.items() if TrialState.WAITING in found]),
        running=tuple(running),
        failed=failed,
        eta=_eta(trials, running, total - ended),
    )


def _wanted(study: optuna.Study) -> Mapping[str, Cell] | int | None:
    """The cells (by key) or the number of trials that the sweep's file asks for now.

    `None`, and a note, if that cannot be known.
    """
    call = study.user_attrs.get(CALL)
    if call is None:  # a study of an older version
        return None
    data, experiments = (None if call.get(key) is None else Path(call[key]) for key in ("data", "experiments"))
    try:
        plan = narrow(read_sweep(Path(call["file"])), call.get("bench"), call.get("seeds"), data, experiments)
        return {str(cell.key): cell for cell in cells(plan)} if plan.method == "grid" else plan.run_cap
    except StplError as error:
        note(f"the counts are of all that it ever asked for, its file cannot be used: {error.what}", call["file"])
        return None


def _by_name(trials: Sequence[FrozenTrial], wanted: Mapping[str, Cell] | int | None) -> dict[str, list[FrozenTrial]]:
    """The trials that the file asks for, each with its further attempts: by cell, or by the first attempt's number."""
    found: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        name = name_of(trial)
        if name is not None:
            found.setdefault(str(trial.user_attrs.get("root", name)), []).append(trial)
    if isinstance(wanted, int):
        return dict(list(found.items())[:wanted])
    return {name: attempts for name, attempts in found.items() if wanted is None or name in wanted}


def _is_recorded(cell: Cell, runs: Path) -> bool:
    try:
        return cell.key.read(runs) is not None
    except RecordError as error:
        note(error.what, error.where)
        return False


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


def _eta(trials: Sequence[FrozenTrial], running: Sequence[Running], left: int) -> float | None:
    """What is left at the mean duration of the finished, by as many workers as run now."""
    # What was recorded before the sweep began has no duration.
    finished = [trial.duration for trial in trials if trial.state == TrialState.COMPLETE and trial.duration]
    durations = [duration.total_seconds() for duration in finished if duration > timedelta(seconds=1)]
    if not durations or not running or left <= 0:
        return None
    mean = statistics.fmean(durations)
    spent = sum(min(item.seconds, mean) for item in running)
    return max(0.0, mean * left - spent) / len(running)


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
        lines = [line for line in failure["tail"].splitlines() if not line.lstrip().startswith("→")]  # how to mend it
        last = lines[-1] if lines else "no output"
        line = f"failed: {failure['run']} (exit code {failure['code']}): {last}\n  → {failure['log']}"
        console.print(Text(line), soft_wrap=True)
