"""The player's data: a few clips with what each row predicts, as images inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stpl.pictures.colours import class_colour, class_rgb
from stpl.report.suite import Suite
from stpl.runs.artifacts import VideoSample, read_samples

BUDGET = 9_000_000
"""Bytes of the page that the player may take; rows that do not fit are left out, and the page says so."""


def player(suite: Suite, first: Sequence[str]) -> dict[str, Any] | None:
    """What the page's script needs to play the clips; `None` if no run kept any.

    Of each experiment the first recorded seed is shown; those of `first` are embedded before all others.

    Returns:
        `keys`, `size` (height, width), `classes` (name and colour), `frames` and `labels` (images), `rows` (experiment,
        title, seed and images) and `left_out` (titles of rows that did not fit or show other clips).
    """
    base: VideoSample | None = None
    data: dict[str, Any] = {"rows": [], "left_out": []}
    spent = 0
    for name in dict.fromkeys([*first, *suite.shown()]):
        record = next(iter(suite.records(name)), None)
        sample = read_samples(suite.directory(record)) if record else None
        if record is None or sample is None:
            continue
        if base is None:
            base = sample
            data |= _scene(sample, record["classes"])
            spent = sum(map(len, data["frames"] + data["labels"]))
        images = [ids_png(ids, record["classes"]) for ids in sample.predictions]
        size = sum(map(len, images))
        if sample.keys != base.keys or sample.labels.shape != base.labels.shape or spent + size > BUDGET:
            data["left_out"].append(suite.title_of(name))
        else:
            spent += size
            data["rows"].append({"name": name, "title": suite.title_of(name), "seed": record["seed"], "images": images})
    return data if base is not None else None


def _scene(sample: VideoSample, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "keys": sample.keys,
        "size": sample.labels.shape[1:],
        "classes": [[name, class_colour(name)] for name in classes],
        "frames": [frame_image(frame) for frame in sample.frames],
        "labels": [ids_png(ids, classes) for ids in sample.labels],
    }


def frame_image(frame: NDArray[np.uint8]) -> str:
    """A frame uint8 `[H,W,3]` as a data URI (JPEG)."""
    return _uri(Image.fromarray(frame), "jpeg", quality=90, subsampling=0)


def ids_png(ids: NDArray[np.uint8], classes: Sequence[str]) -> str:
    """Train ids uint8 `[H,W]` as a data URI: a PNG in the classes' colours, transparent where there is no class."""
    none = len(classes)
    image = Image.fromarray(np.minimum(ids, none).astype(np.uint8), "P")
    image.putpalette([channel for name in classes for channel in class_rgb(name)] + [0, 0, 0])
    return _uri(image, "png", optimize=True, transparency=none)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
