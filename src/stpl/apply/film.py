"""Predictions side by side as a video that a browser plays, of recorded runs or of any video file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from stpl.apply.loaded import LoadedNetwork
from stpl.apply.network import Frame, predict
from stpl.apply.settings import Codec
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.image import resize_ids, resize_rgb
from stpl.data.videos.stream import FrameStream
from stpl.data.videos.video_clips import clips_in_order
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
        catalogue: has the rows' titles.
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
    networks: Mapping[str, LoadedNetwork],
    video: Path | Sequence[Path],
    output: Path,
    *,
    stride: int = 1,
    fps: float | None = None,
    codec: Codec = "vp8",
    limit: int | None = None,
    one_size: bool = False,
    flow: FlowCache | None = None,
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
        flow: where flow is kept; nowhere if not given. Each network has its own frame size and flow estimator.

    Raises:
        StplError: for a network, video or output that cannot be used.
    """
    spaces = [network.options.space for network in networks.values()]
    if any(space.classes != spaces[0].classes for space in spaces):
        raise ConfigError(
            f"the networks predict {', '.join(space.name for space in spaces)}",
            mend="compare networks of one label space",
        )
    paths_of = [video] if isinstance(video, Path) else video
    sources = [FrameStream(path, stride=stride, limit=limit, as_first=not one_size) for path in paths_of]
    space = spaces[0]
    legend = (space.classes, space.palette)
    with SideBySide(
        output, sources[0].fps if fps is None else fps, ["input", *networks], legend=legend, style=VideoStyle(codec)
    ) as writer:
        panel = _panel(sources[0].size)
        for source in sources:
            for frame, labels in _labels(list(networks.values()), source, flow or FlowCache()):
                shown = resize_rgb(frame, panel)
                writer.write([shown, *(overlay(shown, resize_ids(one, panel), space.palette) for one in labels)])


def _labels(
    networks: Sequence[LoadedNetwork], source: FrameStream, flow: FlowCache
) -> Iterator[tuple[Frame, list[Frame]]]:
    """Every frame but the first, with what each network predicts; those that see the same clips share them."""
    kinds: dict[tuple[tuple[int, int], str], list[int]] = {}
    for place, network in enumerate(networks):
        kinds.setdefault((network.frame_size, network.flow_estimator), []).append(place)
    streams = [clips_in_order(source, size, replace(flow, estimator=name)) for size, name in kinds]
    for seen in islice(zip(*streams, strict=True), 1, None):
        frame = seen[0][0]
        labels: dict[int, Frame] = {}
        for places, (_, clip) in zip(kinds.values(), seen, strict=True):
            found = predict([networks[place].accel for place in places], clip, frame.shape)
            labels |= dict(zip(places, found, strict=True))
        yield frame, [labels[place] for place in range(len(networks))]


def _panel(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which frames of `size` are shown: no taller than a panel."""
    scale = min(1.0, _PANEL_HEIGHT / size[0])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
