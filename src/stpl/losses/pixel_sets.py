"""Pixels that are contrasted, the form of their labels, and their positives through class sums."""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from stpl.data.clip import IGNORE
from stpl.errors import shown


class Pixels(NamedTuple):
    """Vectors `[N,D]` and their classes, integer `[N]`; a pixel of label 255 takes no part."""

    vectors: Tensor
    labels: Tensor


def check_classes(labels: Tensor) -> None:
    """Raise `ValueError` for labels that are no integers, without a look at their values."""
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels are classes, integers, and these are {labels.dtype}: give labels.long()")


def check_temperature(value: object) -> None:
    """Raise `ValueError` for a temperature that is no plain number, such as a tensor that learns, or not above 0."""
    if not (isinstance(value, Real) and 0 < float(value) < math.inf):
        raise ValueError(f"temperature must be positive, a plain number, got {shown(value)}")


class Positives(NamedTuple):
    """What each query has as positives; no mask of N×M and no read-back is needed for it."""

    mean: Tensor  # μ of its positives `[N,D]`; 0 where there are none
    number: Tensor  # |P| `[N,1]`, at least 1
    used: Tensor  # 1 for queries with a positive and a negative, else 0 `[N,1]`
    queries: Tensor  # number of used queries, at least 1, a scalar tensor

    @classmethod
    def of(cls, queries: Pixels, keys: Pixels) -> Positives:
        """Through sums over each class of keys."""
        members, own = _members(keys), queries.labels.long()
        numbers = members.sum(0)[own, None]
        mean = (members.T @ keys.vectors)[own] / numbers.clamp(min=1)
        used = ((numbers > 0) & (numbers < members.sum())).to(queries.vectors.dtype)
        return cls(mean, numbers.clamp(min=1), used, used.sum().clamp(min=1))

    def rows(self, rows: slice) -> Positives:
        """The same for a range of queries."""
        return Positives(self.mean[rows], self.number[rows], self.used[rows], self.queries)

    def pull_on_keys(self, queries: Pixels, keys: Pixels) -> Tensor:
        """Σ q/|P| over the used queries of each key's class `[M,D]`; 0 for keys that take no part."""
        pulls = _members(queries).T @ (queries.vectors * (self.used / self.number))
        return pulls[keys.labels.long()]


def _members(pixels: Pixels) -> Tensor:
    """One-hot labels `[N,256]`; the column of `IGNORE` is empty. `F.one_hot` would read the labels' range back."""
    classes = torch.arange(IGNORE + 1, device=pixels.labels.device)
    return ((pixels.labels[:, None] == classes) & (classes != IGNORE)).to(pixels.vectors.dtype)
