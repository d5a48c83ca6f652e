"""The page of an adaptation: what was done, what came of it, and what it looks like, in one HTML file."""

import base64
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stpl.apply.adapt import FLOW, Adaptation
from stpl.apply.guard import Candidate
from stpl.apply.loaded import Frame
from stpl.apply.settings import PAGE
from stpl.data.flow.flow_cache import FlowCache
from stpl.data.image import resize_ids
from stpl.data.videos.video_clips import VideoFrames, spread_places
from stpl.files import write_atomically
from stpl.pictures.colours import picture_palette
from stpl.pictures.labels import overlay
from stpl.pictures.pages import render_page
from stpl.runs.record import METRICS, read_metrics
from stpl.runs.recorder import git_commit, versions

_SHOWN = 4
_WIDTH, _HEIGHT = 560, 150  # of a curve
_QUALITY = 82
_ASSETS = Path(__file__).parent / "assets"


class Change(NamedTuple):
    """What networks make of a video: the start, the one that is returned, and the best of those that are not."""

    titles: list[str]  # of the networks
    shares: NDArray[np.float64]  # `[K,n]`: of each class in all predicted pixels, in percent
    changed: float  # percent of the pixels whose class is another than the start's
    shown: list[list[Frame]]  # some frames: input, and one of each network


def write_page(found: Adaptation, film: Path | None = None) -> Path:
    """Write `index.html` into the folder of an adaptation; `film` is a video of the change that lies beside it."""
    change, space = look(found), found.before.options.space
    more = len(found.videos) - 1
    shares = [
        {"name": name, "colour": f"rgb{tuple(rgb)}", "shares": row}
        for name, rgb, row in zip(space.classes, picture_palette(space).tolist(), change.shares, strict=True)
    ]
    filled = render_page(
        _ASSETS,
        title=f"to {found.videos[0].name}" + (f" and {more} more" if more else ""),
        verdict=found.verdict,
        paths=[_place(one, found.folder) for one in found.verdict.scored],
        film="" if film is None else film.name,
        facts=_facts(found, change),
        command=_command(sys.argv),
        made={"seed": found.settings.seed, "commit": git_commit() or "unknown", **versions()},
        curves=_curves(found.folder / METRICS),
        titles=change.titles,
        shares=shares,
        largest=max(float(change.shares.max()), 1e-9),
        frames=[list(zip(("input", *change.titles), map(_jpeg, frames), strict=True)) for frames in change.shown],
    )
    path = found.folder / PAGE
    write_atomically(path, filled)
    return path


def look(found: Adaptation) -> Change:
    """What the networks make of the frames that the guard saw; pictures are of the footage's own size."""
    looked, verdict, palette = found.looked, found.verdict, picture_palette(found.before.options.space)
    titles = {verdict.scored[0]: "before"}
    if verdict.adapted:
        titles[verdict.chosen] = f"returned: {verdict.chosen.title}"
    if verdict.other is not None:
        titles.setdefault(verdict.other, f"best that is not returned: {verdict.other.title}")
    labels = [looked.sights[verdict.scored.index(one)].labels for one in titles]
    shown = []
    for number in spread_places(len(labels[0]), _SHOWN):
        frame = _frame(found, looked.places[number])
        maps = [resize_ids(one[number].numpy(), frame.shape[:2]) for one in labels]
        shown.append([frame, *(overlay(frame, one, palette) for one in maps)])
    after = looked.sights[verdict.scored.index(verdict.chosen)].labels
    shares = np.array([one.shares for one in titles]).T
    return Change([*titles.values()], shares, 100 * float((labels[0] != after).double().mean()), shown)


def _frame(found: Adaptation, place: int) -> Frame:
    """The current frame of a clip of the footage as it was decoded."""
    kept = FlowCache(found.folder / FLOW, found.before.flow_estimator)  # where the index lies
    for video in found.videos:
        frames = VideoFrames(video, None, stride=found.settings.stride, as_first=True, flow=kept)
        if place < len(frames):
            return frames.frame(place)
        place -= len(frames)
    raise IndexError(place)


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


def _place(candidate: Candidate, folder: Path) -> str:
    """Where the checkpoint of a candidate lies: below the folder of the adaptation, or anywhere else."""
    path = candidate.checkpoint
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _command(line: Sequence[str]) -> str:
    """The command line of this process, with the program by its name."""
    program, *arguments = line
    return shlex.join(["stpl" if arguments[:1] == ["adapt"] else Path(program).name, *arguments])


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
