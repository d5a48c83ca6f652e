"""Predictions side by side as a video that a browser plays, of recorded runs or of any video file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from stpl.apply.model import Model
from stpl.apply.network import Frame, predict
from stpl.apply.video import Codec
from stpl.data.frames import FrameStream
from stpl.errors import ConfigError, DataError, RecordError, unknown
from stpl.pictures.labels import overlay
from stpl.pictures.side_by_side import SideBySide, VideoStyle
from stpl.runs.artifacts import SAMPLES, VideoSample, read_samples
from stpl.runs.experiments import Catalogue
from stpl.runs.record import RECORD, RunKey
from stpl.runs.samples import SAMPLE_FPS, film_samples

_PANEL_HEIGHT = 360


def film_runs(
    rows: Sequence[str],
    key: RunKey,
    catalogue: Catalogue,
    runs: Path,
    output: Path,
    *,
    fps: float = SAMPLE_FPS,
    codec: Codec = "vp9",
) -> None:
    """Write a side-by-side video of the clips that runs kept.

    Args:
        rows: experiments, from left to right.
        key: of a run of the benchmark and seed to show.
        catalogue: tells the rows' titles.
        runs: folder of all runs.
        output: the `.webm` to write.
        fps: frames a second.
        codec: of the video.

    Raises:
        RecordError: for a run without samples.
        DataError: for runs that kept different clips.
        ConfigError: for an unknown experiment.
    """
    recorded = {path.parents[1].name for path in (runs / key.bench).glob(f"*/seed*/{RECORD}")}
    for row in rows:
        if row not in catalogue.experiments and row not in recorded:
            raise unknown("experiment", row, {*catalogue.experiments, *recorded})
    titles = catalogue.titles(key.bench)
    samples: dict[str, VideoSample] = {}
    classes: list[str] = []
    for row in rows:
        sample, classes = _sample(replace(key, experiment=row), runs)
        samples[titles.get(row, row)] = sample
    first = next(iter(samples.values()))
    if any(one.keys != first.keys or one.labels.shape != first.labels.shape for one in samples.values()):
        raise DataError(f"the runs {', '.join(rows)} kept different clips", mend="show rows of one benchmark and size")
    film_samples(samples, classes, output, fps, VideoStyle(codec))


def _sample(run: RunKey, runs: Path) -> tuple[VideoSample, list[str]]:
    """The clips that a run kept, and its classes."""
    record = run.read(runs)
    sample = None if record is None else read_samples(run.directory(runs))
    if record is None or sample is None:
        raise RecordError(
            f"the run kept no {SAMPLES}",
            where=run.directory(runs),
            mend=f"run it (again): stpl fit --bench={run.bench} --experiment={run.experiment} "
            f"--seed_everything={run.seed}",
        )
    return sample, record["classes"]


def film(
    networks: Mapping[str, Model],
    video: Path | Sequence[Path],
    output: Path,
    *,
    stride: int = 1,
    fps: float | None = None,
    codec: Codec = "vp8",
    limit: int | None = None,
    one_size: bool = False,
) -> None:
    """Write a side-by-side video of what networks predict on a video.

    Args:
        networks: title → network, of one label space, from left to right; all see the frame size of the first.
        video: the video file or folder, or several, one after the other.
        output: the `.webm` to write.
        stride: take every stride-th frame.
        fps: frames a second; the video's own if not given.
        codec: of the video.
        limit: frames of each video; all if not given.
        one_size: whether frames of several sizes are refused; otherwise they are shown at the first one's.

    Raises:
        StplError: for a network, video or output that cannot be used.
    """
    spaces = [network.options.space for network in networks.values()]
    if any(space.classes != spaces[0].classes for space in spaces):
        raise ConfigError(
            f"the networks predict {', '.join(space.name for space in spaces)}",
            mend="compare networks of one label space",
        )
    size = next(iter(networks.values())).frame_size
    paths_of = [video] if isinstance(video, Path) else video
    sources = [FrameStream(path, stride=stride, limit=limit, as_first=not one_size) for path in paths_of]
    space, accels = spaces[0], [network.accel for network in networks.values()]
    legend = (space.classes, space.palette)
    with SideBySide(
        output, sources[0].fps if fps is None else fps, ["input", *networks], legend=legend, style=VideoStyle(codec)
    ) as writer:
        panel = _panel(sources[0].size)
        for source in sources:
            shown = islice(_panels(source, panel), 1, None)
            predicted = predict(accels, _panels(source, panel), size)
            for frame, labels in zip(shown, predicted, strict=True):
                writer.write([frame, *(overlay(frame, label, space.palette) for label in labels)])


def _panels(source: FrameStream, size: tuple[int, int]) -> Iterator[Frame]:
    """Frames at the size of a panel."""
    for frame in source.frames():
        yield cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)


def _panel(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which frames of `size` are shown: no taller than a panel."""
    scale = min(1.0, _PANEL_HEIGHT / size[0])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
