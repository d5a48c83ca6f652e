"""Weights × statistics: what the rows' last weights are worth with statistics that all of them share."""

from __future__ import annotations

from collections.abc import Mapping

from stpl.report.averages import deviation, error, mean
from stpl.report.sheet import NOTHING, Column, Sheet, TableCell, plain, plus_minus, same
from stpl.report.suite import Suite
from stpl.runs.artifacts import RENEWED, RUNNING, read_statistics

_REFERENCE = "batchnorm_statistics"
"""The experiment that has the source model's weights."""

_COLUMNS = (
    Column("Weights of", ("weights",)),
    Column("Seeds", ("seeds",)),
    Column("as trained", ("running",)),
    Column("original", ("original",)),
    Column("Δ original", ("original_delta", "original_delta_se")),
    Column("augmented too", ("all",)),
    Column("Δ augmented too", ("all_delta", "all_delta_se")),
)
_NOTES = (
    "mIoU in percent of each row's last weights, mean ± sample standard deviation over seeds, with statistics: as "
    "trained; renewed for these weights from original frames; from original and augmented ones. The same clips in "
    "every row.",
    "Δ: mean paired difference to the source model's weights with the same kind of statistics, ± its standard error: "
    "what the weights are worth. What statistics are worth is seen in the rows of the source model.",
)

Measured = Mapping[int, Mapping[str, float]]
"""Seed → kind of statistics → mIoU."""


def statistics_sheet(suite: Suite) -> Sheet | None:
    """One line per experiment whose runs `stpl weights statistics` evaluated; `None` if there is none.

    Raises:
        RecordError: for a torn file, or one that is not of its run's last step.
    """
    found = {name: measured for name in suite.recorded() if (measured := _measured(suite, name))}
    if not found:
        return None
    base = found.get(_REFERENCE, {})
    cells = [_row(suite.title_of(name), name, runs, base) for name, runs in found.items()]
    return Sheet("statistics", f"Weights × statistics, {suite.title}", _COLUMNS, cells, _NOTES)


def _measured(suite: Suite, experiment: str) -> Measured:
    found = {}
    for record in suite.records(experiment):
        values = read_statistics(suite.directory(record), record["last"]["step"])
        if values is not None:
            found[record["seed"]] = values
    return found


def _row(title: str, experiment: str, runs: Measured, base: Measured) -> list[TableCell]:
    row = [TableCell(title, (experiment,)), same(str(len(runs)))]
    for kind in (RUNNING, *RENEWED):
        values = [run[kind] for run in runs.values()]
        row.append(TableCell(plus_minus(mean(values), deviation(values)), plain(mean(values))))
        if kind in RENEWED:
            gains = [run[kind] - base[seed][kind] for seed, run in runs.items() if seed in base]
            gain = mean(gains), error(gains)
            row.append(TableCell(plus_minus(*gain, "+.2f") if gains else NOTHING, plain(*gain)))
    return row
