"""Sets of classes that networks predict: names, colours, train ids. This module imports no torch.

A data set names the classes of the ids that it stores on disk; a `LabelSpace` turns names into train ids. So any data
set goes with any label space; what it does not name becomes 255 (ignore).

Sources: the released data loaders of DA-VSN, TPS and CMOM (`dataset/Viper.py`, `SynthiaSeq.py`, `info_*.json`);
palette of the Cityscapes benchmark (Cordts et al., CVPR 2016).
"""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from stpl.errors import ConfigError, DataError

IGNORE = 255
"""Label value of pixels that count neither in a loss nor in a metric."""

PALETTE = {
    "road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70), "wall": (102, 102, 156),
    "fence": (190, 153, 153), "pole": (153, 153, 153), "light": (250, 170, 30), "sign": (220, 220, 0),
    "vegetation": (107, 142, 35), "terrain": (152, 251, 152), "sky": (70, 130, 180), "person": (220, 20, 60),
    "rider": (255, 0, 0), "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100), "train": (0, 80, 100),
    "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32),
}  # fmt: skip
"""RGB colour of every class, as Cityscapes paints it."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of one benchmark.

    Attributes:
        name: how configurations and checkpoints call it.
        classes: class names in train-id order (0, 1, …).
        merged: classes of data sets that count as another class here.
        unreported: classes that are trained but left out of the reported mean.
        protocol: how predictions of these classes are scored; a key of `stpl.metrics.segmentation.PROTOCOLS`.
        colours: RGB of each class; if empty, Cityscapes' where it has a class of that name, and others made up.
    """

    name: str
    classes: tuple[str, ...]
    merged: Mapping[str, str] = field(default_factory=dict)
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

    def lookup(self, classes: Mapping[int, str]) -> NDArray[np.uint8]:
        """Table uint8 `[65536]` from ids on disk (8 or 16 bit), with the classes they name, to train ids or 255.

        Examples:
            >>> table = label_space("viper15").lookup({7: "road", 24: "person", 25: "rider"})
            >>> table[[7, 24, 25, 0]].tolist()
            [0, 9, 9, 255]
        """
        table = np.full(65536, IGNORE, dtype=np.uint8)
        for label_id, name in classes.items():
            name = self.merged.get(name, name)
            if name in self.classes:
                table[label_id] = self.classes.index(name)
        return table


def _made_up(place: int) -> tuple[int, int, int]:
    """A colour far from its neighbours': hues at the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb(place * 0.618 % 1, 0.6 + 0.4 * (place % 2), 0.9 - 0.3 * (place % 3) / 2)
    return round(255 * red), round(255 * green), round(255 * blue)


def own_classes(names: Sequence[str], colours: Sequence[Sequence[int]] = (), where: str = "network.") -> LabelSpace:
    """The classes of a network of your own, in its order; no data set's labels are known for them.

    Args:
        names: of the classes.
        colours: RGB of each in 0..255, or none; see `LabelSpace`.
        where: what stands before `classes` and `palette` in messages.

    Raises:
        ConfigError: there are fewer than two, one is no text or there twice, or a colour is none.
    """
    strange = [name for name in names if not isinstance(name, str) or not name.strip() or not name.isprintable()]
    if strange:
        mend = "write each name as text, in quotes where YAML reads something else: ['on', '1', road]"
        raise ConfigError(f"{strange[0]!r} is no name of a class", where=f"{where}classes", mend=mend)
    if not names or len(set(names)) < len(names) or len(names) > IGNORE:
        twice = next((f": '{name}' is there twice" for name in names if names.count(name) > 1), "")
        what = f"{len(names)} classes, {len(set(names))} of them different{twice}"
        raise ConfigError(what, where=f"{where}classes", mend=f"name each class once, at most {IGNORE}")
    listed = isinstance(colours, list | tuple)
    if not listed or (colours and not (len(colours) == len(names) and all(map(_is_colour, colours)))):
        what = f"{len(colours)} colours for {len(names)} classes" if listed else f"{str(colours)[:40]!r} is no list"
        wrong = [one for one in colours if not _is_colour(one)] if listed else []
        what += f": {str(wrong[0])[:40]!r} is no colour" if wrong else ""
        mend = "give three numbers of 0 to 255 for each class, [[128, 64, 128], …], or none at all"
        raise ConfigError(what, where=f"{where}palette", mend=mend)
    if len(names) == 1:
        mend = "name two or more; a network of one class gives logits of background and class"
        what = f"one class ('{names[0]}') leaves nothing to distinguish"
        raise ConfigError(what, where=f"{where}classes", mend=mend)
    return LabelSpace("own", tuple(names), colours=tuple((int(r), int(g), int(b)) for r, g, b in colours))


def _is_colour(colour: object) -> bool:
    """Whether it is three whole numbers of 0 to 255."""

    def is_level(value: object) -> bool:
        return not isinstance(value, bool) and isinstance(value, Real) and value in range(256)

    return isinstance(colour, list | tuple) and len(colour) == 3 and all(map(is_level, colour))


def check_train_ids(label: NDArray[np.uint8], space: LabelSpace, where: str) -> None:
    """Raise `DataError` if `label` holds a value that is neither a train id of `space` nor 255."""
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    bad = [int(value) for value in present if value >= space.num_classes and value != IGNORE]
    if bad:
        what = f"label values {bad} are outside '{space.name}' (0..{space.num_classes - 1}, 255 = ignore)"
        mend = "remap the label file to train ids, or choose the label space it was made for"
        raise DataError(what, where=where, mend=mend)


VIPER_15 = LabelSpace(
    "viper15",
    ("road", "sidewalk", "building", "fence", "light", "sign", "vegetation", "terrain", "sky", "person", "car",
     "truck", "bus", "motorcycle", "bicycle"),
    merged={"rider": "person"},
)  # fmt: skip
SYNTHIA_12 = LabelSpace(
    "synthia12",
    ("road", "sidewalk", "building", "fence", "pole", "light", "sign", "vegetation", "sky", "person", "rider", "car"),
    unreported=("fence",),  # almost absent: about 0 IoU for every published method
)
VPS_15 = LabelSpace(
    "vps15",  # VAT-VST, Table 1
    ("road", "sidewalk", "building", "fence", "pole", "light", "sign", "vegetation", "terrain", "sky", "person", "car",
     "truck", "bus", "motorcycle"),
    merged={"rider": "person", "infrastructure": "pole"},
)  # fmt: skip
VIPER_15_UNIFIED = replace(VIPER_15, name="viper15-unified", merged={}, protocol="unified")
SYNTHIA_12_UNIFIED = replace(SYNTHIA_12, name="synthia12-unified", protocol="unified")
CITYSCAPES_19 = LabelSpace("cityscapes19", tuple(PALETTE))
SPACES = {
    space.name: space for space in (VIPER_15, SYNTHIA_12, VPS_15, VIPER_15_UNIFIED, SYNTHIA_12_UNIFIED, CITYSCAPES_19)
}
"""All label spaces by name."""


def label_space(name: str) -> LabelSpace:
    """The label space called `name`; raises `ConfigError` naming the known ones.

    Examples:
        >>> viper = label_space("viper15")
        >>> viper.num_classes, viper.classes[:2]
        (15, ('road', 'sidewalk'))
    """
    if name not in SPACES:
        raise ConfigError(f"unknown label space '{name}'", mend=f"choose one of: {', '.join(sorted(SPACES))}")
    return SPACES[name]
