"""What networks predict, as files: videos side by side, label images, what the official Cityscapes evaluator reads."""

import json
import sys
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image

from stpl.apply.loaded import LoadedNetwork, labelled
from stpl.apply.out_folder import filled
from stpl.apply.settings import Codec
from stpl.data.clip import Clip
from stpl.data.data_set import DataSet
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.image import resize_ids, resize_rgb, write_png
from stpl.data.label_space import LabelSpace
from stpl.data.sets import data_set
from stpl.data.videos.stream import FrameStream
from stpl.errors import ConfigError, DataError, RecordError, refusals
from stpl.pictures.labels import overlay
from stpl.pictures.side_by_side import SideBySide, VideoStyle
from stpl.progress import Progress
from stpl.runs.artifacts import SAMPLES, VideoSample, read_samples
from stpl.runs.charts import SAMPLE_FPS, film_samples
from stpl.runs.fit import build_evaluation
from stpl.runs.record import RunKey
from stpl.runs.request import Request
from stpl.runs.trainer import callbacks_of, signals_raised

_EVERY = 5.0  # seconds between two lines of progress
_PANEL_HEIGHT = 360


def write_labels(network: LoadedNetwork, sources: Sequence[FrameStream], folder: Path, kinds: Set[str]) -> int:
    """Write what a network makes of all frames, as images of "ids" and "colors" and the video "overlay"; their number.

    The sources come one after the other; `kinds` says what to write into the folder of these three.
    """
    space, done, start, shown = network.options.space, 0, time.monotonic(), time.monotonic()
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
            legend = (space.classes, space.palette)
            video = SideBySide(folder / "overlay.webm", sources[0].fps, ["prediction"], legend=legend)
            writer = stack.enter_context(video)
        for frame, (labels,) in (pair for source in sources for pair in labelled([network], source, FlowCache())):
            if "ids" in kinds:
                Image.fromarray(labels).save(folder / "ids" / f"{done:06d}.png")
            if "colors" in kinds:
                image = Image.fromarray(labels)
                image.putpalette(colours)
                image.save(folder / "colors" / f"{done:06d}.png")
            if writer is not None:
                writer.write([overlay(frame, labels, space.palette)])
            done += 1
            now = time.monotonic()
            if now - shown > _EVERY:
                shown = now
                print(f"predicting: {done} frames, {done / (now - start):.1f} a second", file=sys.stderr, flush=True)
    print(f"predicted {done} frames, {done / (time.monotonic() - start):.1f} a second", file=sys.stderr)
    return done


def label_benchmark(request: Request, out: Path, colors: bool) -> None:
    """Write the predictions of a network on a benchmark into a folder, with `colors` in the palette of Cityscapes too.

    Raises:
        StplError: for a mistake in configuration, data or checkpoint, or a full disk; `out` does not appear then.
    """
    cli = build_evaluation(request)
    if cli.trainer.world_size > 1:
        raise ConfigError("predictions are written by one process", where="trainer.devices", mend="use one device")
    with filled(out) as folder:
        writer = _LabelImages(folder, cli.model.options.space, data_set(cli.datamodule.evaluated), colors)
        callbacks_of(cli.trainer).append(writer)
        loader = cli.datamodule.val_dataloader()
        with refusals("trainer", among="lightning"), signals_raised(cli.trainer):
            cli.trainer.predict(cli.model, dataloaders=loader, return_predictions=False)
    print(f"wrote {writer.written} predictions to {out}", file=sys.stderr)


class _LabelImages(Callback):
    """Writes predicted train ids as images of a data set's label ids while `Trainer.predict` goes on.

    Names of images in colours begin with `color_`: the evaluator looks through all sub-folders for names that begin
    with the frame's, and refuses to find two.
    """

    def __init__(self, folder: Path, space: LabelSpace, known: DataSet, colors: bool) -> None:
        self.folder, self.colors = folder, colors
        self.ids, self.palette = label_ids(space, known), space.palette
        self.written = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.progress = Progress("predicting", sum(map(int, trainer.num_predict_batches)))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Clip, batch_idx: int, _: int = 0
    ) -> None:
        for key, label in zip(batch.key, outputs.cpu().numpy(), strict=True):
            name = key.replace("/", "_")
            write_png(self.folder / f"{name}_pred_labelIds.png", self.ids[label])
            if self.colors:
                write_png(self.folder / "colors" / f"color_{name}.png", self.palette[label])
            self.written += 1
        self.progress.add()


def label_ids(space: LabelSpace, known: DataSet) -> NDArray[np.uint8]:
    """A data set's label ids uint8 `[K]` by train id: of several ids of one class the lowest (person, not rider)."""
    table, void = known.table(space), known.labels.void or 0
    ids = [np.flatnonzero(table == train_id) for train_id in range(space.num_classes)]
    return np.array([found[0] if len(found) else void for found in ids], dtype=np.uint8)


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
    palette, titles = spaces[0].palette, ["input", *networks]
    fps = sources[0].fps if fps is None else fps
    with SideBySide(output, fps, titles, legend=(spaces[0].classes, palette), style=VideoStyle(codec)) as writer:
        height, width = sources[0].size
        scale = min(1.0, _PANEL_HEIGHT / height)
        panel = (max(1, round(height * scale)), max(1, round(width * scale)))
        for source in sources:
            for frame, labels in labelled(list(networks.values()), source, flow or FlowCache(), first=1):
                shown = resize_rgb(frame, panel)
                writer.write([shown, *(overlay(shown, resize_ids(one, panel), palette) for one in labels)])
