"""Which worker runs which trial: claims in an Optuna study that several workers may share.

A trial is claimed by the one worker that turns it to RUNNING, which then signs it and lets its heart beat: a number
that grows. A claim is free again when its process on this machine is gone, or for a worker that saw its number stand
still for long: no clocks are compared, and every storage serves, also one without Optuna's own heartbeats (gRPC).
"""

import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TypedDict, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from stpl.errors import ConfigError
from stpl.files import write_atomically
from stpl.sweeps.interrupts import waiting
from stpl.sweeps.schema import Sweep
from stpl.sweeps.supervisor import BEGAN

HEARTBEAT_SECONDS = 5.0
GRACE_SECONDS = 30.0
"""A claim whose heart stood still for this long is free. On its own machine a dead worker is noticed at once."""

WAIT_SECONDS = 2.0
_TOKEN = ".folder"


class TrialFailedError(Exception):
    """The trial ended without a record; its claim is given up and the sweep goes on."""


class TrialDroppedError(Exception):
    """The trial is not for this worker: another claim on the same runs is older."""


class Failure(TypedDict):
    """Why a run failed: which one, its exit code, the last lines of its output, and where all of it is."""

    run: str
    code: int
    tail: str
    log: str


class Claims:
    """The trials of one sweep in a shared study, whose runs go to the folder `runs`."""

    def __init__(self, storage: BaseStorage, sweep: Sweep, runs: Path) -> None:
        early = sweep.early
        self.study = optuna.create_study(
            storage=storage,
            study_name=f"{sweep.bench}/{sweep.path.stem}",
            direction=sweep.goal,
            load_if_exists=True,
            sampler=RandomSampler(),
            pruner=NopPruner() if early is None else SuccessiveHalvingPruner(early.first, early.eta),
        )
        self.sweep, self.runs = sweep, runs
        self._signature = {"worker": f"{platform.node()}:{os.getpid()}", "runs": _made_token(runs)}
        self._began = datetime.fromisoformat(os.environ.get(BEGAN) or datetime.now().isoformat())
        self._seen: dict[int, tuple[object, float]] = {}

    def claim(self, run: Callable[[Trial], float]) -> None:
        """Claim the next trial and `run` it.

        `run` returns the trial's value, or raises `TrialFailedError`, `TrialDroppedError` or `optuna.TrialPruned`;
        anything else it raises passes through and frees the claim too.
        """
        trial = self.study.ask()
        state, value = TrialState.FAIL, None
        try:
            for name, text in self._signature.items():
                trial.set_user_attr(name, text)
            with self._heartbeat(trial):
                value = run(trial)
            state = TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except (TrialFailedError, TrialDroppedError, UpdateFinishedTrialError):
            pass  # the last: another worker took this one for dead (it was asleep, say) and freed the claim
        finally:
            self._tell(trial, state, value)

    def wait(self) -> None:
        """Let some time pass while other workers run what is left."""
        with waiting():
            time.sleep(WAIT_SECONDS)

    def failures(self, name: str) -> list[Failure]:
        """The failures of the trials called `name` since this call of `stpl sweep` began, the last one last."""
        return [
            cast(Failure, trial.user_attrs["failure"])
            for trial in self.trials(TrialState.FAIL)
            if "failure" in trial.user_attrs
            and name_of(trial) == name
            and (trial.datetime_complete or self._began) >= self._began
        ]

    def free_dead_claims(self) -> None:
        """Turn the claims of dead workers into failed trials, for somebody to try again.

        Raises:
            ConfigError: if a living worker has another folder of runs: neither would see the other's records.
        """
        for trial in self.trials(TrialState.RUNNING):
            if self._is_dead(trial):
                self._tell(trial.number, TrialState.FAIL)
            elif trial.user_attrs.get("runs", self._signature["runs"]) != self._signature["runs"]:
                what = f"the worker {trial.user_attrs['worker']} has another folder of runs"
                mend = "let all machines share one folder, or give each its own --storage"
                raise ConfigError(what, where=self.runs.absolute(), mend=mend)

    def tidy(self) -> None:
        """Leave no claim and nothing enqueued behind, once all is done: two workers may have enqueued one trial."""
        self.free_dead_claims()
        for _ in self.trials(TrialState.WAITING):
            self.claim(_drop)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in any of the `states`, all if none is named, by number."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _tell(self, trial: Trial | int, state: TrialState, value: float | None = None) -> None:
        """End a trial, unless another worker did."""
        with suppress(UpdateFinishedTrialError):  # Optuna looks first and ends it then: two workers may do it at once
            self.study.tell(trial, value, state=state, skip_if_finished=True)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        host, _, process = str(trial.user_attrs.get("worker", ":0")).rpartition(":")
        if host == platform.node() and not _alive(int(process)):
            return True
        beat, now = (trial.user_attrs.get("worker"), trial.user_attrs.get("beat")), time.monotonic()
        before, since = self._seen.get(trial.number, (None, now))
        if before != beat:
            since = now
        self._seen[trial.number] = beat, since
        return now - since > GRACE_SECONDS

    @contextmanager
    def _heartbeat(self, trial: Trial) -> Iterator[None]:
        """Within, count up in the study, so that others see that the trial lives."""
        stop = threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(HEARTBEAT_SECONDS):
                count += 1
                with suppress(Exception):  # the next beat may get through; the sweep's own calls say what is wrong
                    self.study._storage.set_trial_user_attr(trial._trial_id, "beat", count)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _drop(trial: Trial) -> float:
    raise TrialDroppedError


def name_of(trial: FrozenTrial) -> str | None:
    """The name that a queue gave the trial, `None` if it has none yet."""
    name = trial.user_attrs.get("cell")
    return None if name is None else str(name)


def folder_token(runs: Path) -> str | None:
    """Identity of this folder of runs, wherever it is mounted; `None` if no sweep was run in it."""
    try:
        return (runs / _TOKEN).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _made_token(runs: Path) -> str:
    """The folder's token: a word in a file that is made once."""
    path = runs / _TOKEN
    if not path.exists():
        own = runs / f"{_TOKEN}.{os.getpid()}"
        write_atomically(own, secrets.token_hex(8))
        with suppress(FileExistsError):  # another worker was faster
            os.link(own, path)
        own.unlink()
    return path.read_text(encoding="utf-8")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
