"""The page of an adaptation: what was done, what came of it, and what it looks like, in one HTML file."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.apply.adapt import FLOW, Adaptation
from stpl.apply.loaded import Frame, predict
from stpl.apply.settings import LOOKED, PAGE
from stpl.data.clip import BACKWARD, Wants
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.videos.video_clips import VideoFrames, spread_places
from stpl.files import write_atomically
from stpl.pictures.colours import picture_palette
from stpl.pictures.labels import overlay
from stpl.pictures.pages import render_page
from stpl.runs.record import METRICS, read_metrics

_SHOWN = 4
_WIDTH, _HEIGHT = 560, 150  # of a curve
_QUALITY = 82
_ASSETS = Path(__file__).parent / "assets"


class Change(NamedTuple):
    """What a network makes of a video before and after."""

    shares: NDArray[np.float64]  # `[K,2]`: of each class in all predicted pixels before and after, in percent
    changed: float  # percent of the pixels whose class changed
    shown: list[tuple[Frame, Frame, Frame]]  # some frames: input, before, after


def write_page(found: Adaptation, film: Path | None = None) -> Path:
    """Write `index.html` into the folder of an adaptation; `film` is a video of the change that lies beside it."""
    change, space = look(found), found.before.options.space
    more = len(found.videos) - 1
    shares = [
        {"name": name, "colour": f"rgb{tuple(rgb)}", "before": before, "after": after}
        for name, rgb, (before, after) in zip(
            space.classes, picture_palette(space).tolist(), change.shares, strict=True
        )
    ]
    titles = ("input", "before", "after")
    filled = render_page(
        _ASSETS,
        title=f"to {found.videos[0].name}" + (f" and {more} more" if more else ""),
        verdict=found.verdict,
        film="" if film is None else film.name,
        facts=_facts(found, change),
        curves=_curves(found.folder / METRICS),
        shares=shares,
        largest=max(float(change.shares.max()), 1e-9),
        frames=[list(zip(titles, map(_jpeg, frames), strict=True)) for frames in change.shown],
    )
    path = found.folder / PAGE
    write_atomically(path, filled)
    return path


def look(found: Adaptation) -> Change:
    """What the network makes of frames that are spread evenly over the videos, before and after."""
    networks = [found.before.accel, found.network.accel]
    space = found.before.options.space
    palette, count = picture_palette(space), space.num_classes
    pixels, changed, total = np.zeros((count, 2)), 0, 0
    shown: list[tuple[Frame, Frame, Frame]] = []
    chosen = list(_chosen(found))
    often = max(1, len(chosen) // _SHOWN)
    for place, (clips, shown_at, number) in enumerate(chosen):
        frame = shown_at.frame(number)
        clip = clips.read(number, Wants(flows=(BACKWARD,)))
        before, after = (predict(network, clip, frame.shape) for network in networks)
        for column, labels in enumerate((before, after)):
            pixels[:, column] += np.bincount(labels.ravel(), minlength=count)[:count]
        changed, total = changed + int((before != after).sum()), total + before.size
        if place % often == often // 2 and len(shown) < _SHOWN:
            shown.append((frame, overlay(frame, before, palette), overlay(frame, after, palette)))
    return Change(100 * pixels / total, 100 * changed / total, shown)


def _chosen(found: Adaptation) -> Iterator[tuple[VideoFrames, VideoFrames, int]]:
    """Clips that are spread evenly over the videos: as the network sees them, as they are shown, and their number."""
    kept = FlowCache(found.folder / FLOW, found.before.flow_estimator)  # where index and flow of the training lie
    count = max(1, LOOKED // len(found.videos))
    for video in found.videos:
        clips, shown = (
            VideoFrames(video, size, stride=found.settings.stride, as_first=True, flow=kept)
            for size in (found.before.frame_size, None)
        )
        yield from ((clips, shown, place) for place in spread_places(len(clips), count))


def _facts(found: Adaptation, change: Change) -> dict[str, str]:
    (height, width), settings = found.before.frame_size, found.settings
    return {
        "network": found.before.name,
        "video": ", ".join(video.name for video in found.videos),
        "method": f"{settings.experiment}, {settings.steps} steps of {found.estimate.batch_size} clips",
        "frames the network sees": f"{height}×{width}, every {settings.stride}. frame".replace("every 1. frame", "all"),
        "pixels whose class changed": f"{change.changed:.1f} %",
        "estimated need": str(found.estimate),
        "returned": found.verdict.chosen.title,
        "files": ", ".join(path.name for path in (found.checkpoint, found.weights) if path is not None),
    }


def _curves(metrics: Path) -> list[dict[str, Any]]:
    """The losses of a run as points of plots, with first and last values in words; one that was logged once is none."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in read_metrics(metrics):
        if name.startswith("train/") and name not in ("train/lr", "train/loss"):
            curves.setdefault(name.removeprefix("train/"), []).append((step, value))
    plots = []
    for name, points in curves.items():
        if len(points) == 1:
            continue
        steps, values = (np.array(column, float) for column in zip(*points, strict=True))
        low, high = float(values.min()), float(values.max())
        x = 4 + (_WIDTH - 8) * (steps - steps[0]) / max(1, steps[-1] - steps[0])
        y = 6 + (_HEIGHT - 12) * (high - values) / max(high - low, 1e-12)
        caption = f"{name}: {values[0]:.4g} at step {steps[0]:.0f}, {values[-1]:.4g} at step {steps[-1]:.0f}"
        plots.append({"caption": caption, "width": _WIDTH, "height": _HEIGHT, "points": [*zip(x, y, strict=True)]})
    return plots


def _jpeg(frame: Frame) -> str:
    """A frame at most 480 pixels wide, as text."""
    height, width = frame.shape[:2]
    scale = min(1.0, 480 / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: Any = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    _, coded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return base64.b64encode(coded.tobytes()).decode("ascii")
