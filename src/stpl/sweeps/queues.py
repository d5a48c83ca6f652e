"""What there is to do in a sweep, and when it is done: of a grid the records on disk say so, of a search the study.

Optuna's own GridSampler misses cells when workers run in parallel or die, so every cell of a grid is enqueued as a
trial under its run's name. A trial of a search whose worker died is tried again with the same parameters, so its runs
go on from their checkpoints.
"""

import importlib.util
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from stpl.errors import DIVERGED, ConfigError, unknown
from stpl.runs.record import RunRecord
from stpl.sweeps.claims import Claims, Failure, TrialDroppedError, name_of
from stpl.sweeps.grid import Cell, cells, trial_cells
from stpl.sweeps.schema import Sweep, sweep_file

_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, constant_liar=True),
    "random": lambda seed: RandomSampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    "cmaes": lambda seed: CmaEsSampler(seed=seed),
    "qmc": lambda seed: QMCSampler(seed=seed, scramble=True),
}
_NEEDS = {"gp": ("scipy", "torch"), "cmaes": ("cmaes",), "qmc": ("scipy",)}
CALL = "asked"
"""Name of a study's attribute: the sweep file and how the last call of `stpl sweep` narrowed it."""


@dataclass(frozen=True)
class Job:
    """What one trial runs: its cells, one after the other.

    Attributes:
        name: the run's key in a grid, without the seed in a search.
        title: on screen.
        place: its number from 1.
    """

    name: str
    title: str
    place: int
    cells: tuple[Cell, ...]


class Queue(Claims, ABC):
    """A sweep's trials, each tried `attempts` times at most; the `sampler` of a search as `stpl sweep` takes it.

    Attributes:
        cells: run's key → cell, in the order of running; none of a search, whose cells are not known beforehand.
        total: number of trials when all is done.
    """

    def __init__(
        self, storage: BaseStorage, sweep: Sweep, runs: Path, attempts: int = 3, sampler: str | None = None
    ) -> None:
        super().__init__(storage, sweep, runs)
        self.cells = {str(cell.key): cell for cell in cells(sweep)} if sweep.method == "grid" else {}
        self.total = sweep.run_cap if sweep.run_cap is not None and sweep.method != "grid" else len(self.cells)
        self._attempts = attempts
        self._sampler = sampler or ("tpe" if sweep.method == "bayes" else "random")
        self._check_space()
        self._check_metric()
        attributes = {
            "method": sweep.method,
            "metric": sweep.metric,
            "total": self.total,
            "runs": self._signature["runs"],
            CALL: {"file": str(sweep_file(sweep.path).absolute()), **sweep.narrowed},
        }
        for name, value in attributes.items():
            self.study.set_user_attr(name, value)

    def records(self) -> dict[str, RunRecord]:
        """The records of `cells`; raises `RecordError` for a torn one."""
        found = {name: cell.key.read(self.runs) for name, cell in self.cells.items()}
        return {name: record for name, record in found.items() if record is not None}

    def mark_recorded(self, values: Mapping[str, float]) -> None:
        """Show recorded cells (name → value of the metric) as COMPLETE in the study, whoever ran them."""
        known = {name_of(trial) for trial in self.trials(TrialState.COMPLETE)}
        for name, value in values.items():
            if name not in known:
                self.study.add_trial(
                    optuna.trial.create_trial(state=TrialState.COMPLETE, value=value, user_attrs={"cell": name})
                )

    @abstractmethod
    def left(self) -> int:
        """Number of trials that are neither done nor given up."""

    @abstractmethod
    def offer(self) -> bool:
        """Free the claims of the dead, enqueue what is to be tried again; whether there is something to claim."""

    @abstractmethod
    def job(self, trial: Trial) -> Job:
        """What a claimed trial is to run; raises `TrialDroppedError` if nothing."""

    def _check_space(self) -> None:
        """Refuse to go on with a search whose ranges were changed: the sampler would learn from another question."""
        space = repr({name: distribution.examples() for name, distribution in sorted(self.sweep.space.items())})
        if self.sweep.method != "grid" and self.study.user_attrs.get("space", space) != space:
            raise self._changed("its ranges changed since this search began", str(self.sweep.path))
        self.study.set_user_attr("space", space)

    def _check_metric(self) -> None:
        """Refuse to compare values of another metric: a search learns from them, a target and a pruner look at them."""
        sweep = self.sweep
        compares = sweep.method != "grid" or sweep.target is not None or sweep.early is not None
        metric, goal = str(self.study.user_attrs.get("metric", sweep.metric)), self.study.direction.name.lower()
        if compares and (metric, goal) != (sweep.metric, sweep.goal):
            raise self._changed(f"its metric was '{metric}', to {goal}, when this sweep began", f"{sweep.path}: metric")

    def _changed(self, what: str, where: str) -> ConfigError:
        name = self.study.study_name
        mend = f"give the file another name, or forget the study '{name}': optuna delete-study"
        return ConfigError(what, where=where, mend=mend)

    def ended_early(self) -> int:
        """Number of trials that the pruner ended."""
        return len({name_of(trial) for trial in self.trials(TrialState.PRUNED) if self._counts(trial)})

    def given_up(self) -> dict[str, Failure]:
        """The trials that failed as often as they may, or diverged, with their last failure."""
        failed = {name_of(trial) for trial in self.trials(TrialState.FAIL) if self._counts(trial)}
        failures = {name: self.failures(name) for name in failed if name is not None}
        return {name: found[-1] for name, found in failures.items() if self._is_spent(found)}

    def _is_spent(self, failures: Sequence[Failure]) -> bool:
        """Whether a trial with these failures is not worth another attempt; one that diverged would do so again."""
        return len(failures) >= self._attempts or any(failure["code"] == DIVERGED for failure in failures)

    def _counts(self, trial: FrozenTrial) -> bool:
        """Whether the file still asks for a trial: an earlier version of it may have asked for others."""
        return not self.cells or name_of(trial) in self.cells

    def _reached(self) -> bool:
        """Whether any trial met the target."""
        values = (trial.value for trial in self.trials(TrialState.COMPLETE) if self._counts(trial))
        return any(self.sweep.reached(value) for value in values if value is not None)

    def _running(self, trial: Trial, name: str) -> bool:
        """Whether an older claim runs the same."""
        rivals = [rival for rival in self.trials(TrialState.RUNNING) if rival.number < trial.number]
        return name in {name_of(rival) for rival in rivals}


class GridQueue(Queue):
    """The cells of a grid, each once."""

    def left(self) -> int:
        """Number of cells that are neither recorded, nor ended early, nor given up."""
        return 0 if self._reached() else len(self._todo())

    def offer(self) -> bool:
        """Enqueue what nobody has claimed or enqueued; whether any cell is now there to be claimed."""
        self.free_dead_claims()
        running = {name_of(trial) for trial in self.trials(TrialState.RUNNING)}
        waiting = {name_of(trial) for trial in self.trials(TrialState.WAITING)}
        todo = self._todo()
        for name in todo:
            if name not in running | waiting:
                self.study.enqueue_trial({}, user_attrs={"cell": name})
        return any(name not in running for name in todo)

    def job(self, trial: Trial) -> Job:
        """The cell that the trial was enqueued for.

        Dropped is what a call with other seeds left, and what two workers enqueued at the same moment: the older claim
        wins.
        """
        name = str(trial.user_attrs.get("cell"))
        if name not in self._todo() or self._running(trial, name):
            raise TrialDroppedError(name)
        cell = self.cells[name]
        return Job(name, cell.title, 1 + list(self.cells).index(name), (cell,))

    def _todo(self) -> list[str]:
        done = {*self.records(), *self._ended_early(), *self.given_up()}
        return [name for name in self.cells if name not in done]

    def _ended_early(self) -> set[str]:
        # One whose folder was deleted is to run again, as one whose record was deleted.
        names = {str(name_of(trial)) for trial in self.trials(TrialState.PRUNED)}
        return {name for name in names & set(self.cells) if self.cells[name].key.directory(self.runs).exists()}


class SearchQueue(Queue):
    """The trials of a random or Bayesian search: `run_cap` of them, each with all its seeds.

    A trial that is tried again is a new trial of the study with the same `root`, the number of the first one.
    """

    def left(self) -> int:
        """Number of trials that are neither done nor given up."""
        roots = self._roots()
        total = len(roots) if self._reached() else self.total
        # A file that asks for fewer than were begun asks for no more.
        return max(0, total - len([root for root, trials in roots.items() if self._is_done(trials)]))

    def offer(self) -> bool:
        """Enqueue again what a dead worker left and what failed; whether there is a trial to claim."""
        self.free_dead_claims()
        roots = self._roots()
        for root, trials in roots.items():
            ended = all(trial.state == TrialState.FAIL for trial in trials)
            if ended and not self._is_done(trials):
                drawn = next(trial.params for trial in trials if trial.params)
                self.study.enqueue_trial(drawn, user_attrs={"root": root, "cell": name_of(trials[0])})
        waiting = bool(self.trials(TrialState.WAITING))
        return waiting or (not self._reached() and self._originals() < self.total)

    def claim(self, run: Callable[[Trial], float]) -> None:
        """Claim the next trial, its parameters drawn from what is known, and `run` it."""
        # A function of the study's state: one worker alone repeats its proposals, two at once seldom draw the same.
        seed = zlib.crc32(f"{self.study.study_name}/{len(self.trials())}".encode())
        self.study.sampler = _SAMPLERS[self._sampler](seed)
        super().claim(run)

    def job(self, trial: Trial) -> Job:
        """The runs with the parameters that the sampler proposes; a trial too many, or one that runs, is dropped."""
        root = trial.user_attrs.get("root")
        over = self._originals(trial.number) >= self.total if root is None else self._is_done(self._roots()[root])
        if over:
            raise TrialDroppedError
        drawn = {name: distribution.draw(trial, name) for name, distribution in self.sweep.space.items()}
        found = trial_cells(self.sweep, drawn)
        name = f"{found[0].key.bench}/{found[0].key.experiment}"
        if self._running(trial, name):
            raise TrialDroppedError(name)
        trial.set_user_attr("cell", name)
        trial.set_user_attr("drawn", drawn)
        trial.set_user_attr("root", trial.number if root is None else root)
        varied = ", ".join(f"{key.removeprefix('model.')}={value}" for key, value in drawn.items())
        return Job(name, varied, len(self._roots()), tuple(found))

    def _roots(self) -> dict[int, list[FrozenTrial]]:
        roots: dict[int, list[FrozenTrial]] = {}
        for trial in self.trials():
            if "root" in trial.user_attrs:
                roots.setdefault(trial.user_attrs["root"], []).append(trial)
        return roots

    def _is_done(self, trials: list[FrozenTrial]) -> bool:
        if any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials):
            return True
        return self._is_spent(self.failures(str(name_of(trials[0]))))

    def _originals(self, before: int | None = None) -> int:
        """Number of trials begun, retries not counted; those that are just being drawn are."""
        trials = [trial for trial in self.trials() if before is None or trial.number < before]
        drawing = [t for t in trials if t.state == TrialState.RUNNING and "root" not in t.user_attrs]
        return len(drawing) + len({t.user_attrs["root"] for t in trials if "root" in t.user_attrs})


def check_sampler(sampler: str) -> None:
    """Raise `ConfigError` unless a sampler is known and what it needs is installed."""
    if sampler not in _SAMPLERS:
        raise unknown("sampler", sampler, _SAMPLERS, "--sampler")
    absent = [package for package in _NEEDS.get(sampler, ()) if importlib.util.find_spec(package) is None]
    if absent:
        what = f"the sampler '{sampler}' needs {absent[0]}, which is not installed"
        raise ConfigError(what, where="--sampler", mend=f"pip install {absent[0]}, or choose tpe")
