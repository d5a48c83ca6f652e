"""`stpl video`: predictions side by side as a video that a browser plays, of recorded runs or of any video file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from stpl.data.folder import VideoFrames
from stpl.errors import ConfigError, DataError, RecordError
from stpl.experiments import check_bench, check_runs, load_catalogue, unknown
from stpl.nn import weights
from stpl.record import RunKey
from stpl.report.artifacts import SAMPLES, VideoSample, read_samples
from stpl.report.suite import Suite
from stpl.report.theme import class_rgb
from stpl.video.predict import Frame, load_network, predict
from stpl.video.side_by_side import SideBySide, overlay

Codec = Literal["vp8", "vp9"]

_PANEL_HEIGHT = 360
_SAMPLE_FPS = 2.0  # a sample holds a few frames of several drives


def video(
    rows: list[str] | None = None,
    bench: str = "streets",
    seed: int = 0,
    video: Path | None = None,
    checkpoints: list[Path] | None = None,
    output: Path | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    stride: int = 1,
    codec: Codec = "vp9",
    runs: Path = Path("runs"),
    experiments: Path = Path("experiments"),
) -> None:
    """Write input, label and predictions side by side as WebM.

    Of recorded runs (`stpl video source_only stpl`): the clips that each run kept in `samples.npz`. Of any video file
    (`stpl video --video=drive.mp4 --checkpoints=[a.ckpt,b.ckpt]`): what the checkpoints predict on it.

    Args:
        rows: experiments of the benchmark, beside each other; source_only and stpl if none are given.
        bench: benchmark whose runs to show.
        seed: of the runs.
        video: a video file or a folder of images to predict on, instead of runs.
        checkpoints: networks of one label space to predict with.
        output: the .webm to write; runs/<bench>/report/side_by_side.webm, or side_by_side.webm beside the video.
        fps: frames a second; 2 for runs, the video's own otherwise.
        size: height and width the networks see; what the first checkpoint was trained at if not given. With it, images
            of a folder may differ in size.
        stride: take every stride-th frame of the video.
        codec: vp9 is smaller, vp8 is written four times faster.
        runs: folder of all runs.
        experiments: folder that holds tables.yaml.

    Raises:
        StplError: for an unknown name, a run without samples, runs on different clips, or a file that cannot be used.
    """
    if (video is None) != (not checkpoints) or (video is not None and rows):
        raise ConfigError(
            "a video file and checkpoints belong together, and exclude rows",
            mend="give --video=FILE --checkpoints=[A,B], or names of experiments",
        )
    if video is not None and checkpoints:
        written = output or video.parent / "side_by_side.webm"
        film(_titled(checkpoints), video, written, size=size, stride=stride, fps=fps, codec=codec)
    else:
        check_bench(bench, experiments)
        check_runs(runs)
        suite = Suite(bench, runs, load_catalogue(experiments))
        written = output or suite.folder / "report" / "side_by_side.webm"
        film_runs(suite, rows or ["source_only", "stpl"], seed, written, fps=fps or _SAMPLE_FPS, codec=codec)
    print(f"video: {written}")


def _titled(checkpoints: Sequence[Path]) -> dict[str, Path]:
    """A title for each: the experiment's name where a run wrote it, else the file's; its path where these are equal."""
    titles = [
        path.parent.parent.parent.name if path.parent.name == "checkpoints" else path.stem for path in checkpoints
    ]
    unique = [title if titles.count(title) == 1 else str(path) for title, path in zip(titles, checkpoints, strict=True)]
    return dict(zip(unique, checkpoints, strict=True))


def film_runs(
    suite: Suite, rows: Sequence[str], seed: int, output: Path, *, fps: float = _SAMPLE_FPS, codec: Codec = "vp9"
) -> None:
    """Write a side-by-side video of the clips that runs kept.

    Args:
        suite: the runs of a benchmark.
        rows: experiments, from left to right.
        seed: of the runs.
        output: the `.webm` to write.
        fps: frames a second.
        codec: of the video.

    Raises:
        RecordError: for a run without samples.
        DataError: for runs that kept different clips.
        ConfigError: for an unknown experiment.
    """
    samples = [_sample(suite, row, seed) for row in rows]
    classes = suite.records(rows[0])[0]["classes"]
    palette = np.array([class_rgb(name) for name in classes], np.uint8)
    first = samples[0]
    if any(sample.keys != first.keys or sample.labels.shape != first.labels.shape for sample in samples):
        raise DataError(f"the runs {', '.join(rows)} kept different clips", mend="show rows of one benchmark and size")
    titles = ["input", "label", *map(suite.title_of, rows)]
    with SideBySide(output, fps, titles, legend=(classes, palette), codec=codec) as writer:
        for index, frame in enumerate(first.frames):
            labels = [first.labels[index], *(sample.predictions[index] for sample in samples)]
            writer.write([frame, *(overlay(frame, label, palette) for label in labels)])


def _sample(suite: Suite, row: str, seed: int) -> VideoSample:
    if row not in suite.catalogue.experiments and row not in suite.recorded():
        raise unknown("experiment", row, {*suite.catalogue.experiments, *suite.recorded()})
    folder = RunKey(suite.bench, row, seed).directory(suite.runs)
    sample = read_samples(folder) if any(record["seed"] == seed for record in suite.records(row)) else None
    if sample is None:
        raise RecordError(
            f"the run kept no {SAMPLES}", where=folder, mend=f"run it (again): stpl fit --bench={suite.bench} "
            f"--experiment={row} --seed_everything={seed}",
        )  # fmt: skip
    return sample


def film(
    checkpoints: Mapping[str, Path],
    video: Path,
    output: Path,
    *,
    size: tuple[int, int] | None = None,
    stride: int = 1,
    fps: float | None = None,
    codec: Codec = "vp8",
) -> None:
    """Write a side-by-side video of checkpoints' predictions on a video.

    Args:
        checkpoints: title → checkpoint, of one label space, from left to right.
        video: the video file or folder.
        output: the `.webm` to write.
        size: height and width the networks see; what the first was trained at if not given. With it, frames of several
            sizes are shown at the first one's.
        stride: take every stride-th frame.
        fps: frames a second; the video's own if not given.
        codec: of the video.

    Raises:
        StplError: for a checkpoint, video or output that cannot be used.
    """
    paths = list(checkpoints.values())
    spaces = [weights.describe(path).space for path in paths]
    if any(space.classes != spaces[0].classes for space in spaces):
        raise ConfigError(
            f"the checkpoints predict {', '.join(space.name for space in spaces)}",
            mend="compare networks of one label space",
        )
    source = VideoFrames(video, stride=stride, as_first=size is not None)
    space, networks = spaces[0], [load_network(path) for path in paths]
    legend = (space.classes, space.palette)
    with SideBySide(output, fps or source.fps, ["input", *checkpoints], legend=legend, codec=codec) as writer:
        shown = islice(_panels(source), 1, None)
        predicted = predict(networks, _panels(source), size or weights.frame_size(paths[0]))
        for frame, labels in zip(shown, predicted, strict=True):
            writer.write([frame, *(overlay(frame, label, space.palette) for label in labels)])


def _panels(source: VideoFrames) -> Iterator[Frame]:
    """Frames no taller than a panel."""
    for frame in source.frames():
        scale = min(1.0, _PANEL_HEIGHT / frame.shape[0])
        width, height = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
        yield cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
