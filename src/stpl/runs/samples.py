"""A video of the clips that runs kept: input, label and predictions beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stpl.pictures.colours import class_rgb
from stpl.pictures.labels import overlay
from stpl.pictures.side_by_side import SideBySide, VideoStyle
from stpl.runs.artifacts import VideoSample

SAMPLE_FPS = 2.0
"""Frames a second: a sample holds a few frames of several drives."""


def film_samples(
    samples: Mapping[str, VideoSample], classes: Sequence[str], output: Path, fps: float, style: VideoStyle
) -> None:
    """Write input, label and the predictions of each sample (by title, of the same clips) side by side into a `.webm`.

    Raises:
        StplError: if the video cannot be written.
    """
    palette = np.array([class_rgb(name) for name in classes], np.uint8)
    first, legend = next(iter(samples.values())), (classes, palette)
    titles = ["input", "label", *samples]
    with SideBySide(output, fps, titles, legend=legend, style=style) as video:
        for index, frame in enumerate(first.frames):
            layers = [first.labels[index], *(sample.predictions[index] for sample in samples.values())]
            video.write([frame, *(overlay(frame, layer, palette) for layer in layers)])
