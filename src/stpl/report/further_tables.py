"""Tables beside the catalogue's: IoU by class, further metrics, what methods take, weights × statistics."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from stpl.errors import RecordError
from stpl.pictures.colours import class_colour
from stpl.report.sheet import NOTHING, Column, Sheet, TableCell, average, number, plain, same
from stpl.report.significance import mean
from stpl.report.suite import Suite
from stpl.runs.artifacts import KINDS
from stpl.runs.experiments import NEEDS
from stpl.runs.record import Evaluation, RunRecord, flat

_ClassLine = tuple[str, str | None, int, dict[str, float | None]]
"""Title, experiment, number of seeds, and the numbers of a line."""

_JUDGED = ("pseudo_share", "pseudo_miou")

_WINDOWS = 4
"""How many windows of VPQ^s there are; without all four a mean is not the paper's."""


def class_names(suite: Suite) -> list[str]:
    """Class names in train-id order; without any run, of the classes whose IoU the paper states on the benchmark.

    Raises:
        RecordError: for a torn record, or records of different label spaces.
    """
    records = [record for name in suite.shown() for record in suite.records(name)]
    for record in records:
        if record["classes"] != records[0]["classes"]:
            folder = suite.directory(record)
            raise RecordError(
                f"its classes {record['classes']} differ from {records[0]['classes']} of other runs",
                where=folder,
                mend=f"delete the folder {folder} to run it again",
            )
    return records[0]["classes"] if records else list(suite.catalogue.paper_classes.get(suite.bench, ()))


def class_means(records: Sequence[RunRecord], classes: Sequence[str], kind: str = "iou") -> dict[str, float | None]:
    """Class → mean in percent over the runs in which the class occurs, at the last step; `None` without any.

    `kind` is one of `stpl.evaluations.OF_CLASSES`.
    """
    return {name: mean(record["last"].get(kind, {}).get(name) for record in records) for name in classes}


def classes_sheet(suite: Suite) -> Sheet:
    """IoU of every class at the last step, of each experiment once; where the paper states it, its lines follow.

    Raises:
        RecordError: as `class_names`.
    """
    classes = class_names(suite)
    rows: list[_ClassLine] = []
    for name, title in suite.shown().items():
        records = suite.records(name)
        miou = mean(record["last"]["miou"] for record in records)
        rows.append((title, name, len(records), {"miou": miou, **class_means(records, classes)}))
    for row in (row for table in suite.catalogue.tables for row in table.rows if suite.bench in row.paper_iou):
        stated = zip(suite.catalogue.paper_classes[suite.bench], row.paper_iou[suite.bench], strict=True)
        rows.append((f"{row.title} (paper)", None, 0, {"miou": row.paper.get(suite.bench), **dict(stated)}))
    note = "IoU in percent at the last step, mean over seeds; – where a class or a record is absent."
    return _by_class("per_class", f"Per-class IoU, {suite.title}", ("miou", *classes), rows, note)


def video_quality_sheet(suite: Suite) -> Sheet | None:
    """VPQ^s of every class at the last step, of each experiment once; `None` if no record has all four windows."""
    classes = class_names(suite)
    rows: list[_ClassLine] = []
    for name, title in suite.shown().items():
        records = [
            one for one in suite.records(name) if len(one["last"].get("temporal", {}).get("vpq", {})) == _WINDOWS
        ]
        if records:
            overall = mean(record["last"]["temporal"]["vpq_mean"] for record in records)
            rows.append((title, name, len(records), {"vpq": overall, **class_means(records, classes, "vpq")}))
    for row in (row for table in suite.catalogue.tables for row in table.rows if rows and suite.bench in row.paper_vpq):
        values = row.paper_vpq[suite.bench]
        stated = zip(suite.catalogue.paper_classes[suite.bench], values, strict=True)
        rows.append((f"{row.title} (paper)", None, 0, {"vpq": statistics.fmean(values), **dict(stated)}))
    note = (
        "VPQ^s in percent at the last step, mean over windows of 1 to 4 labelled frames and over seeds (Shin et al., "
        "2021): of a window's tubes of each class, those count whose IoU is above 0.5; – where a class is absent."
    )
    title = f"Per-class VPQ^s, {suite.title}"
    return _by_class("per_class_vpq", title, ("vpq", *classes), rows, note) if rows else None


def _by_class(id_: str, title: str, names: Sequence[str], rows: Sequence[_ClassLine], note: str) -> Sheet:
    """A line for each row, with a column for each of `names`: the mean, then classes."""
    columns = [
        Column("row", ("row",), [same(title) for title, *_ in rows]),
        Column("seeds", ("seeds",), [same(seeds) for _, _, seeds, _ in rows]),
    ]
    for place, name in enumerate(names):
        colour = class_colour(name) if place else ""
        columns.append(Column(name, (name,), [_percent(values.get(name)) for *_, values in rows], colour))
    return Sheet(id_, title, columns, [note], [experiment for _, experiment, *_ in rows])


def _percent(value: float | None) -> TableCell:
    return TableCell(number(value, ".1f"), plain(value), number(value), heat=value)


_NAMES = {
    "sigma_intra": "σ intra", "sigma_inter": "σ inter", "sigma_intra_normalized": "σ intra, unit",
    "sigma_inter_normalized": "σ inter, unit", "silhouette": "silhouette", "mtc": "mTC",
    "pl_predconsis": "PL-PredConsis", "pl_warped": "PL-Warped", "pl_consistency": "PL-Consistency",
    "linear_probe": "linear probe", "nearest_mean": "nearest mean", "moved": "moved, %",
    "information_maximization": "information maximisation", "soft_neighborhood_density": "neighbourhood density",
}  # fmt: skip
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
    return _metric_sheet("metrics", title, _METRICS_NOTE, suite, _means(suite, _further))


def selection_sheet(suite: Suite) -> Sheet | None:
    """The mIoU at the checkpoint that each label-free validator chooses, between `last` and `best` on labels."""
    found = {name: means for name, means in _means(suite, _selections).items() if len(means) > 2}
    title = f"Checkpoints chosen without labels, {suite.title}"
    return _metric_sheet("selection", title, _SELECTION_NOTE, suite, found)


def _means(suite: Suite, numbers: Callable[[RunRecord], Means]) -> dict[str, Means]:
    """Experiment → means of the numbers of its records, of all that any table shows and that have some."""
    found: dict[str, Means] = {}
    for name in suite.shown():
        runs = [numbers(record) for record in suite.records(name)]
        if keys := dict.fromkeys(key for run in runs for key in run):
            found[name] = {key: statistics.fmean(run[key] for run in runs if key in run) for key in keys}
    return found


def _further(record: RunRecord) -> dict[str, float]:
    """`sigma_intra`, `purity@10`, `mtc`, `vpq@1`, `moved`, …: what the last evaluation holds of them."""
    groups = ("feature_space", "temporal", "weights")
    return flat({group: record["last"][group] for group in groups if group in record["last"]})


def _selections(record: RunRecord) -> dict[str, float]:
    chosen: dict[str, Evaluation | None] = {"last": record["last"], **record.get("selections", {})}
    chosen["best"] = record["best"]
    return {name: float(found["miou"]) for name, found in chosen.items() if found is not None}


def _metric_sheet(name: str, title: str, note: str, suite: Suite, found: Mapping[str, Means]) -> Sheet | None:
    if not found:
        return None
    columns = [
        Column("Method", ("row",), [same(suite.title_of(experiment)) for experiment in found]),
        Column("Seeds", ("seeds",), [same(len(suite.records(experiment))) for experiment in found]),
    ]
    for key in dict.fromkeys(key for means in found.values() for key in means):
        largest = max(abs(means[key]) for means in found.values() if key in means)
        places = 2 if largest >= 10 else 3 if largest >= 1 else 4  # about four digits
        values = [means.get(key) for means in found.values()]
        columns.append(Column(_title(key), (key,), [_text(value, f".{places}f") for value in values]))
    return Sheet(name, title, columns, [note], list(found))


def _text(value: float | None, form: str) -> TableCell:
    """A number that programs read as people do."""
    text = "" if value is None else format(value, form)
    return TableCell(text or NOTHING, (text,))


def _title(key: str) -> str:
    """`vpq@1` as people read it."""
    name, _, k = key.partition("@")
    shown = _NAMES.get(name, name.upper() if name == "vpq" else name.replace("_", " "))
    return f"{shown}@{k}" if k else shown


_COST_NOTES = (
    "Source data, video: whether training takes labelled clips of the source, and more than single frames of the "
    "target. Steps: of the row's own run, without those of the run it starts from.",
    "Seconds a step: wall time of a run, evaluations and stages of labels included, over its steps; memory: its peak. "
    "Both are medians over seeds, on the machines that ran them; runs side by side slow each other down.",
)


def costs_sheet(suite: Suite) -> Sheet | None:
    """One line for each recorded row of which the catalogue says what it needs; `None` if there is none."""
    needs = {row.experiment: row for table in suite.tables() for row in table.rows if row.needs is not None}
    rows = [row for name, row in needs.items() if name and suite.records(name)]
    runs = [suite.records(row.experiment) for row in rows if row.experiment]
    seconds = [[record["seconds"] / record["steps"] for record in records if record["steps"]] for records in runs]
    peaks = [[peak for record in records if (peak := record["peak_memory_mb"]) is not None] for records in runs]
    source, video = ([same("yes" if need in (row.needs or ()) else "no") for row in rows] for need in NEEDS)
    columns = [
        Column("Method", ("row",), [same(row.title) for row in rows]),
        Column("Source data", ("source",), source),
        Column("Video", ("video",), video),
        Column("Seeds", ("seeds",), [same(len(records)) for records in runs]),
        Column("Steps", ("steps",), [same(max(record["steps"] for record in records)) for records in runs]),
        Column("Seconds a step", ("seconds_per_step",), [_median(values, ".2f") for values in seconds]),
        Column("Memory, MB", ("peak_memory_mb",), [_median(values, ".0f") for values in peaks]),
    ]
    return Sheet("costs", f"What methods need and take, {suite.title}", columns, _COST_NOTES) if rows else None


_LABEL_NOTES = (
    "Pseudo-labels of a run's last round against the labels of the training split (run.judge_labels), mean over seeds: "
    "the share of pixels that have one, and the mIoU of these in percent (P-mIoU of VAT-VST, Table 7).",
)


def labels_sheet(suite: Suite) -> Sheet | None:
    """One line for each experiment, with its changed settings, whose pseudo-labels were judged; `None` without any."""
    judged: dict[str, list[dict[str, float]]] = {}
    for record in suite.all_records():
        if found := record["last"].get("pseudo_labels"):
            judged.setdefault(record["experiment"], []).append(found)
    shares, mious = ([mean(one[key] for one in runs) for runs in judged.values()] for key in _JUDGED)
    columns = [
        Column("Experiment", ("experiment",), [same(name) for name in judged]),
        Column("Seeds", ("seeds",), [same(len(runs)) for runs in judged.values()]),
        Column("Labelled, %", ("pseudo_share",), [_text(value, ".1f") for value in shares]),
        Column("P-mIoU", ("pseudo_miou",), [_text(value, ".2f") for value in mious]),
    ]
    return Sheet("pseudo_labels", f"Pseudo-labels, {suite.title}", columns, _LABEL_NOTES) if judged else None


def _median(values: Sequence[float], form: str) -> TableCell:
    text = number(statistics.median(values), form) if values else ""
    return TableCell(text or NOTHING, (text,))


_STATISTICS_NOTES = (
    "mIoU in percent of each row's last weights, mean ± sample standard deviation over seeds, with statistics: as "
    "trained; renewed for these weights from original frames; from original and augmented ones. The same clips in "
    "every row.",
)


def statistics_sheet(suite: Suite) -> Sheet | None:
    """One line per experiment whose runs measured every kind of statistics; `None` if there is none.

    Raises:
        RecordError: for a torn file, or one that is not of its run's last step.
    """
    names = [name for name in suite.recorded() if suite.mious(name, "running")]
    columns = [
        Column("Weights of", ("weights",), [TableCell(suite.title_of(name), (name,)) for name in names]),
        Column("Seeds", ("seeds",), [same(len(suite.mious(name, "running"))) for name in names]),
    ]
    for kind, title in zip(KINDS, ("as trained", "original", "original and augmented"), strict=True):
        mious = [list(suite.mious(name, kind).values()) for name in names]
        columns.append(Column(title, (kind, f"{kind}_std"), [average(runs) for runs in mious]))
    return Sheet("statistics", f"Weights × statistics, {suite.title}", columns, _STATISTICS_NOTES) if names else None
