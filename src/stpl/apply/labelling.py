"""`stpl predict --video`: what a network makes of footage, frame by frame, as images of classes and as a video."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, tee
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpl.apply.model import Model, open_model
from stpl.apply.network import Frame, predict
from stpl.apply.resources import check_prediction
from stpl.data.folder import VideoFrames
from stpl.errors import ConfigError, cannot_write
from stpl.pictures.labels import overlay as overlaid
from stpl.pictures.side_by_side import SideBySide

_EVERY = 5.0  # seconds between two lines of progress


def label_video(
    video: Path | list[Path],
    out: Path,
    checkpoint: Path | None = None,
    model: str | None = None,
    size: tuple[int, int] | None = None,
    stride: int = 1,
    rate: float | None = None,
    ids: bool = True,
    colors: bool = True,
    overlay: bool = True,
) -> None:
    """Label every frame of a video: images of class ids, the same in the classes' colours, and a video of both.

    Writes `ids/000123.png` (8 bit, train ids), `colors/000123.png` (palette PNG: its values are the ids),
    `overlay.webm` and `classes.json` into `out`. Frames stream: memory does not grow with the video.

    Args:
        video: a video file or a folder of images, or a list of them, one after the other.
        out: folder to write into, empty or absent; it appears when all is written.
        checkpoint: the network, as `stpl fit` or `stpl adapt` wrote it; `streets` is one that the package ships.
        model: in place of it: `package.module:callable`, `hf:` with a folder or a name, or a YAML file that says more
            (see docs/own.md). With `checkpoint`: what builds the network, if it is one of your own.
        size: height and width the network sees; what the checkpoint was trained at if not given.
        stride: take every stride-th frame.
        rate: in place of a stride: frames a second to take.
        ids: write images of ids.
        colors: write palette images.
        overlay: write the video.
    """
    network = chosen(checkpoint, model, size)
    check_empty(out)
    videos = video if isinstance(video, list) else [video]
    check_prediction(network.options.space.num_classes, network.frame_size)
    sources = [VideoFrames(path, stride=stride, rate=rate, as_first=True) for path in videos]
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "classes.json").write_text(_classes(network), encoding="utf-8")
        written = _write(network, sources, partial, ids=ids, colors=colors, film=overlay)
        if out.exists():
            out.rmdir()
        partial.replace(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # of what failed on the way
    print(f"wrote {written} frames to {out}", file=sys.stderr)


def chosen(checkpoint: Path | None, model: str | None, size: tuple[int, int] | None) -> Model:
    """The network that `--checkpoint` and `--model` name; raises `ConfigError` if there is none."""
    if checkpoint is not None:
        return open_model(str(checkpoint), size, build=model)
    if model is None:
        raise ConfigError("give a network", where="--checkpoint", mend="give --checkpoint=FILE, or --model=…")
    return open_model(model, size)


def check_empty(out: Path) -> None:
    """Raise `ConfigError` for a folder to write into that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError("there is something here already", where=out, mend="delete it, or give another --out")


def _write(network: Model, sources: Sequence[VideoFrames], folder: Path, *, ids: bool, colors: bool, film: bool) -> int:
    """Write what is asked for of every frame, and tell how fast; the number of frames."""
    space, done, start, shown = network.options.space, 0, time.monotonic(), time.monotonic()
    for name, asked in {"ids": ids, "colors": colors}.items():
        if asked:
            (folder / name).mkdir()
    with ExitStack() as stack:
        legend = (space.classes, space.palette)
        video = SideBySide(folder / "overlay.webm", sources[0].fps, ["prediction"], legend=legend) if film else None
        writer = None if video is None else stack.enter_context(video)
        for frame, labels in _labelled(network, sources):
            if ids:
                Image.fromarray(labels).save(folder / "ids" / f"{done:06d}.png")
            if colors:
                palette_image(labels, space.palette).save(folder / "colors" / f"{done:06d}.png")
            if writer is not None:
                writer.write([overlaid(frame, labels, space.palette)])
            done += 1
            now = time.monotonic()
            if now - shown > _EVERY:
                shown = now
                print(f"predicting: {done} frames, {done / (now - start):.1f} a second", file=sys.stderr, flush=True)
    print(f"predicted {done} frames, {done / (time.monotonic() - start):.1f} a second", file=sys.stderr)
    return done


def _labelled(network: Model, sources: Sequence[VideoFrames]) -> Iterator[tuple[Frame, Frame]]:
    """Frames with their labels, at the frames' size; the first frame of a video comes after itself."""
    accel = network.accel
    for source in sources:
        shown, seen = tee(source.frames())
        first = next(seen)
        predicted = predict([accel], chain([first, first], seen), network.frame_size)
        yield from zip(shown, (labels for (labels,) in predicted), strict=True)


def palette_image(labels: Frame, palette: NDArray[np.uint8]) -> Image.Image:
    """Labels uint8 `[H,W]` as an image whose values are the ids and whose palette shows them in colour."""
    image = Image.frombytes("P", labels.shape[::-1], np.ascontiguousarray(labels).tobytes())
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    image.putpalette(colours.tobytes())
    return image


def _classes(network: Model) -> str:
    space = network.options.space
    rows = [
        {"id": number, "name": name, "color": rgb}
        for number, (name, rgb) in enumerate(zip(space.classes, space.palette.tolist(), strict=True))
    ]
    return json.dumps(rows, indent=1) + "\n"
