"""`stpl video`: predictions side by side as a video that a browser plays, of recorded runs or of any video file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from stpl.apply.network import Frame, load_network, predict
from stpl.apply.source import builder_of
from stpl.data.folder import VideoFrames
from stpl.errors import ConfigError, DataError, RecordError
from stpl.nn import weights
from stpl.pictures.labels import overlay
from stpl.pictures.side_by_side import SideBySide
from stpl.runs.artifacts import SAMPLES, VideoSample, read_samples
from stpl.runs.experiments import Catalogue, check_bench, check_runs, load_catalogue
from stpl.runs.recipes import experiment_folders
from stpl.runs.record import RECORD, RunKey
from stpl.runs.samples import SAMPLE_FPS, film_samples
from stpl.runs.yaml_files import unknown

Codec = Literal["vp8", "vp9"]

_PANEL_HEIGHT = 360


def video(
    rows: list[str] | None = None,
    bench: str = "streets",
    seed: int = 0,
    video: Path | list[Path] | None = None,
    checkpoints: list[Path] | None = None,
    output: Path | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    stride: int = 1,
    codec: Codec = "vp9",
    model: str | None = None,
    runs: Path = Path("runs"),
    experiments: Path | None = None,
) -> None:
    """Write input, label and predictions side by side as WebM.

    Of recorded runs (`stpl video source_only stpl`): the clips that each run kept in `samples.npz`. Of any video file
    (`stpl video --video=drive.mp4 --checkpoints=[a.ckpt,b.ckpt]`): what the checkpoints predict on it.

    Args:
        rows: experiments of the benchmark, beside each other; source_only and stpl if none are given.
        bench: benchmark whose runs to show.
        seed: of the runs.
        video: a video file or a folder of images to predict on, or a list of them, instead of runs.
        checkpoints: networks of one label space to predict with.
        output: the .webm to write; runs/<bench>/report/side_by_side.webm, or side_by_side.webm beside the video.
        fps: frames a second; 2 for runs, the video's own otherwise.
        size: height and width the networks see; what the first checkpoint was trained at if not given. With it, images
            of a folder may differ in size.
        stride: take every stride-th frame of the video.
        codec: vp9 is smaller, vp8 is written four times faster.
        model: what builds the network, where the checkpoints are of one of your own: see `stpl adapt`.
        runs: folder of all runs.
        experiments: folder of your own overlays and tables.yaml, beside the shipped ones; ./experiments if not given.

    Raises:
        StplError: for an unknown name, a run without samples, runs on different clips, or a file that cannot be used.
    """
    if (video is None) != (not checkpoints) or (video is not None and rows):
        raise ConfigError(
            "a video file and checkpoints belong together, and exclude rows",
            mend="give --video=FILE --checkpoints=[A,B], or names of experiments",
        )
    if video is not None and checkpoints:
        first = video[0] if isinstance(video, list) else video
        written = output or first.parent / "side_by_side.webm"
        build = None if model is None else builder_of(model)
        film(_titled(checkpoints), video, written, size=size, stride=stride, fps=fps, codec=codec, build=build)
    else:
        folders = experiment_folders(experiments)
        check_bench(bench, folders)
        check_runs(runs)
        shown, catalogue = rows or ["source_only", "stpl"], load_catalogue(folders)
        written = output or runs / bench / "report" / "side_by_side.webm"
        film_runs(shown, RunKey(bench, shown[0], seed), catalogue, runs, written, fps=fps or SAMPLE_FPS, codec=codec)
    print(f"video: {written}")


def _titled(checkpoints: Sequence[Path]) -> dict[str, Path]:
    """A title for each: the experiment's name where a run wrote it, else the file's; its path where these are equal."""
    titles = [
        path.parent.parent.parent.name if path.parent.name == "checkpoints" else path.stem for path in checkpoints
    ]
    unique = [title if titles.count(title) == 1 else str(path) for title, path in zip(titles, checkpoints, strict=True)]
    return dict(zip(unique, checkpoints, strict=True))


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
    film_samples(samples, classes, output, fps=fps, codec=codec)


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
    checkpoints: Mapping[str, Path],
    video: Path | Sequence[Path],
    output: Path,
    *,
    size: tuple[int, int] | None = None,
    stride: int = 1,
    fps: float | None = None,
    codec: Codec = "vp8",
    build: str | None = None,
    limit: int | None = None,
) -> None:
    """Write a side-by-side video of checkpoints' predictions on a video.

    Args:
        checkpoints: title → checkpoint, of one label space, from left to right.
        video: the video file or folder, or several, one after the other.
        output: the `.webm` to write.
        size: height and width the networks see; what the first was trained at if not given. With it, frames of several
            sizes are shown at the first one's.
        stride: take every stride-th frame.
        fps: frames a second; the video's own if not given.
        codec: of the video.
        build: as for `weights.describe`.
        limit: frames of each video; all if not given.

    Raises:
        StplError: for a checkpoint, video or output that cannot be used.
    """
    paths = list(checkpoints.values())
    spaces = [weights.describe(path, build).space for path in paths]
    if any(space.classes != spaces[0].classes for space in spaces):
        raise ConfigError(
            f"the checkpoints predict {', '.join(space.name for space in spaces)}",
            mend="compare networks of one label space",
        )
    paths_of = [video] if isinstance(video, Path) else video
    sources = [VideoFrames(path, stride=stride, limit=limit, as_first=size is not None) for path in paths_of]
    space, networks = spaces[0], [load_network(path, build) for path in paths]
    legend = (space.classes, space.palette)
    with SideBySide(output, fps or sources[0].fps, ["input", *checkpoints], legend=legend, codec=codec) as writer:
        panel = _panel(sources[0].size)
        for source in sources:
            shown = islice(_panels(source, panel), 1, None)
            predicted = predict(networks, _panels(source, panel), size or weights.frame_size(paths[0]))
            for frame, labels in zip(shown, predicted, strict=True):
                writer.write([frame, *(overlay(frame, label, space.palette) for label in labels)])


def _panels(source: VideoFrames, size: tuple[int, int]) -> Iterator[Frame]:
    """Frames at the size of a panel."""
    for frame in source.frames():
        yield cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)


def _panel(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which frames of `size` are shown: no taller than a panel."""
    scale = min(1.0, _PANEL_HEIGHT / size[0])
    return round(size[0] * scale), round(size[1] * scale)
