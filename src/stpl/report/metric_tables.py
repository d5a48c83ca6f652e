"""Tables of further numbers: feature space and consistency in time, and label-free choices of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stpl.report.averages import mean
from stpl.report.sheet import NOTHING, Column, Sheet, TableCell, same
from stpl.report.suite import Suite
from stpl.runs.record import Evaluation, RunRecord, flat

_NAMES = {
    "sigma_intra": "σ intra", "sigma_inter": "σ inter", "sigma_intra_normalized": "σ intra, unit",
    "sigma_inter_normalized": "σ inter, unit", "silhouette": "silhouette", "mtc": "mTC",
    "pl_predconsis": "PL-PredConsis", "pl_warped": "PL-Warped", "pl_consistency": "PL-Consistency",
    "linear_probe": "linear probe", "nearest_mean": "nearest mean", "moved": "moved, %",
    "information_maximization": "information maximisation", "soft_neighborhood_density": "neighbourhood density",
}  # fmt: skip
_GROUPS = ("feature_space", "temporal", "weights")
_METRICS_NOTE = (
    "Mean over seeds at the last step. σ: variance within and between classes of balanced pixel features; unit: of "
    "features scaled to length 1. purity@k: share in percent of the k nearest neighbours that are of the same "
    "class. linear probe, nearest mean: mean class accuracy in percent of a linear classifier and of the nearest "
    "class mean, refitted on one half of the clips and asked about the other. mTC: agreement in percent of a "
    "prediction with the warped one of the frame before. VPQ@s: video panoptic quality over windows of s frames. "
    "moved: change of the encoder's weights in percent of their norm."
)
_SELECTION_NOTE = (
    "mIoU in percent, mean over seeds: at the last step, at the checkpoint that each validator chooses without "
    "labels, and at the best one on target labels (optimistic)."
)

Means = Mapping[str, float]
"""Metric → mean over the seeds that have it."""


def metrics_sheet(suite: Suite) -> Sheet | None:
    """Feature space and consistency in time at the last step; `None` if no run recorded any of it."""
    title = f"Feature space and consistency in time, {suite.title}"
    return _sheet("metrics", title, _METRICS_NOTE, suite, _means(suite, _further))


def selection_sheet(suite: Suite) -> Sheet | None:
    """The mIoU at the checkpoint that each label-free validator chooses, between `last` and `best` on labels."""
    found = {name: means for name, means in _means(suite, _selections).items() if len(means) > 2}
    return _sheet("selection", f"Checkpoints chosen without labels, {suite.title}", _SELECTION_NOTE, suite, found)


def _means(suite: Suite, numbers: Callable[[RunRecord], Mapping[str, float]]) -> dict[str, Means]:
    """Experiment → means of the numbers of its records, of all that any table shows and that have some."""
    found: dict[str, Means] = {}
    for name in suite.shown():
        runs = [numbers(record) for record in suite.records(name)]
        keys = dict.fromkeys(key for run in runs for key in run)
        means = {key: mean(run.get(key) for run in runs) for key in keys}
        if means:
            found[name] = {key: value for key, value in means.items() if value is not None}
    return found


def _further(record: RunRecord) -> dict[str, float]:
    """`sigma_intra`, `purity@10`, `mtc`, `vpq@1`, `moved`, …: what the last evaluation holds of them."""
    return flat({group: record["last"][group] for group in _GROUPS if group in record["last"]})


def _selections(record: RunRecord) -> dict[str, float]:
    chosen: dict[str, Evaluation | None] = {
        "last": record["last"],
        **record.get("selections", {}),
        "best": record["best"],
    }
    return {name: float(found["miou"]) for name, found in chosen.items() if found is not None}


def _sheet(name: str, title: str, note: str, suite: Suite, found: Mapping[str, Means]) -> Sheet | None:
    if not found:
        return None
    keys = list(dict.fromkeys(key for means in found.values() for key in means))
    columns = [_column([means.get(key) for means in found.values()]) for key in keys]
    cells = [
        [same(text, experiment) for text in (suite.title_of(experiment), str(len(suite.records(experiment))))]
        + [TableCell(text, ("" if text == NOTHING else text,), experiment) for text in texts]
        for experiment, *texts in zip(found, *columns, strict=True)
    ]
    header = [Column("Method", ("row",)), Column("Seeds", ("seeds",))]
    header += [Column(_title(key), (key,)) for key in keys]
    return Sheet(name, title, header, cells, [note], list(found))


def _title(key: str) -> str:
    """`vpq@1` as people read it."""
    name, _, k = key.partition("@")
    shown = _NAMES.get(name, name.upper() if name == "vpq" else name.replace("_", " "))
    return f"{shown}@{k}" if k else shown


def _column(values: Sequence[float | None]) -> list[str]:
    """The numbers of one metric, small ones with more decimals: about four digits each."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    places = 2 if largest >= 10 else 3 if largest >= 1 else 4
    return [NOTHING if value is None else f"{value:.{places}f}" for value in values]
