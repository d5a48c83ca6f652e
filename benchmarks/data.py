"""How fast clips are read, stage by stage and as a whole, with and without the caches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.measure import Action, Figures, interleaved, report, run
from stpl.data import flow as optical_flow
from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import BACKWARD, Wants, collate
from stpl.data.fake import fake
from stpl.data.image import read_rgb, resize_rgb
from stpl.data.label_space import label_space
from stpl.data.sequence import SequenceClips, open_cache
from stpl.data.sequence_set import SequenceSet, open_set
from stpl.data.sets import data_set

_WANTS = Wants(flows=(BACKWARD,))


def data(
    dataset: str = "cityscapes",
    root: Path | None = None,
    size: tuple[int, int] | None = None,
    clips: int = 4,
    repeats: int = 5,
) -> Figures:
    """Seconds a clip of each stage of reading it, and of whole clips with and without the caches.

    Nothing is written to the data set: its first clips are linked into a temporary folder, where the caches are made.

    Args:
        dataset: name of the data set, or of a module of your own that declares one.
        root: folder that holds the data sets; a drawn one of the set's true frame size if not given.
        size: height and width the frames are resized to; the set's training size if not given.
        clips: how many clips are read in turn.
        repeats: rounds that are measured; all stages take part in each, with the same clip.
    """
    with TemporaryDirectory() as folder:
        if root is None:
            root = drawn(dataset, Path(folder) / "drawn", clips, data_set(dataset).native)
        files = _linked(open_set(root, dataset, "train", size=size), Path(folder) / "linked", clips)
        timings = interleaved(_stages(files), repeats * len(files), warm=len(files))
    title = f"reading clips of {dataset} at {files.size[0]}×{files.size[1]}, one thread of one process"
    return {"dataset": dataset, "size": list(files.size), **report(title, timings, "whole clip")}


def drawn(dataset: str, root: Path, clips: int, size: tuple[int, int]) -> Path:
    """Draw a data set below `root`; what is said of it goes to stderr."""
    with redirect_stdout(sys.stderr):
        fake(dataset, root, size, clips)
    return root


def _linked(files: SequenceSet, folder: Path, count: int) -> SequenceSet:
    """The first clips of a split, their frames linked into `folder`."""
    chosen = replace(files, current=files.current[:count])
    for path in {path for index in range(len(chosen)) for path in chosen.frame_pair(index)}:
        link = folder / path.relative_to(files.folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    place = folder / files.frames.folder.relative_to(files.folder)
    return replace(chosen, folder=folder, frames=replace(files.frames, folder=place))


def _stages(files: SequenceSet) -> dict[str, Action]:
    """One action a stage; each call takes the next clip."""
    space = label_space(files.data_set.space)
    pairs = [files.frame_pair(index) for index in range(len(files))]
    raw = [[read_rgb(path) for path in pair] for pair in pairs]
    frames = [[files.read_frame(path) for path in pair] for pair in pairs]
    stacked = [np.stack(pair) for pair in frames]
    estimating = SequenceClips(files, space)
    kept = optical_flow.FlowCache(files.folder)
    cached = SequenceClips(files, space, cache=open_cache(files))
    augmentation = CrossFrameAugmentation()
    clips = [estimating.read(index, _WANTS) for index in range(len(files))]
    stages: dict[str, Callable[[int], object]] = {
        "decode": lambda i: [read_rgb(path) for path in pairs[i]],
        "resize": lambda i: [resize_rgb(frame, files.size) for frame in raw[i]],
        "flow": lambda i: optical_flow.estimate(frames[i][-1], frames[i][-2]),
        "augment": lambda i: augmentation(stacked[i], i),
        "collate": lambda i: collate([clips[i]]),
        "whole clip": lambda i: SequenceClips(files, space).read(i, _WANTS),
        "whole clip, flow kept": lambda i: SequenceClips(files, space, flow=kept).read(i, _WANTS),
        "whole clip, frames and flow kept": lambda i: cached.read(i, _WANTS),
    }
    return {name: partial(_next, stage, cycle(range(len(files)))) for name, stage in stages.items()}


def _next(stage: Callable[[int], object], turns: cycle[int]) -> None:
    stage(next(turns))


if __name__ == "__main__":
    run(data)
