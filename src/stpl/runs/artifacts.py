"""The arrays of the last step that a run leaves beside its record; older runs have none."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stpl.errors import RecordError
from stpl.files import write_atomically

EVALUATION, FEATURES, SAMPLES = "evaluation.npz", "features.npz", "samples.npz"

STATISTICS = "statistics.npz"
"""What was counted with each kind of BatchNorm statistics; `stpl weights statistics` makes a missing one."""

StatisticsKind = Literal["running", "original", "all"]
KINDS: tuple[StatisticsKind, ...] = ("running", "original", "all")
"""Kinds of statistics: those of training; those renewed from original frames, and from original and augmented ones."""


@dataclass(frozen=True)
class ClipConfusions:
    """What was counted on each of N clips (`keys`) of the labelled target split, in the order of the evaluation.

    Attributes:
        confusions: pixel counts int64 `[N,K,K]`; rows are the truth.
    """

    keys: tuple[str, ...]
    confusions: NDArray[np.int64]


@dataclass(frozen=True)
class FeatureSample:
    """Pixels of the feature space, about as many of every class.

    Attributes:
        features: float32 `[M,D]`.
        classes: uint8 `[M]`, train ids of the truth.
    """

    features: NDArray[np.float32]
    classes: NDArray[np.uint8]

    def of(self, ids: Sequence[int], most: int) -> FeatureSample:
        """The first `most` pixels of each of the classes `ids`, class by class."""
        rows = np.concatenate([np.flatnonzero(self.classes == index)[:most] for index in ids] or [np.zeros(0, np.intp)])
        return FeatureSample(self.features[rows], self.classes[rows])


@dataclass(frozen=True)
class VideoSample:
    """S consecutive evaluation clips (`keys`) with what was predicted on them.

    Attributes:
        frames: current frames uint8 `[S,H,W,3]` RGB.
        labels: train ids uint8 `[S,H,W]`, 255 = ignore.
        predictions: train ids uint8 `[S,H,W]`.
    """

    keys: tuple[str, ...]
    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    predictions: NDArray[np.uint8]


def read_evaluation(run: Path) -> ClipConfusions | None:
    """The per-clip counts of the run in folder `run`, `None` if it has none; raises `RecordError` for a torn file."""
    if (found := _read(run / EVALUATION, "keys", "confusions")) is None:
        return None
    keys, confusions = found
    _check(run / EVALUATION, confusions.ndim == 3 and len(keys) == len(confusions))
    return ClipConfusions(tuple(map(str, keys)), confusions.astype(np.int64))


def read_features(run: Path) -> FeatureSample | None:
    """The feature pixels of the run in folder `run`, `None` if it has none; raises `RecordError` for a torn file."""
    if (found := _read(run / FEATURES, "features", "classes")) is None:
        return None
    features, classes = found
    _check(run / FEATURES, features.ndim == 2 and classes.shape == features.shape[:1])
    return FeatureSample(features.astype(np.float32), classes.astype(np.uint8))


def read_samples(run: Path) -> VideoSample | None:
    """The short video of the run in folder `run`, `None` if it has none; raises `RecordError` for a torn file."""
    if (found := _read(run / SAMPLES, "keys", "frames", "labels", "predictions")) is None:
        return None
    keys, frames, labels, predictions = found
    right = frames.ndim == 4 and labels.shape == predictions.shape == frames.shape[:3] and len(keys) == len(frames)
    _check(run / SAMPLES, right)
    return VideoSample(tuple(map(str, keys)), frames, labels, predictions)


def read_statistics(run: Path, step: int) -> dict[StatisticsKind, ClipConfusions] | None:
    """The counts by kind of statistics of the run in folder `run`, whose record ends at `step`; `None` if it has none.

    Raises:
        RecordError: for a torn file, or one of another step.
    """
    if (found := _read(run / STATISTICS, "step", "keys", *KINDS)) is None:
        return None
    of_step, keys, *confusions = found
    _check(run / STATISTICS, all(counts.ndim == 3 and len(counts) == len(keys) for counts in confusions))
    if of_step != step:
        what, mend = f"is of step {of_step}, the run ended at {step}", "delete it, and call `stpl weights statistics`"
        raise RecordError(what, where=run / STATISTICS, mend=mend)
    names = tuple(map(str, keys))
    return {
        kind: ClipConfusions(names, counts.astype(np.int64)) for kind, counts in zip(KINDS, confusions, strict=True)
    }


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name into a compressed `.npz` as a whole; raises `StplError` if the disk refuses it."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def _read(path: Path, *names: str) -> list[NDArray[Any]] | None:
    try:
        # NumPy would leave a file open that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive raises whatever its bytes ask for; its checksums are compared here
        raise _torn(path, str(error)) from error


def _check(path: Path, right: bool) -> None:
    if not right:
        raise _torn(path, "its arrays do not fit together")


def _torn(path: Path, fault: str) -> RecordError:
    mend = f"delete {path} to report without it, or its folder to run again"
    return RecordError(f"cannot be read ({fault})", where=path, mend=mend)
