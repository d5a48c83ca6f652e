"""The page of an adaptation: what was done, what came of it, and what it looks like, in one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.apply.adapt import FLOW, Adaptation
from stpl.apply.guard import LOOKED
from stpl.apply.loaded import LoadedNetwork
from stpl.apply.network import Frame, predict
from stpl.apply.settings import PAGE, AdaptationSettings
from stpl.data.clip import BACKWARD, Wants
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.videos.footage import spread_places
from stpl.data.videos.video_clips import VideoFrames
from stpl.files import write_atomically
from stpl.pictures.labels import overlay
from stpl.pictures.pages import render_page
from stpl.runs.record import METRICS, read_metrics

_SHOWN = 4
_WIDTH, _HEIGHT = 560, 150  # of a curve
_QUALITY = 82
_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Change:
    """What a network makes of a video before and after.

    Attributes:
        shares: of each class in all predicted pixels before and after, in percent, `[K,2]`.
        changed: share of the pixels whose class changed, in percent.
        shown: some frames: input, before, after, each uint8 `[H,W,3]`.
    """

    shares: NDArray[np.float64]
    changed: float
    shown: list[tuple[Frame, Frame, Frame]]


def write_page(
    found: Adaptation, videos: Sequence[Path], settings: AdaptationSettings, film: Path | None = None
) -> Path:
    """Write `index.html` into the folder of an adaptation.

    Args:
        found: the result of the adaptation.
        videos: what it was adapted to.
        settings: how.
        film: a video of the change that lies beside the page, if there is one.
    """
    change = look(found, videos, settings)
    space, verdict = found.before.options.space, found.verdict
    lines = list(read_metrics(found.folder / METRICS))
    losses = {name.removeprefix("train/"): _curve(lines, name) for name in _losses(lines)}
    filled = render_page(
        _ASSETS,
        title=f"to {videos[0].name}" + (f" and {len(videos) - 1} more" if len(videos) > 1 else ""),
        verdict=verdict.reason,
        film="" if film is None else film.name,
        kind="good" if verdict.adapted else "kept",
        facts=_facts(found, videos, settings, change),
        candidates=_candidates(found),
        reference=verdict.reference.candidate.title,
        curves=[_plot(name, points) for name, points in losses.items() if len(points) > 1],
        shares=_shares(space.classes, space.palette, change),
        largest=max(float(change.shares.max()), 1e-9),
        frames=[_row(frames) for frames in change.shown],
    )
    path = found.folder / PAGE
    write_atomically(path, filled)
    return path


def look(found: Adaptation, videos: Sequence[Path], settings: AdaptationSettings) -> Change:
    """What the network makes of frames that are spread evenly over the videos, before and after."""
    networks = [found.before.accel, found.network.accel]
    space = found.before.options.space
    palette, count = space.palette, space.num_classes
    pixels, changed, total = np.zeros((count, 2)), 0, 0
    shown: list[tuple[Frame, Frame, Frame]] = []
    chosen = list(_chosen(videos, settings, found.folder, found.before))
    often = max(1, len(chosen) // _SHOWN)
    for place, (clips, shown_at, number) in enumerate(chosen):
        frame = shown_at.frame(number)
        before, after = predict(networks, clips.read(number, Wants(flows=(BACKWARD,))), frame.shape)
        for column, labels in enumerate((before, after)):
            pixels[:, column] += np.bincount(labels.ravel(), minlength=count)[:count]
        changed, total = changed + int((before != after).sum()), total + before.size
        if place % often == often // 2 and len(shown) < _SHOWN:
            shown.append((frame, overlay(frame, before, palette), overlay(frame, after, palette)))
    return Change(100 * pixels / total, 100 * changed / total, shown)


def _chosen(
    videos: Sequence[Path], settings: AdaptationSettings, folder: Path, network: LoadedNetwork
) -> Iterator[tuple[VideoFrames, VideoFrames, int]]:
    """Clips that are spread evenly over the videos: as the network sees them, as they are shown, and their number."""
    kept = FlowCache(folder / FLOW, network.flow_estimator)  # where index and flow of the training lie
    count = max(1, LOOKED // len(videos))
    for video in videos:
        clips, shown = (
            VideoFrames(video, size, stride=settings.stride, as_first=True, flow=kept)
            for size in (network.frame_size, None)
        )
        yield from ((clips, shown, place) for place in spread_places(len(clips), count))


def _losses(lines: Iterable[tuple[int, str, float]]) -> list[str]:
    names = dict.fromkeys(name for _, name, _ in lines if name.startswith("train/"))
    return [name for name in names if name not in ("train/lr", "train/loss")]


def _curve(lines: Iterable[tuple[int, str, float]], name: str) -> list[tuple[int, float]]:
    return [(step, value) for step, found, value in lines if found == name]


def _facts(found: Adaptation, videos: Sequence[Path], settings: AdaptationSettings, change: Change) -> dict[str, str]:
    height, width = found.before.frame_size
    return {
        "network": found.before.name,
        "video": ", ".join(video.name for video in videos),
        "method": f"{settings.experiment}, {settings.steps} steps of {found.estimate.batch_size} clips",
        "frames the network sees": f"{height}×{width}, every {settings.stride}. frame".replace("every 1. frame", "all"),
        "pixels whose class changed": f"{change.changed:.1f} %",
        "estimated need": str(found.estimate),
        "returned": found.verdict.chosen.candidate.title,
        "files": ", ".join(path.name for path in (found.checkpoint, found.weights) if path is not None),
    }


def _candidates(found: Adaptation) -> list[dict[str, Any]]:
    verdict = found.verdict
    return [
        {
            "title": one.candidate.title,
            "score": one.score,
            "agreement": one.agreement,
            "chosen": one is verdict.chosen,
            "doubted": one in verdict.doubted,
        }
        for one in verdict.scored
    ]


def _plot(name: str, points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """One curve as points of a plot, with the first and the last value in words."""
    steps, values = (np.array(column, float) for column in zip(*points, strict=True))
    low, high = float(values.min()), float(values.max())
    x = 4 + (_WIDTH - 8) * (steps - steps[0]) / max(1, steps[-1] - steps[0])
    y = 6 + (_HEIGHT - 12) * (high - values) / max(high - low, 1e-12)
    caption = f"{name}: {values[0]:.4g} at step {steps[0]:.0f}, {values[-1]:.4g} at step {steps[-1]:.0f}"
    return {"caption": caption, "width": _WIDTH, "height": _HEIGHT, "points": [*zip(x, y, strict=True)]}


def _shares(classes: Sequence[str], palette: NDArray[np.uint8], change: Change) -> list[dict[str, Any]]:
    return [
        {"name": name, "colour": f"rgb{tuple(rgb)}", "before": before, "after": after}
        for name, rgb, (before, after) in zip(classes, palette.tolist(), change.shares, strict=True)
    ]


def _row(frames: tuple[Frame, Frame, Frame]) -> list[tuple[str, str]]:
    return [(title, _jpeg(frame)) for title, frame in zip(("input", "before", "after"), frames, strict=True)]


def _jpeg(frame: Frame) -> str:
    """A frame at most 480 pixels wide, as text."""
    height, width = frame.shape[:2]
    scale = min(1.0, 480 / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: Any = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    _, coded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return base64.b64encode(coded.tobytes()).decode("ascii")
