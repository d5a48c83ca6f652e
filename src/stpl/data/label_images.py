"""Label images among the frames of a folder: known by their names and by what they hold, so that none is adapted to.

Imports no torch.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from stpl.data.image import image_mode, read_rgb
from stpl.data.video_file import note_once
from stpl.errors import DataError

_FRAME_WORD = r"leftimg8bit|image|img|rgb|frame|photo|camera|cam|raw|input"
_LABEL_WORD = (
    r"gt(?:fine|coarse)?|labels?|(?:label|train|instance)(?:train)?ids?|masks?|seg(?:m|mentation)?|semantics?|"
    r"annot(?:ations?)?|annos?|panoptic|instances?|ground ?truth|pred(?:ictions?)?|overlay|depth|disp(?:arity)?|"
    r"normals?"
)
_COLOUR_WORD = r"colou?r(?:s|ed|ids)?"
_FRAME, _LABEL, _COLOUR = (
    re.compile(rf"(?<![a-z])(?:{words})(?![a-z])") for words in (_FRAME_WORD, _LABEL_WORD, _COLOUR_WORD)
)
_PART = re.compile(r"[a-z]+|\d+|[^\W\da-z_]+")
_ONE_CHANNEL = frozenset({"1", "L", "P", "I", "I;16"})
_LOSSY = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
_SAMPLE = 2000  # images whose headers are read
_LOOKED = 8  # images that are decoded
_MOST_VALUES, _FLAT = 64, 0.9  # of a label map: values, and least share of pixels equal to the one to their left
T = TypeVar("T")
_ALONE = "move the labels into a folder of their own"


def without_labels(images: Sequence[Path]) -> list[Path]:
    """The images of a folder that are frames; what is left out, or in doubt, is said in one line.

    Raises:
        DataError: two images have one name, and which of them is the frame is not clear.
    """
    kept = _without_named(images)
    kept = _without_twins(kept)
    return _without_single_channels(kept)


def _key(path: Path) -> tuple[str, ...]:
    """What is left of a name without the words that say what an image shows."""
    bare = path.stem.lower()
    for words in (_FRAME, _LABEL, _COLOUR):
        bare = words.sub(" ", bare)
    return tuple(_PART.findall(bare))


def _kind(path: Path) -> int:
    """0: a frame by its name, 1: something in colours, 2: a label."""
    name = path.stem.lower()
    return 2 if _LABEL.search(name) else 1 if _COLOUR.search(name) else 0


def _without_named(images: Sequence[Path]) -> list[Path]:
    """Without those whose name is another one's and a word for labels: `x_labels.png` beside `x.png`."""
    if not any(map(_kind, images)):
        return list(images)
    groups: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path in images:
        groups[_key(path)].append(path)
    least = {key: min(map(_kind, group)) for key, group in groups.items()}
    left = [path for path in images if _kind(path) > least[_key(path)]]
    if left:
        frame = next(path for path in groups[_key(left[0])] if path not in left)
        note_once(
            f"{_counted(left, 'label')} left out, by their names: {left[0].name} is beside {frame.name}", left[0].parent
        )
    elif all(kind == 2 for kind in map(_kind, images)):
        note_once(f"by their names these images are labels, not frames: {images[0].name} …", images[0].parent)
    gone = set(left)
    return [path for path in images if path not in gone]


def _without_twins(images: Sequence[Path]) -> list[Path]:
    """Without labels that have a frame's name and another ending: `x.png` beside `x.jpg`."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in images:
        groups[path.stem].append(path)
    twins = [group for group in groups.values() if len(group) > 1]
    if not twins:
        return list(images)
    looked = _spread(twins, _LOOKED)
    endings = {path.suffix.lower() for group in looked for path in group if _is_label(path)}
    frames = {path.suffix.lower() for group in looked for path in group if not _is_label(path)}
    if not endings or endings & frames:
        names = " and ".join(path.name for path in twins[0])
        raise DataError(
            f"{names} have one name: is one of them a label, or the same frame again? ({len(twins)} such names)",
            where=images[0].parent,
            mend="keep frames alone in the folder",
        )
    left = {path for group in twins for path in group if path.suffix.lower() in endings}
    note_once(
        f"{_counted(left, 'label')} left out: {sorted(left)[0].name} has a frame's name and looks like a label map",
        images[0].parent,
    )
    return [path for path in images if path not in left]


def _without_single_channels(images: Sequence[Path]) -> list[Path]:
    """Without label maps of one channel among frames in colour."""
    sample = _spread(images, _SAMPLE)
    single = [path for path in sample if path.suffix.lower() not in _LOSSY and image_mode(path) in _ONE_CHANNEL]
    if not single:
        return list(images)
    labels = [_is_label(path) for path in _spread(single, _LOOKED)]
    if not any(labels):
        return list(images)
    folder = single[0].parent
    if len(single) == len(sample):
        if all(labels):
            note_once(f"these images look like label maps (one channel, few values): {single[0].name} …", folder)
        return list(images)
    if not all(labels):
        raise DataError(
            f"some of the images have one channel, and some of these look like label maps ({single[0].name})",
            where=folder,
            mend=_ALONE,
        )
    left = {path for path in images if path.suffix.lower() not in _LOSSY and image_mode(path) in _ONE_CHANNEL}
    note_once(
        f"{_counted(left, 'image')} left out: {single[0].name} looks like a label map (one channel, few values) among "
        "frames in colour",
        folder,
    )
    return [path for path in images if path not in left]


def _is_label(path: Path) -> bool:
    """Whether an image looks like a label map: few values, in areas."""
    if path.suffix.lower() in _LOSSY:
        return False
    values = read_rgb(path).astype(np.int64) @ np.array([1, 2**8, 2**16])
    flat = float((values[:, 1:] == values[:, :-1]).mean()) if values.shape[1] > 1 else 1.0
    return flat >= _FLAT and len(np.unique(values)) <= _MOST_VALUES


def _spread(items: Sequence[T], count: int) -> Sequence[T]:
    """At most so many of the items, spread evenly."""
    step = max(1, -(-len(items) // count))
    return items[::step]


def _counted(left: Sequence[Path] | set[Path], what: str) -> str:
    return f"1 {what} is" if len(left) == 1 else f"{len(left)} {what}s are"
