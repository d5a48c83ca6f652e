"""What W&B draws of a recorded run beyond its curves: a short video, and custom charts from the run's arrays.

A chart is a table under one of W&B's own presets, so that it needs no definition in anybody's account.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpl.runs.artifacts import ClipConfusions, FeatureSample, VideoSample, read_evaluation, read_features, read_samples
from stpl.runs.record import RunRecord

if TYPE_CHECKING:
    from wandb.plot.custom_chart import CustomChart

    from stpl.pictures.side_by_side import VideoStyle

PICTURES, IOU, VIDEO = "predictions", "iou per class", "video"
"""Under which names W&B keeps pictures, the table of IoU, and the video."""

SAMPLE_FPS = 2.0
"""Frames a second: a sample holds a few frames of several drives."""

_PANEL_WIDTH = 320
_PER_CLASS = 100  # points of the scatter: W&B draws 10 000 at most, in all runs together


@dataclass(frozen=True)
class Chart:
    """A custom chart of W&B: one of its presets over a table.

    Attributes:
        key: the name it is logged under; its table has the same with `_table`.
        title: what stands above it.
        fields: field of the preset → column of the table.
    """

    key: str
    title: str
    preset: str
    columns: tuple[str, ...]
    fields: dict[str, str]

    @property
    def table(self) -> str:
        """The key of its table in a run's summary."""
        return f"{self.key}_table"

    def of(self, rows: Sequence[Sequence[Any]]) -> CustomChart:
        """The chart of `rows`, each with one value a column."""
        import wandb

        table = wandb.Table(columns=list(self.columns), data=[list(row) for row in rows])
        return wandb.plot_table(self.preset, table, self.fields, {"title": self.title})


CONFUSION = Chart(
    "confusion", "Confusion matrix (pixels)", "wandb/confusion_matrix/v1",
    ("truth", "prediction", "pixels"), {"Actual": "truth", "Predicted": "prediction", "nPredictions": "pixels"},
)  # fmt: skip
PURITY = Chart(
    "purity", "Purity of the k nearest neighbours (%)", "wandb/line/v0", ("k", "purity"), {"x": "k", "y": "purity"}
)
FEATURES = Chart(
    "features", "Feature space, first two principal components", "wandb/scatter/v0",
    ("class", "first", "second"), {"x": "first", "y": "second"},
)  # fmt: skip


def charts(record: RunRecord, run: Path) -> dict[str, CustomChart]:
    """The charts of the run in folder `run` by key, without those whose arrays it has not kept.

    Raises:
        RecordError: for a torn file of arrays.
    """
    clips, sample = read_evaluation(run), read_features(run)
    purity = record["last"].get("feature_space", {}).get("purity", {})
    rows: list[tuple[Chart, Sequence[Sequence[Any]]]] = [
        (CONFUSION, [] if clips is None else list(_pairs(clips, record["classes"]))),
        (PURITY, [(int(k), value) for k, value in purity.items() if value is not None]),
        (FEATURES, [] if sample is None else list(_points(sample, record["classes"]))),
    ]
    return {chart.key: chart.of(found) for chart, found in rows if found}


def _pairs(clips: ClipConfusions, classes: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Truth, prediction and how many pixels of all clips have them, for every pair of classes."""
    for truth, row in zip(classes, clips.confusions.sum(0), strict=True):
        yield from ((truth, prediction, int(pixels)) for prediction, pixels in zip(classes, row, strict=True))


def _points(sample: FeatureSample, classes: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    """Class and place of each shown pixel in the plane of the two principal components of all of them."""
    shown = sample.of(range(len(classes)), _PER_CLASS)
    if len(shown.features) < 2 or shown.features.shape[1] < 2:
        return
    centred = shown.features - shown.features.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # in ascending order
    for index, (first, second) in zip(shown.classes, centred @ axes[:, :-3:-1], strict=True):
        yield classes[index], float(first), float(second)


def film(record: RunRecord, run: Path, output: Path) -> Path | None:
    """Write the clips that the run in folder `run` kept as a `.webm`: input, label and prediction beside each other.

    Returns:
        `output`; `None` if the run kept no clips.

    Raises:
        StplError: for torn arrays, or a video that cannot be written.
    """
    sample = read_samples(run)
    if sample is None or not sample.keys:
        return None
    from stpl.pictures.side_by_side import VideoStyle

    film_samples({"prediction": sample}, record["classes"], output, SAMPLE_FPS, VideoStyle("vp9", _PANEL_WIDTH))
    return output


def film_samples(
    samples: Mapping[str, VideoSample], classes: Sequence[str], output: Path, fps: float, style: VideoStyle
) -> None:
    """Write input, label and the predictions of each sample (by title, of the same clips) side by side into a `.webm`.

    Raises:
        StplError: if the video cannot be written.
    """
    from stpl.pictures.colours import class_rgb
    from stpl.pictures.labels import overlay
    from stpl.pictures.side_by_side import SideBySide

    palette = np.array([class_rgb(name) for name in classes], np.uint8)
    first, legend = next(iter(samples.values())), (classes, palette)
    titles = ["input", "label", *samples]
    with SideBySide(output, fps, titles, legend=legend, style=style) as video:
        for index, frame in enumerate(first.frames):
            layers = [first.labels[index], *(sample.predictions[index] for sample in samples.values())]
            video.write([frame, *(overlay(frame, layer, palette) for layer in layers)])
