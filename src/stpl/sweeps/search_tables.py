"""What a search found, as CSV: its trials, and how much each parameter matters."""

import csv
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from stpl.files import write_atomically
from stpl.sweeps.distributions import QUANTILE
from stpl.sweeps.queues import SearchQueue

_FEWEST = 4  # completed trials, below which an importance says nothing


def write_results(queue: SearchQueue, on_result: Callable[[str], None]) -> None:
    """Write `<name>_trials.csv` and `<name>_importance.csv` into `<runs>/<bench>/tables`, and report the best trial.

    The first has the metric as its mean over seeds (the last one seen of a trial that ended early), the number of
    evaluations seen, and the runs' folder below the bench. The second, left out below four completed trials, has each
    parameter's share of what makes a trial one of the best tenth (PED-ANOVA, Watanabe et al., IJCAI 2023).
    """
    bench, _, name = queue.study.study_name.partition("/")
    folder = queue.runs / bench / "tables"
    parameters = sorted(queue.sweep.space)
    ended = queue.trials(TrialState.COMPLETE, TrialState.PRUNED)
    header = ["trial", "state", "value", "evaluations", "runs", *parameters]
    _write(folder / f"{name}_trials.csv", header, [_row(trial, parameters) for trial in ended])
    completed = queue.trials(TrialState.COMPLETE)
    if len(completed) >= _FEWEST:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters that always had one value
            shares = optuna.importance.get_param_importances(queue.study)
        rows = [[parameter.removesuffix(QUANTILE), f"{share:.4f}"] for parameter, share in shares.items()]
        _write(folder / f"{name}_importance.csv", ["parameter", "importance"], rows)
    if completed:
        best = queue.study.best_trial
        drawn = ", ".join(f"{key}={value}" for key, value in best.user_attrs["drawn"].items())
        on_result(f"{name}: best {queue.sweep.metric} {best.value:.2f} with {drawn}")


def _row(trial: FrozenTrial, parameters: Sequence[str]) -> list[str]:
    state = "complete" if trial.state == TrialState.COMPLETE else "early"
    value = "" if trial.value is None else f"{trial.value:.4f}"
    drawn = trial.user_attrs["drawn"]
    runs = str(trial.user_attrs["cell"]).partition("/")[2]
    evaluations = str(len(trial.intermediate_values))
    return [str(trial.number), state, value, evaluations, runs, *(str(drawn[name]) for name in parameters)]


def _write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomically(path, text.getvalue())
