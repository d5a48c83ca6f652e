"""Class names, palettes and id maps of every data set: tables, no code paths.

A `LabelSpace` is the set of classes a network predicts. `remap` tables turn the ids that a data set stores on disk
into train ids; every id that a table does not name becomes 255 (ignore). This module imports no torch.

Sources: the released data loaders of DA-VSN, TPS and CMOM (`dataset/Viper.py`, `SynthiaSeq.py`, `info_*.json`);
palette of the Cityscapes benchmark (Cordts et al., CVPR 2016).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from stpl.errors import ConfigError, DataError

IGNORE = 255
"""Label value of pixels that count neither in a loss nor in a metric."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "light": (250, 170, 30),
    "sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
"""RGB colour of every class, as Cityscapes paints it."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of one benchmark.

    Attributes:
        name: how configurations and checkpoints call it.
        classes: class names in train-id order (0, 1, …).
        remaps: for each data set name, the map from ids on disk to train ids.
        unreported: classes that are trained but left out of the reported mean.
        protocol: how predictions of these classes are scored; a key of `stpl.metrics.segmentation.PROTOCOLS`.
        colours: RGB of each class; if empty, Cityscapes' where it has a class of that name, and others made up.
    """

    name: str
    classes: tuple[str, ...]
    remaps: dict[str, dict[int, int]] = field(repr=False)
    unreported: tuple[str, ...] = ()
    protocol: str = "lineage"
    colours: tuple[tuple[int, int, int], ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes K the network predicts."""
        return len(self.classes)

    @property
    def reported(self) -> tuple[int, ...]:
        """Train ids that enter the mean IoU."""
        return tuple(i for i, name in enumerate(self.classes) if name not in self.unreported)

    @property
    def palette(self) -> NDArray[np.uint8]:
        """RGB colours uint8 `[K,3]` in train-id order."""
        named = (PALETTE.get(name) or _made_up(place) for place, name in enumerate(self.classes))
        return np.array(self.colours or list(named), dtype=np.uint8)

    def lookup(self, dataset: str) -> NDArray[np.uint8]:
        """Table uint8 `[65536]` from an id on disk (8 or 16 bit) to its train id, 255 where none is given."""
        if dataset not in self.remaps:
            raise ConfigError(
                f"label space '{self.name}' has no id map for data set '{dataset}'",
                mend=f"choose one of: {', '.join(sorted(self.remaps))}",
            )
        table = np.full(65536, IGNORE, dtype=np.uint8)
        for source, target in self.remaps[dataset].items():
            table[source] = target
        return table


def _made_up(place: int) -> tuple[int, int, int]:
    """A colour far from its neighbours': hues at the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb(place * 0.618 % 1, 0.6 + 0.4 * (place % 2), 0.9 - 0.3 * (place % 3) / 2)
    return round(255 * red), round(255 * green), round(255 * blue)


def own_classes(names: Sequence[str], colours: Sequence[Sequence[int]] = (), where: str = "network.") -> LabelSpace:
    """The classes of a network of your own, in its order; no data set's labels are known for them.

    Args:
        names: of the classes.
        colours: RGB of each in 0..255; if none are given, Cityscapes' where it has a class of that name, and others
            made up.
        where: what stands before `classes` and `palette` in messages.

    Raises:
        ConfigError: there are fewer than two, one is no text or there twice, or colours are not three numbers of 0 to
            255 for each.
    """
    strange = [name for name in names if not isinstance(name, str) or not name.strip() or not name.isprintable()]
    if strange:
        mend = "write each name as text, in quotes where YAML reads something else: ['on', '1', road]"
        raise ConfigError(f"{strange[0]!r} is no name of a class", where=f"{where}classes", mend=mend)
    if not names or len(set(names)) < len(names) or len(names) > IGNORE:
        twice = next((f": '{name}' is there twice" for name in names if names.count(name) > 1), "")
        raise ConfigError(f"{len(names)} classes, {len(set(names))} of them different{twice}", where=f"{where}classes",
                          mend=f"name each class once, at most {IGNORE}")  # fmt: skip
    listed = isinstance(colours, list | tuple)
    if not listed or (colours and not (len(colours) == len(names) and all(map(_is_colour, colours)))):
        what = f"{len(colours)} colours for {len(names)} classes" if listed else f"{str(colours)[:40]!r} is no list"
        wrong = [one for one in colours if not _is_colour(one)] if listed else []
        what += f": {str(wrong[0])[:40]!r} is no colour" if wrong else ""
        mend = "give three numbers of 0 to 255 for each class, [[128, 64, 128], …], or none at all"
        raise ConfigError(what, where=f"{where}palette", mend=mend)
    if len(names) == 1:
        mend = "name two or more; a network of one class gives logits of background and class"
        what = f"one class ('{names[0]}') leaves nothing to tell apart"
        raise ConfigError(what, where=f"{where}classes", mend=mend)
    return LabelSpace("own", tuple(names), {}, colours=tuple((int(r), int(g), int(b)) for r, g, b in colours))


def _is_colour(colour: object) -> bool:
    """Whether it is three whole numbers of 0 to 255."""
    return isinstance(colour, list | tuple) and len(colour) == 3 and all(map(_is_level, colour))


def _is_level(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and value in range(256)


def check_train_ids(label: NDArray[np.uint8], space: LabelSpace, where: str) -> None:
    """Raise `DataError` if `label` holds a value that is neither a train id of `space` nor 255."""
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    bad = [int(value) for value in present if value >= space.num_classes and value != IGNORE]
    if bad:
        raise DataError(
            f"label values {bad} are outside '{space.name}' (0..{space.num_classes - 1}, 255 = ignore)",
            where=where,
            mend="remap the label file to train ids, or choose the label space it was made for",
        )


_VIPER_15 = (
    "road", "sidewalk", "building", "fence", "light", "sign", "vegetation", "terrain", "sky", "person", "car",
    "truck", "bus", "motorcycle", "bicycle",
)  # fmt: skip
_SYNTHIA_12 = (
    "road", "sidewalk", "building", "fence", "pole", "light", "sign", "vegetation", "sky", "person", "rider", "car",
)  # fmt: skip

VIPER_15 = LabelSpace(
    "viper15",
    _VIPER_15,
    {
        # Trees (7) and other vegetation (8) are one class; van 25, train 29 and the rest are ignored.
        "viper": {3: 0, 4: 1, 9: 2, 11: 3, 13: 4, 14: 5, 7: 6, 8: 6, 6: 7, 2: 8, 20: 9, 24: 10, 27: 11, 26: 12,
                  23: 13, 22: 14},
        # Rider (25) counts as person.
        "cityscapes": {7: 0, 8: 1, 11: 2, 13: 3, 19: 4, 20: 5, 21: 6, 22: 7, 23: 8, 24: 9, 25: 9, 26: 10, 27: 11,
                       28: 12, 32: 13, 33: 14},
        "streets": {i: i for i in range(15)},
    },
)  # fmt: skip
SYNTHIA_12 = LabelSpace(
    "synthia12",
    _SYNTHIA_12,
    {
        "synthia": {3: 0, 4: 1, 2: 2, 5: 3, 7: 4, 15: 5, 9: 6, 6: 7, 1: 8, 10: 9, 11: 10, 8: 11},
        "cityscapes": {7: 0, 8: 1, 11: 2, 13: 3, 17: 4, 19: 5, 20: 6, 21: 7, 23: 8, 24: 9, 25: 10, 26: 11},
    },
    unreported=("fence",),  # almost absent: about 0 IoU for every published method
)
_WITHOUT_RIDER = {k: v for k, v in VIPER_15.remaps["cityscapes"].items() if k != 25}
VIPER_15_UNIFIED = replace(
    VIPER_15, name="viper15-unified", remaps={**VIPER_15.remaps, "cityscapes": _WITHOUT_RIDER}, protocol="unified"
)
SYNTHIA_12_UNIFIED = replace(SYNTHIA_12, name="synthia12-unified", protocol="unified")
CITYSCAPES_19 = LabelSpace(
    "cityscapes19",
    (
        "road", "sidewalk", "building", "wall", "fence", "pole", "light", "sign", "vegetation", "terrain", "sky",
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    {
        "cityscapes": {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
                       26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
    },
)  # fmt: skip
SPACES = {space.name: space for space in (VIPER_15, SYNTHIA_12, VIPER_15_UNIFIED, SYNTHIA_12_UNIFIED, CITYSCAPES_19)}
"""All label spaces by name."""


def label_space(name: str) -> LabelSpace:
    """The label space called `name`; raises `ConfigError` naming the known ones."""
    if name not in SPACES:
        raise ConfigError(f"unknown label space '{name}'", mend=f"choose one of: {', '.join(sorted(SPACES))}")
    return SPACES[name]
