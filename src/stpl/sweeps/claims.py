"""Which worker runs which cell: claims in an Optuna study that several workers may share.

Optuna's own GridSampler misses cells when workers run in parallel or die, so every cell is enqueued as a trial under
its run's name and claimed by the one worker that turns it from WAITING to RUNNING. A claim is kept alive by a
heartbeat; a claim whose worker died is freed and the cell is enqueued again. The study never decides that a cell is
done: the record on disk does.
"""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Connection, event
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from stpl.errors import ConfigError

HEARTBEAT_SECONDS = 5
GRACE_SECONDS = 30
"""A claim without heartbeat for this long is free. On its own machine a dead worker is noticed at once."""

_SIGNING = timedelta(seconds=GRACE_SECONDS)
_WAIT_SECONDS = 2.0
_OPENINGS = 5


class TrialFailedError(Exception):
    """The trial ended without a record; the claim is given up and the sweep goes on."""


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open or make the database at `url` (SQLite, PostgreSQL, MySQL).

    Raises:
        ConfigError: if it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    _make_folder(url)
    for attempt in range(_OPENINGS):
        try:
            return _open(url)
        except (SQLAlchemyError, ImportError, OSError, ValueError, optuna.exceptions.OptunaError) as error:
            if isinstance(error, (OperationalError, IntegrityError)) and attempt + 1 < _OPENINGS:
                time.sleep(0.5)  # two workers that make the same new database get in each other's way
                continue
            raise ConfigError(
                f"cannot be opened: {str(error).splitlines()[0]}",
                where=url,
                mend="check the URL; a damaged SQLite file may be deleted, the records decide what is done",
            ) from error
    raise AssertionError("unreachable")


def _open(url: str) -> optuna.storages.RDBStorage:
    sqlite = url.startswith("sqlite")
    arguments = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(
            url, engine_kwargs=arguments, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS
        )
    if sqlite:
        event.listen(storage.engine, "begin", _begin_immediately)
    return storage


def _begin_immediately(connection: Connection) -> None:
    # SQLite ignores the SELECT … FOR UPDATE by which Optuna lets only one worker claim a trial.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _make_folder(url: str) -> None:
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)


class CellQueue:
    """The cells of one sweep in a shared study.

    Args:
        storage: from `open_storage`.
        name: of the study.
        goal: of its metric.

    Attributes:
        study: the study, for whoever wants to look at it.
    """

    def __init__(self, storage: optuna.storages.RDBStorage, name: str, goal: Literal["maximize", "minimize"]) -> None:
        self._storage = storage
        self.study = optuna.create_study(storage=storage, study_name=name, direction=goal, load_if_exists=True)
        self._worker = f"{platform.node()}:{os.getpid()}"

    def mark_recorded(self, values: Mapping[str, float]) -> None:
        """Show recorded cells (name → mIoU) as COMPLETE in the study, whoever ran them."""
        known = {_cell(trial) for trial in self._trials(TrialState.COMPLETE)}
        for cell, value in values.items():
            if cell not in known:
                attributes = {"cell": cell}
                self.study.add_trial(
                    optuna.trial.create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes)
                )

    def offer(self, cells: Iterable[str]) -> bool:
        """Enqueue what nobody has claimed or enqueued; whether any of `cells` is now there to be claimed."""
        self._free_dead_claims()
        names = list(cells)
        running = {_cell(trial) for trial in self._trials(TrialState.RUNNING)}
        waiting = {_cell(trial) for trial in self._trials(TrialState.WAITING)}
        for cell in names:
            if cell not in running | waiting:
                self.study.enqueue_trial({}, user_attrs={"cell": cell})
        return any(cell not in running for cell in names)

    def claim(self, cells: Iterable[str], run: Callable[[str], float]) -> None:
        """Claim the next waiting cell and `run` it, holding the claim by heartbeat.

        Trials that are not among `cells` (left by a call with other seeds) or that another worker claimed first are
        dropped. `run` returns the cell's value or raises `TrialFailedError`; anything else it raises passes through.
        """
        mine = set(cells)

        def objective(trial: Trial) -> float:
            # In this order: a claim with a worker's name has a heartbeat, whenever the worker dies.
            self._storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr("worker", self._worker)
            cell = trial.user_attrs.get("cell")
            if cell not in mine or self._claimed_before(trial):
                raise optuna.TrialPruned
            return run(cell)

        self.study.optimize(objective, n_trials=1, catch=(TrialFailedError,))

    def wait(self) -> None:
        """Let some time pass while other workers run what is left, and free the claims of the dead ones."""
        time.sleep(_WAIT_SECONDS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)

    def _claimed_before(self, trial: Trial) -> bool:
        # Two workers may have enqueued one cell at the same moment; the older claim wins.
        rivals = [rival for rival in self._trials(TrialState.RUNNING) if rival.number < trial.number]
        return trial.user_attrs["cell"] in {_cell(rival) for rival in rivals}

    def _free_dead_claims(self) -> None:
        for trial in self._trials(TrialState.RUNNING):
            if self._is_dead(trial):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Whether the worker is known to be gone; one on another machine is left to its heartbeat."""
        if "worker" not in trial.user_attrs:  # it died between claiming and signing, or is just between them
            return trial.datetime_start is not None and datetime.now() - trial.datetime_start > _SIGNING
        host, _, process = str(trial.user_attrs["worker"]).rpartition(":")
        return host == platform.node() and not _alive(int(process))

    def _trials(self, state: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(state,))


def _cell(trial: FrozenTrial) -> str | None:
    cell = trial.user_attrs.get("cell")
    return None if cell is None else str(cell)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
