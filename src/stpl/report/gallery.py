"""Which figures a suite has: every figure for which runs left the numbers."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stpl.errors import unknown
from stpl.files import write_atomically
from stpl.pictures.pages import LIGHT
from stpl.report import plots
from stpl.report.changed_settings import sensitivity_sheet
from stpl.report.curves import Curve, curves
from stpl.report.further_tables import class_means, class_names
from stpl.report.plots import FIGURE_CLASSES, Style, plane
from stpl.report.rows import TableLines
from stpl.report.suite import Suite
from stpl.runs.artifacts import read_evaluation, read_features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EMBEDDED = 120  # pixels of a class: enough to see a cluster, and few enough to lay out in two seconds
_LOGARITHMIC = ("temperature", "lr")


@dataclass(frozen=True)
class Picture:
    """A figure with a unique name, a caption, and its section of the page."""

    name: str
    section: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Focus:
    """The rows that a reader compares.

    Attributes:
        reference: the source-only model.
        baseline: the best control; in a table without controls, the best other row that trains without target labels.
        chosen: the row that the page is about.
        bound: the row that trains on the target's labels, if there is one.
    """

    reference: str
    baseline: str | None
    chosen: str
    bound: str | None

    @property
    def rows(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys(name for name in (self.reference, self.baseline, self.chosen, self.bound) if name))


def focus(suite: Suite, tables: Sequence[TableLines], chosen: str) -> Focus:
    """What to hold `chosen` against; raises `ConfigError` if it is neither in the catalogue nor recorded."""
    known = {*suite.catalogue.experiments, *suite.recorded()}
    if chosen not in known:
        raise unknown("experiment", chosen, known, "--chosen")
    mine = [table for table in tables if any(line.experiment == chosen for line in table.lines)] or tables
    # The table with the most rows of ours has the widest choice of baselines.
    widest = max(mine, key=lambda table: sum(line.last is not None for line in table.lines), default=None)
    if widest is None:
        return Focus(chosen, None, chosen, None)
    reference, bounds = widest.table.reference, widest.table.bounds
    unbounded = {line.experiment for line in widest.lines}.difference(bounds)
    fit = ({*widest.table.controls} or unbounded) - {None, reference, chosen}
    others = [(line.last, line.experiment) for line in widest.lines if line.experiment in fit and line.last is not None]
    baseline = max(others)[1] if others else None
    bound = next((name for name in bounds if suite.records(name)), None)
    return Focus(reference, baseline, chosen, bound)


def styles(suite: Suite, rows: Focus) -> dict[str, Style]:
    """How each experiment looks: by its place in the catalogue, so that it looks the same in every figure."""
    special = {rows.reference: "muted", rows.bound: "ink", rows.chosen: "chosen"}
    series = itertools.cycle(name for name in LIGHT if name.startswith("series-"))
    looks = {}
    for index, name in enumerate(dict.fromkeys([*suite.shown(), *suite.recorded()])):
        colour = special[name] if name in special else next(series)
        looks[name] = Style(suite.title_of(name), index, LIGHT[colour], name == rows.chosen)
    return looks


def gallery(suite: Suite, tables: Sequence[TableLines], chosen: str, place: Path, written: Path) -> list[Picture]:
    """Draw every figure for which there are numbers.

    Embeddings, which take longest, are kept in `place`, the page's folder; searches keep the importance of their
    parameters in `written`, the folder of the tables.

    Raises:
        StplError: for an unknown experiment, a torn artifact, or a missing package.
    """
    rows = focus(suite, tables, chosen)
    looks = styles(suite, rows)
    return [
        *_intervals(tables, chosen),
        *_classes(suite, rows, looks),
        *_curves(suite, tables, looks),
        *_sensitivity(suite),
        *_importance(written),
        *_embeddings(suite, rows, place),
        *_purity(suite, looks),
        *_confusions(suite, rows),
    ]


def _intervals(tables: Sequence[TableLines], chosen: str) -> Iterator[Picture]:
    for table in tables:
        if any(line.interval for line in table.lines):
            figure = plots.interval_figure(table, chosen)
            caption = "Mean over seeds, with the 95 % nested bootstrap interval: source models, and clips within each."
            yield Picture(f"intervals-{table.table.id}", "intervals", caption, figure)


def _classes(suite: Suite, rows: Focus, looks: Mapping[str, Style]) -> Iterator[Picture]:
    classes, titles = class_names(suite), suite.shown()
    names = [name for name in rows.rows if name in titles and suite.records(name)]
    shown = [(looks[name], class_means(suite.records(name), classes)) for name in names]
    if shown:
        caption = "Mean over seeds at the last step. The squares are the classes' colours in the player."
        yield Picture("classes", "classes", caption, plots.class_figure(classes, shown))


_CURVES = (
    ("miou", "val/miou", "mIoU on the target's labels", "mIoU, percent", ""),
    (
        "loss", "train/loss", "Training loss", "loss",
        " Losses of different rows are different sums: their course compares, their height does not.",
    ),
)  # fmt: skip


def _curves(suite: Suite, tables: Sequence[TableLines], looks: Mapping[str, Style]) -> Iterator[Picture]:
    """Of the catalogue's tables; the many variants of a sweep would be a tangle."""
    for table in tables:
        # A row that trains on labels is trained for much longer and would hide the others.
        fit = {line.experiment for line in table.lines}.difference(table.table.bounds)
        names = [name for name in suite.shown() if name in fit]
        for kind, metric, what, ylabel, more in _CURVES:
            found = curves(suite, names, metric)
            if found:
                title = f"{what}: {table.table.title.split('.')[0]}"
                figure = plots.curve_figure(found, looks, title, ylabel)
                yield Picture(f"curves-{kind}-{table.table.id}", "curves", _band(found) + more, figure)


def _band(found: Sequence[Curve]) -> str:
    """What lines and bands of a figure of curves are."""
    several = [curve.seeds > 1 for curve in found]
    if not any(several):
        return "One seed of each row."
    lone = "" if all(several) else "; a row of one seed has none"
    return f"Mean over seeds; the band reaches from the least seed to the greatest{lone}."


def _sensitivity(suite: Suite) -> Iterator[Picture]:
    sheet = sensitivity_sheet(suite)
    points: dict[str, list[tuple[float, float, float | None]]] = {}
    for parameter, value, _, mean, spread in sheet.csv_rows if sheet else []:
        with contextlib.suppress(ValueError):  # a setting that is a word has no place on an axis
            points.setdefault(parameter, []).append((float(value), float(mean), float(spread) if spread else None))
    for parameter, found in points.items():
        if len(found) > 1:
            name = parameter.split(".")[-1]
            figure = plots.sensitivity_figure(name.replace("_", " "), found, name in _LOGARITHMIC)
            caption = "Mean over seeds; bars are the standard deviation over seeds, where there are several."
            yield Picture(f"sensitivity-{name}", "sensitivity", caption, figure)


def _importance(written: Path) -> Iterator[Picture]:
    """Of every search that kept the importance of its parameters."""
    for path in sorted(written.glob("*_importance.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            shares = [(row["parameter"], float(row["importance"])) for row in csv.DictReader(file)]
        if shares:
            search = path.stem.removesuffix("_importance")
            caption = "What makes a trial one of the best tenth (PED-ANOVA): share of each parameter."
            figure = plots.importance_figure(shares, f"Importance in the search {search}")
            yield Picture(f"importance-{search}", "sensitivity", caption, figure)


def _embeddings(suite: Suite, rows: Focus, place: Path) -> Iterator[Picture]:
    for name in dict.fromkeys(name for name in (rows.reference, rows.chosen, rows.bound) if name):
        record = next(iter(suite.records(name)), None)
        sample = read_features(suite.directory(record)) if record else None
        if record is None or sample is None:
            continue
        names = record["classes"]
        pixels = sample.of([names.index(shown) for shown in FIGURE_CLASSES if shown in names], _EMBEDDED)
        if len(pixels.classes) < 4:
            continue
        positions = _kept_plane(pixels.features, place / "planes")
        space = record["last"].get("feature_space") or {}
        sigmas = [f"σ {kind} {space[f'sigma_{kind}']:.4g}" for kind in ("intra", "inter") if f"sigma_{kind}" in space]
        title = "\n".join([suite.title_of(name), ", ".join(sigmas)]).strip()
        caption = (
            f"t-SNE of pixel features, seed {record['seed']}: {len(positions)} pixels of the target split, balanced. "
            "The axes are not features and have no unit: which pixels lie close together says something, how far "
            "groups lie apart does not."
        )
        figure = plots.embedding_figure(positions, pixels.classes, names, title)
        yield Picture(f"embedding-{name}", "features", caption, figure)


def _kept_plane(features: NDArray[np.float32], folder: Path) -> NDArray[np.float32]:
    """`plane(features)`, from the file that an earlier call kept under the features' hash if there is one."""
    path = folder / f"{hashlib.sha256(features.tobytes()).hexdigest()[:20]}.f32"
    try:
        return np.frombuffer(path.read_bytes(), np.float32).reshape(len(features), 2)
    except (OSError, ValueError):
        positions = plane(features)
        write_atomically(path, positions.tobytes())
        return positions


def _purity(suite: Suite, looks: Mapping[str, Style]) -> Iterator[Picture]:
    found = []
    for name in suite.shown():
        values: dict[int, list[float]] = {}
        for record in suite.records(name):
            space = record["last"].get("feature_space") or {}
            for k, percent in (space.get("purity") or {}).items():
                values.setdefault(int(k), []).append(percent)
        if values:
            found.append((looks[name], {k: statistics.fmean(values[k]) for k in sorted(values)}))
    if found:
        caption = "Share of the k nearest neighbours that are of the same class; mean over seeds."
        yield Picture("purity", "features", caption, plots.purity_figure(found))


def _confusions(suite: Suite, rows: Focus) -> Iterator[Picture]:
    for name in dict.fromkeys((rows.reference, rows.chosen)):
        records = suite.records(name)
        found = [clips for record in records if (clips := read_evaluation(suite.directory(record))) is not None]
        if found:
            total = sum(clips.confusions.sum(0) for clips in found)
            figure = plots.confusion_figure(np.asarray(total), records[0]["classes"], suite.title_of(name))
            caption = (
                "Of the pixels of a class (row), the share in percent predicted as each class (column); all seeds."
            )
            yield Picture(f"confusion-{name}", "confusion", caption, figure)
