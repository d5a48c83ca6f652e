"""What networks predict on footage, as files: label images, videos side by side. Imports no Lightning."""

import json
import sys
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from stpl.apply.loaded import LoadedNetwork, labelled
from stpl.apply.settings import Codec
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.image import resize_ids, resize_rgb
from stpl.data.videos.stream import FrameStream
from stpl.errors import ConfigError, DataError, RecordError
from stpl.pictures.colours import picture_palette
from stpl.pictures.labels import overlay
from stpl.pictures.side_by_side import SideBySide, VideoStyle
from stpl.runs.artifacts import SAMPLES, VideoSample, read_samples
from stpl.runs.charts import SAMPLE_FPS, film_samples
from stpl.runs.record import RunKey

_EVERY = 5.0  # seconds between two lines of progress
_PANEL_HEIGHT = 360


def write_labels(network: LoadedNetwork, sources: Sequence[FrameStream], folder: Path, kinds: Set[str]) -> int:
    """Write what a network makes of all frames, as images of "ids" and "colors" and the video "overlay"; their number.

    The sources come one after the other; `kinds` says what to write into the folder of these three.
    """
    space, counted = network.options.space, _Counted("predicting", "predicted")
    palette = picture_palette(space)
    colours = np.pad(space.palette, ((0, 256 - len(space.palette)), (0, 0))).tobytes()
    rows = [
        {"id": number, "name": name, "color": rgb}
        for number, (name, rgb) in enumerate(zip(space.classes, space.palette.tolist(), strict=True))
    ]
    (folder / "classes.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for name in {"ids", "colors"} & kinds:
        (folder / name).mkdir()
    with ExitStack() as stack:
        writer = None
        if "overlay" in kinds:
            legend = (space.classes, palette)
            video = SideBySide(folder / "overlay.webm", sources[0].fps, ["prediction"], legend=legend)
            writer = stack.enter_context(video)
        for frame, (labels,) in (pair for source in sources for pair in labelled([network], source, FlowCache())):
            if "ids" in kinds:
                Image.fromarray(labels).save(folder / "ids" / f"{counted.done:06d}.png")
            if "colors" in kinds:
                image = Image.fromarray(labels)
                image.putpalette(colours)
                image.save(folder / "colors" / f"{counted.done:06d}.png")
            if writer is not None:
                writer.write([overlay(frame, labels, palette)])
            counted.add()
    counted.end()
    return counted.done


class _Counted:
    """Says how many frames are done, of footage whose length is not known before its end.

    Args:
        doing: what is being done.
        did: the same once it is done.
    """

    def __init__(self, doing: str, did: str) -> None:
        self.doing, self.did, self.done = doing, did, 0
        self._start = self._shown = time.monotonic()

    def add(self) -> None:
        """One more frame is done."""
        self.done += 1
        if time.monotonic() - self._shown > _EVERY:
            self._shown = time.monotonic()
            print(f"{self.doing}: {self.done} frames, {self._pace()}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """All are."""
        print(f"{self.did} {self.done} frames, {self._pace()}", file=sys.stderr)

    def _pace(self) -> str:
        return f"{self.done / max(1e-9, time.monotonic() - self._start):.1f} a second"


def film_runs(keys: Mapping[str, RunKey], runs: Path, output: Path, fps: float | None, codec: Codec) -> None:
    """Write a side-by-side video (`.webm`) of the clips that runs of one benchmark kept, from left to right by title.

    It has `SAMPLE_FPS` frames a second if nothing is given.

    Raises:
        RecordError: for a run without samples.
        DataError: for runs that kept different clips.
    """
    found = {title: _sample(key, runs) for title, key in keys.items()}
    samples = {title: sample for title, (sample, _) in found.items()}
    first, classes = next(iter(samples.values())), [*found.values()][-1][1]
    if any(one.keys != first.keys or one.labels.shape != first.labels.shape for one in samples.values()):
        names = ", ".join(key.experiment for key in keys.values())
        raise DataError(f"the runs {names} kept different clips", mend="show rows of one benchmark and size")
    film_samples(samples, classes, output, SAMPLE_FPS if fps is None else fps, VideoStyle(codec))


def _sample(run: RunKey, runs: Path) -> tuple[VideoSample, list[str]]:
    """The clips that a run kept, and its classes."""
    record = run.read(runs)
    sample = None if record is None else read_samples(run.directory(runs))
    if record is None or sample is None:
        call = f"stpl fit --bench={run.bench} --experiment={run.experiment} --seed_everything={run.seed}"
        raise RecordError(f"the run kept no {SAMPLES}", where=run.directory(runs), mend=f"run it (again): {call}")
    return sample, record["classes"]


def film(
    networks: Mapping[str, LoadedNetwork],
    sources: Sequence[FrameStream],
    output: Path,
    *,
    fps: float | None = None,
    codec: Codec = "vp8",
    flow: FlowCache | None = None,
) -> None:
    """Write a side-by-side video (`.webm`) of what networks predict on footage, from left to right by title.

    The sources come one after the other; all frames but the first one of each are shown, at the first source's own rate
    if none is given. `flow` says where flow is kept.

    Raises:
        StplError: for a network, video or output that cannot be used, and for networks of several label spaces.
    """
    spaces = [network.options.space for network in networks.values()]
    if any(space.classes != spaces[0].classes for space in spaces):
        what = f"the networks predict {', '.join(space.name for space in spaces)}"
        raise ConfigError(what, mend="compare networks of one label space")
    palette, titles = picture_palette(spaces[0]), ["input", *networks]
    fps, counted = sources[0].fps if fps is None else fps, _Counted("filming", "filmed")
    with SideBySide(output, fps, titles, legend=(spaces[0].classes, palette), style=VideoStyle(codec)) as writer:
        height, width = sources[0].size
        scale = min(1.0, _PANEL_HEIGHT / height)
        panel = (max(1, round(height * scale)), max(1, round(width * scale)))
        for source in sources:
            for frame, labels in labelled(list(networks.values()), source, flow or FlowCache(), first=1):
                shown = resize_rgb(frame, panel)
                writer.write([shown, *(overlay(shown, resize_ids(one, panel), palette) for one in labels)])
                counted.add()
    counted.end()
