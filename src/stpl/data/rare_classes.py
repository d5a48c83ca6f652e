"""Rare-class sampling (Hoyer et al., DAFormer, CVPR 2022, §3.3): source clips that show a rare class come up more.

A class c is drawn with probability softmax((1 - f_c)/T) over classes, f_c its share of all labelled pixels; then one of
the clips that show enough of it. Each draw is a pure function of seed, step and position, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpl.data.clip import ClipReader, clip_seed
from stpl.data.parallel import each
from stpl.data.steps import StepSampler, Ticket
from stpl.errors import DataError, check_range, note
from stpl.files import locked, whole_file

_OPTIONS = "data.loading.rare_classes"
_DRAW = -3  # no clip stands at this position, so the draw shares its seed with no augmentation


@dataclass(frozen=True)
class RareClasses:
    """How much more often rare classes are drawn.

    Attributes:
        temperature: T; the smaller, the rarer the classes that are drawn (DAFormer 0.01).
        least_share: share of a clip's pixels that a class must have for the clip to stand for it. DAFormer asks for
            3000 pixels of GTA's 1052×1914, which is 0.0015.
    """

    temperature: float = 0.01
    least_share: float = 0.0015

    def __post_init__(self) -> None:
        check_range(f"{_OPTIONS}.temperature", self.temperature, 1e-4)
        check_range(f"{_OPTIONS}.least_share", self.least_share, 0, 1)


def probabilities(frequencies: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """P(c) of classes from their shares of all pixels `[K]`, summing to 1; a class without any pixel has 0."""
    exponents = (1 - frequencies) / temperature
    weights = np.exp(exponents - exponents[frequencies > 0].max()) * (frequencies > 0)
    found: NDArray[np.float64] = weights / weights.sum()
    return found


def class_pixels(reader: ClipReader, num_classes: int, folder: Path) -> NDArray[np.int64]:
    """How many pixels of each class each clip's label has, `[N,K]`; counted once, then read from `folder`.

    Raises:
        DataError: a label cannot be read, or the counts that are kept are torn.
    """
    path = folder / f"{reader.name}-{num_classes}.npy"
    on_busy = partial(note, f"another process counts the classes of {path.stem}: waiting")
    with locked(folder / f".{path.stem}.lock", on_busy, kind=DataError):
        if not path.is_file():
            counts = np.zeros((len(reader), num_classes), np.int64)

            def count(place: int) -> None:
                label = reader.label(place).numpy()
                counts[place] = np.bincount(label[label < num_classes].ravel(), minlength=num_classes)

            for _ in each(count, range(len(reader)), title="class statistics"):
                pass
            with whole_file(path, kind=DataError) as file:
                np.save(file, counts)
    try:
        found: NDArray[np.int64] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError("the class statistics are torn", where=path, mend="delete the file") from error
    if found.shape != (len(reader), num_classes):
        raise DataError("the class statistics are of other clips", where=path, mend="delete the file")
    return found


class RareClassSampler(StepSampler):
    """Steps of clips drawn by class.

    Args:
        counts: from `class_pixels`.
        pixels: of one label.
        options: how strongly rare classes are preferred.
        steps: see `StepSampler`.

    Raises:
        DataError: no clip shows enough of any class.
    """

    def __init__(self, counts: NDArray[np.int64], pixels: int, options: RareClasses, **steps: int) -> None:
        super().__init__(len(counts), **steps)
        shown = counts > options.least_share * pixels
        totals = np.where(shown.any(0), counts.sum(0), 0)
        if not totals.any():
            what, where = f"no clip shows a class on {options.least_share} of its pixels", f"{_OPTIONS}.least_share"
            raise DataError(what, where=where, mend="choose a smaller share")
        self.probabilities = probabilities(totals / counts.sum(), options.temperature)
        self._clips = [np.flatnonzero(column) for column in shown.T]

    def draw(self, step: int, position: int, total: int) -> Ticket:
        """A clip that shows the class drawn for this place."""
        generator = np.random.default_rng(clip_seed(clip_seed(self.seed, step, position), _DRAW, 0))
        drawn = self._clips[generator.choice(len(self.probabilities), p=self.probabilities)]
        return Ticket(int(generator.choice(drawn)), step, position)
