"""Faults of labels that no single file shows: ids of another scheme are in range, but over a split they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stpl.data.data_set import DataSet
from stpl.data.label_space import IGNORE, LabelSpace

_EVERYWHERE = ("vegetation", "sky", "road")  # classes that nearly every picture of a street shows
_MOST, _NEARLY_ALL = 60.0, 95.0  # percent
_NAMES_SHOWN, _LEAST_BEYOND = 4, 3


class LabelCounts(NamedTuple):
    """One label file and how many of its pixels have each id, int64 `[256]`."""

    path: Path
    pixels: NDArray[np.int64]


class LabelFindings(NamedTuple):
    """What is wrong for certain, and what only looks wrong."""

    problems: list[str]
    warnings: list[str]


def find_label_faults(labels: Sequence[LabelCounts], known: DataSet, space: LabelSpace) -> LabelFindings:
    """What is wrong with the labels of a split.

    Args:
        labels: every label of the split.
        known: the data set whose ids they should hold.
        space: the classes that the ids become.
    """
    if not labels:
        return LabelFindings([], [])
    train_ids = _hold_train_ids(labels, known, space)
    pixels = np.sum([label.pixels for label in labels], axis=0)
    return LabelFindings(train_ids.problems, [*train_ids.warnings, *_shares(pixels, known, space), *_constant(labels)])


def _hold_train_ids(labels: Sequence[LabelCounts], known: DataSet, space: LabelSpace) -> LabelFindings:
    """Label ids go higher than train ids do: where no id is above the highest train id, the labels hold these."""
    highest = space.num_classes - 1 if known.labels.train_ids is None else known.labels.train_ids
    table, ids = known.table(space), known.labels.classes
    beyond = {value: space.classes[table[value]] for value in ids if value > highest and table[value] != IGNORE}
    low = [label for label in labels if not label.pixels[highest + 1 : IGNORE].any()]
    if len(beyond) < _LEAST_BEYOND or not low:
        return LabelFindings([], [])
    names = ", ".join(f"{name} {value}" for value, name in list(beyond.items())[:_NAMES_SHOWN])
    message = (
        f"{low[0].path}: {len(low)} of {len(labels)} labels hold no id above {highest} but {IGNORE}; {known.name}'s "
        f"label ids go on ({names}, …), so these look like train ids: give the original label ids"
    )
    certain = any(name in _EVERYWHERE for name in beyond.values())  # else there may just be no cars and persons
    if len(low) == len(labels):
        return LabelFindings([message], []) if certain else LabelFindings([], [message])
    return LabelFindings([], [message] if certain else [])


def _shares(pixels: NDArray[np.int64], known: DataSet, space: LabelSpace) -> list[str]:
    """A class, or what counts for nothing, over most of the split."""
    train_ids = known.table(space)[: len(pixels)]
    counts = np.array([pixels[train_ids == train_id].sum() for train_id in range(space.num_classes)])
    largest, counted, absent = int(counts.argmax()), counts.sum(), int((counts == 0).sum())
    share, ignored = 100 * counts[largest] / max(counted, 1), 100 * (1 - counted / max(pixels.sum(), 1))
    found = []
    if share > _MOST:
        found.append(
            f"{space.classes[largest]} covers {share:.1f} % of the labelled pixels, and {absent} of "
            f"{space.num_classes} classes are absent: are the ids of another scheme (train ids, another data set's)?"
        )
    if ignored > _MOST:
        ids = np.argsort(np.where(train_ids == IGNORE, pixels, 0))[::-1][:_NAMES_SHOWN]
        shares = ", ".join(f"{value}: {100 * pixels[value] / pixels.sum():.1f} %" for value in ids if pixels[value])
        found.append(f"{ignored:.1f} % of the pixels are ignored (by id, {shares}): are the ids of another scheme?")
    return found


def _constant(labels: Sequence[LabelCounts]) -> list[str]:
    """Labels of one id, as a conversion that failed leaves them."""
    shares = [100 * label.pixels.max() / max(label.pixels.sum(), 1) for label in labels]
    flat = [(label, share) for label, share in zip(labels, shares, strict=True) if share > _NEARLY_ALL]
    if not flat:
        return []
    first, share = flat[0]
    return [
        f"{first.path}: {len(flat)} of {len(labels)} labels hold one id nearly everywhere (this one {share:.1f} % of "
        f"id {first.pixels.argmax()}): were they converted rightly?"
    ]
