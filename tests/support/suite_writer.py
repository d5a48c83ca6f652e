"""Writes small suites as runs leave them: records, metrics, configurations and the arrays beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fake_trial import record_of
from stpl.data.label_space import VIPER_15
from stpl.runs.record import RunKey, write_record

CLASSES = list(VIPER_15.classes)
SIZE = (24, 48)
DRIVES, FRAMES = 16, 2
KEYS = tuple(f"camera-val/{drive:04d}/{frame:02d}" for drive in range(DRIVES) for frame in range(FRAMES))
ERRORS = {
    "source_only": 0.6, "batchnorm_statistics": 0.45, "batchnorm_augmented": 0.43,
    "self_training": 0.42, "duplicate": 0.4, "temporal": 0.4,
    "spatial": 0.34, "naive": 0.33, "stpl": 0.3, "stpl_add": 0.32, "stpl_conv": 0.31, "oracle": 0.1,
}  # fmt: skip
"""Experiment → share of pixels that it gets wrong. `stpl_concat` has not been run."""

WORSE = {"running": 0.05, "original": 0.02, "all": 0.0}
"""Kind of statistics → the share of wrong pixels that comes on top."""


@dataclass(frozen=True)
class Scene:
    """Labels `[N,H,W]` and frames `[N,H,W,3]` of all evaluation clips."""

    labels: NDArray[np.uint8]
    frames: NDArray[np.uint8]


def scene() -> Scene:
    """Blocks of all classes with some unknown pixels; drives differ."""
    random = np.random.default_rng(5)
    blocks = random.integers(0, len(CLASSES), (len(KEYS), 4, 8)).astype(np.uint8)
    labels = blocks.repeat(SIZE[0] // 4, 1).repeat(SIZE[1] // 8, 2)
    labels[:, 0] = 255
    frames = VIPER_15.palette[np.minimum(labels, 14)] // 2 + 60
    return Scene(labels, frames.astype(np.uint8))


def predict(labels: NDArray[np.uint8], error: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Labels with a share of wrong pixels; unknown pixels are predicted too."""
    wrong = random.random(labels.shape) < error
    guess = random.integers(0, len(CLASSES), labels.shape).astype(np.uint8)
    return np.where(wrong | (labels == 255), guess, labels).astype(np.uint8)


def confusion(labels: NDArray[np.uint8], predictions: NDArray[np.uint8], many: int) -> NDArray[np.int32]:
    """One matrix; rows are the truth."""
    matrix = np.zeros((many, many), np.int32)
    np.add.at(matrix, (labels[labels != 255], predictions[labels != 255]), 1)
    return matrix


def confusions_of(labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> NDArray[np.int32]:
    """One matrix a clip."""
    pairs = zip(labels, predictions, strict=True)
    return np.stack([confusion(label, found, len(CLASSES)) for label, found in pairs])


def iou(confusion: NDArray[Any]) -> NDArray[np.float64]:
    counts = confusion.astype(np.float64)
    return np.asarray(100 * np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts)))


def write_suite(runs: Path, errors: dict[str, float] | None = None, seeds: int = 2, artifacts: bool = True) -> None:
    """A suite of `streets`: every experiment of `errors` with `seeds` runs."""
    picture = scene()
    for number, (experiment, error) in enumerate((errors or ERRORS).items()):
        for seed in range(seeds):
            write_run(runs, experiment, seed, error, picture, np.random.default_rng([number, seed]), artifacts)


def write_run(
    runs: Path,
    experiment: str,
    seed: int,
    error: float,
    picture: Scene,
    random: np.random.Generator,
    artifacts: bool,
    overrides: dict[str, str] | None = None,
    own: str = "",
) -> None:
    """A run; if it kept arrays, `own` is the kind of statistics that it was recorded with, or none of them."""
    key = RunKey("streets", experiment, seed)
    folder = key.directory(runs)
    predictions = predict(picture.labels, error, random)
    confusions = confusions_of(picture.labels, predictions)
    values = iou(confusions.sum(0))
    by_name = dict(zip(CLASSES, map(float, values), strict=True))
    evaluation: dict[str, Any] = {"step": 40, "miou": float(values.mean()), "iou": by_name, "score": 1.5}
    if artifacts:
        evaluation |= _groups(error)
    command = ["somewhere/stpl", "fit", "--bench=streets", f"--experiment={experiment}", f"--seed_everything={seed}"]
    moments = dict.fromkeys(("last", "selected", "best"), evaluation)
    changes: dict[str, Any] = {"classes": CLASSES, "command": command, "overrides": overrides or {}, **moments}
    if artifacts:
        changes["selections"] = {"information_maximization": evaluation, "entropy": evaluation}
    write_record(folder, record_of(key, 0.0, 40, **changes))
    _write_texts(folder, experiment, error)
    if artifacts:
        _write_arrays(folder, picture, predictions, confusions, error, random)
        _write_statistics(folder, picture, confusions, error, random, own)


def _groups(error: float) -> dict[str, Any]:
    return {
        "scores": {"information_maximization": 1.5, "entropy": -0.2},
        "feature_space": {
            "sigma_intra": 2.0 + error, "sigma_inter": 0.5, "silhouette": 0.1,
            "linear_probe": 70 - error, "nearest_mean": 60 - error,
            "purity": {"1": 90 - 50 * error, "10": 80 - 50 * error, "100": 60 - 50 * error},
        },
        "temporal": {
            "mtc": 70 - error, "vpq": {str(window): 41 - window - error for window in range(1, 5)},
            "vpq_mean": 38.5 - error,
        },
        "vpq": {name: 100 * error if place else None for place, name in enumerate(CLASSES)},
        "pseudo_labels": {"pseudo_share": 100 * error, "pseudo_miou": 60 - error},
        "weights": {"moved": error / 10},
    }  # fmt: skip


def _write_texts(folder: Path, experiment: str, error: float) -> None:
    lines = ["step,name,value", "0,progress/steps,40"]
    for step in (0, 20, 40):
        lines += [f"{step},val/miou,{60 * (1 - error) + step / 10}", f"{step},train/loss,{2 - step / 40}"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(f"experiment: {experiment}\n")


def _write_arrays(
    folder: Path,
    picture: Scene,
    predictions: NDArray[np.uint8],
    confusions: NDArray[np.int32],
    error: float,
    random: np.random.Generator,
) -> None:
    np.savez_compressed(folder / "evaluation.npz", keys=np.array(KEYS), confusions=confusions)
    classes = np.arange(len(CLASSES), dtype=np.uint8).repeat(8)
    features = random.normal(size=(len(classes), 6)) * error + np.eye(15)[classes][:, :6]
    np.savez_compressed(folder / "features.npz", features=features.astype(np.float16), classes=classes, step=40)
    shown = slice(0, 4)
    np.savez_compressed(
        folder / "samples.npz",
        keys=np.array(KEYS[shown]),
        frames=picture.frames[shown],
        labels=picture.labels[shown],
        predictions=predictions[shown],
    )


def _write_statistics(
    folder: Path,
    picture: Scene,
    confusions: NDArray[np.int32],
    error: float,
    random: np.random.Generator,
    own: str,
) -> None:
    kinds: dict[str, Any] = {
        kind: confusions_of(picture.labels, predict(picture.labels, min(1, error + worse), random))
        for kind, worse in WORSE.items()
    }
    if own:
        kinds[own] = confusions
    np.savez_compressed(folder / "statistics.npz", keys=np.array(KEYS), step=40, **kinds)
