"""Label images among the frames of a folder: known by their names and by what they hold. Imports no torch."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from stpl.data.image import image_mode, read_rgb
from stpl.data.videos.decoder import note_once
from stpl.errors import DataError


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])")


_FRAME = _words(r"leftimg8bit|image|img|rgb|frame|photo|camera|cam|raw|input")
_LABEL = _words(
    r"gt(?:fine|coarse)?|labels?|(?:label|train|instance)(?:train)?ids?|masks?|seg(?:m|mentation)?|semantics?|"
    r"annot(?:ations?)?|annos?|panoptic|instances?|ground ?truth|pred(?:ictions?)?|overlay|depth|disp(?:arity)?|"
    r"normals?"
)
_COLOUR = _words(r"colou?r(?:s|ed|ids)?")
_STRONG = _words(r"gt(?:fine|coarse)|labels?|(?:label|train|instance)(?:train)?ids?|masks?")
_PART = re.compile(r"[a-z]+|\d+|[^\W\da-z_]+")
_LETTERS = re.compile(r"(?<=[\da-zA-Z])[_\-. ][a-zA-Z]+$")
_DEEP = frozenset({"I", "I;16"})
_ONE_CHANNEL = frozenset({"1", "L", "P", "I", "I;16"})
_LOSSY = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
_SAMPLE = 2000  # images whose headers are read
_LOOKED = 8  # images that are decoded
_MOST_VALUES, _FLAT = 64, 0.9  # of a label map: values, and least share of pixels equal to the one to their left
Item = TypeVar("Item")


def without_labels(images: list[Path]) -> list[Path]:
    """The images of a folder that are frames; what is left out, or in doubt, is said in one line.

    Raises:
        DataError: two images have one name, and which of them is the frame is not clear.
    """
    return _without_single_channels(_without_twins(_without_named(images)))


def _without_named(images: list[Path]) -> list[Path]:
    """Without those whose name is another one's and a word for labels: `x_labels.png` beside `x.png`."""
    if not any(map(_kind, images)):
        return images
    groups = _grouped(images, _key)
    least = {key: min(map(_kind, group)) for key, group in groups.items()}
    left = [path for path in images if _kind(path) > least[_key(path)]]
    if not left:
        return images
    frame = next(path for path in groups[_key(left[0])] if _kind(path) == least[_key(left[0])])
    return _without(images, left, f", by their names: {left[0].name} is beside {frame.name}")


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


def _without_twins(images: list[Path]) -> list[Path]:
    """Without label maps with a frame's name and another end: `x.png` beside `x.jpg`, `x_L.png` beside `x.png`."""
    groups = _grouped(images, lambda path: path.stem.removesuffix(_end(path)[0]))
    twins = [group for group in groups.values() if len(group) > 1]
    looked = [(_end(path), _is_label(path)) for group in _spread(twins, _LOOKED) for path in group]
    labels, frames = ({end for end, is_label in looked if is_label == which} for which in (True, False))
    if labels and frames and not labels & frames:
        left = [path for group in twins for path in group if _end(path) in labels]
        return _without(images, left, f": {left[0].name} has a frame's name and looks like a label map")
    same = [group for group in twins if len({path.stem for path in group}) < len(group)]
    if same:
        names = " and ".join(path.name for path in same[0])
        what = f"{names} have one name ({len(same)} such names): is one of them a label, or the same frame again?"
        raise DataError(what, where=images[0].parent, mend="leave nothing but frames in the folder")
    return images


def _end(path: Path) -> tuple[str, str]:
    """The letters that end a name, with what stands before them, and its ending."""
    found = _LETTERS.search(path.stem)
    return (found[0] if found else ""), path.suffix.lower()


def _without_single_channels(images: list[Path]) -> list[Path]:
    """Leave out label maps and depth of one channel among frames in colour; with nothing else, a note names them."""
    modes = {path: _mode(path) for path in _spread(images, _SAMPLE)}
    single = [path for path, mode in modes.items() if mode in _ONE_CHANNEL]
    labels = [modes[path] in _DEEP or _is_label(path) for path in _spread(single, _LOOKED)]
    if len(single) == len(modes):
        if all(map(_is_label, _spread(single, _LOOKED))) or all(_STRONG.search(path.stem.lower()) for path in images):
            note_once(f"these images look like label maps, not frames: {images[0].name} …", images[0].parent)
        return images
    if not any(labels):
        return images
    if not all(labels):
        what = f"some of the images have one channel, and some of these look like label maps ({single[0].name})"
        raise DataError(what, where=images[0].parent, mend="move the labels into a folder of their own")
    left = [path for path in images if _mode(path) in _ONE_CHANNEL]
    return _without(images, left, f": {left[0].name} has one channel, as label maps have, among frames in colour")


def _mode(path: Path) -> str:
    """The layout of an image's pixels; of JPEG, in which no label is kept, nothing is read."""
    return "" if path.suffix.lower() in _LOSSY else image_mode(path)


def _without(images: list[Path], left: list[Path], why: str) -> list[Path]:
    """The other images; says which are left out."""
    many = "1 image is" if len(left) == 1 else f"{len(left)} images are"
    note_once(f"{many} left out{why}", images[0].parent)
    gone = set(left)
    return [path for path in images if path not in gone]


def _is_label(path: Path) -> bool:
    """Whether an image looks like a label map: few values, in areas."""
    if path.suffix.lower() in _LOSSY:
        return False
    values = read_rgb(path).astype(np.int64) @ np.array([1, 2**8, 2**16])
    flat = float((values[:, 1:] == values[:, :-1]).mean()) if values.shape[1] > 1 else 1.0
    return flat >= _FLAT and 1 < len(np.unique(values)) <= _MOST_VALUES  # one value: a black frame


def _grouped(images: list[Path], key: Callable[[Path], Item]) -> dict[Item, list[Path]]:
    groups: dict[Item, list[Path]] = defaultdict(list)
    for path in images:
        groups[key(path)].append(path)
    return groups


def _spread(items: Sequence[Item], count: int) -> Sequence[Item]:
    """At most `count` of the items, spread evenly."""
    step = max(1, -(-len(items) // count))
    return items[::step]
