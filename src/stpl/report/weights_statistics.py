"""Weights × statistics: what the rows' last weights are worth with statistics that all of them share."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from stpl.report.sheet import NOTHING, Sheet, number
from stpl.report.suite import Suite
from stpl.runs.artifacts import RENEWED, RUNNING, read_statistics

_HEADER = ("Weights of", "Seeds", "as trained", "original", "Δ original", "augmented too", "Δ augmented too")
_COLUMNS = (
    "weights", "seeds", "running", "original", "original_delta", "original_delta_se", "all", "all_delta",
    "all_delta_se",
)  # fmt: skip
_NOTES = (
    "mIoU in percent of each row's last weights, mean ± sample standard deviation over seeds, with statistics: as "
    "trained; renewed for these weights from original frames; from original and augmented ones. The same clips in "
    "every row.",
    "Δ: mean paired difference to the source model's weights with the same kind of statistics, ± its standard error: "
    "what the weights are worth. What statistics are worth is seen in the rows of the source model.",
)

Measured = Mapping[int, Mapping[str, float]]
"""Seed → kind of statistics → mIoU."""


def statistics_sheet(suite: Suite, reference: str = "batchnorm_statistics") -> Sheet | None:
    """One line per experiment whose runs were measured; `None` if there is none.

    Args:
        suite: the runs.
        reference: the experiment that has the source model's weights.

    Raises:
        RecordError: for a torn file, or one that is not of its run's last step.
    """
    found = {name: measured for name in suite.recorded() if (measured := _measured(suite, name))}
    if not found:
        return None
    base = found.get(reference, {})
    rows, csv_rows = [], []
    for name, runs in found.items():
        values = {kind: [run[kind] for run in runs.values()] for kind in (RUNNING, *RENEWED)}
        gains = {k: [run[k] - base[seed][k] for seed, run in runs.items() if seed in base] for k in RENEWED}
        texts = [text for kind in RENEWED for text in (_spread(values[kind]), _gain(gains[kind]))]
        rows.append([suite.title_of(name), str(len(runs)), _spread(values[RUNNING]), *texts])
        cells = [c for kind in RENEWED for c in (_mean(values[kind]), _mean(gains[kind]), _error(gains[kind]))]
        csv_rows.append([name, str(len(runs)), *(number(c, nothing="") for c in (_mean(values[RUNNING]), *cells))])
    return Sheet("statistics", f"Weights × statistics, {suite.title}", _HEADER, rows, _NOTES, _COLUMNS, csv_rows)


def _measured(suite: Suite, experiment: str) -> Measured:
    found = {}
    for record in suite.records(experiment):
        values = read_statistics(suite.directory(record), record["last"]["step"])
        if values is not None:
            found[record["seed"]] = values
    return found


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    spread = f" ± {number(statistics.stdev(values))}" if len(values) > 1 else ""
    return number(_mean(values)) + spread


def _gain(values: Sequence[float]) -> str:
    """Mean and its standard error."""
    error = _error(values)
    return NOTHING if not values else number(_mean(values), "+.2f") + ("" if error is None else f" ± {number(error)}")


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
