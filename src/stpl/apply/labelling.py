"""Labels of footage as files: images of ids, the same in colours, a video of both, and what the classes are."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpl.apply.loaded import LoadedNetwork
from stpl.apply.network import Frame, predict
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.videos.stream import FrameStream
from stpl.data.videos.video_clips import clips_in_order
from stpl.pictures.labels import overlay as overlaid
from stpl.pictures.side_by_side import SideBySide

_EVERY = 5.0  # seconds between two lines of progress


def write_labels(
    network: LoadedNetwork, sources: Sequence[FrameStream], folder: Path, *, ids: bool, colors: bool, film: bool
) -> int:
    """Write what a network makes of every frame, and how fast; the number of frames.

    Args:
        network: of any kind.
        sources: of frames.
        folder: to write into.
        ids: write images of ids.
        colors: write palette images.
        film: write the video.
    """
    (folder / "classes.json").write_text(_classes(network), encoding="utf-8")
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


def _labelled(network: LoadedNetwork, sources: Sequence[FrameStream]) -> Iterator[tuple[Frame, Frame]]:
    """Frames with their labels, at the frames' size; the first frame of a video comes after itself."""
    accel = network.accel
    for source in sources:
        for frame, clip in clips_in_order(source, network.frame_size, FlowCache(estimator=network.flow_estimator)):
            yield frame, predict([accel], clip, frame.shape)[0]


def palette_image(labels: Frame, palette: NDArray[np.uint8]) -> Image.Image:
    """Labels uint8 `[H,W]` as an image whose values are the ids and whose palette shows them in colour."""
    image = Image.frombytes("P", labels.shape[::-1], np.ascontiguousarray(labels).tobytes())
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    image.putpalette(colours.tobytes())
    return image


def _classes(network: LoadedNetwork) -> str:
    space = network.options.space
    rows = [
        {"id": number, "name": name, "color": rgb}
        for number, (name, rgb) in enumerate(zip(space.classes, space.palette.tolist(), strict=True))
    ]
    return json.dumps(rows, indent=1) + "\n"
