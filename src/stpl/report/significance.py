"""How sure the numbers are: intervals over clips and seeds, and paired tests between experiments.

Two things vary: which clips the target split happens to hold, and the seed of the training. mIoU is no mean over clips
but a ratio of sums, so everything here resamples the *counts* of clips and computes mIoU anew.

- Clips that follow one another show the same scene; the unit of resampling is the run of consecutive clips.
- Interval: percentile bootstrap that draws units and seeds with replacement (Efron and Tibshirani 1993, chapter 13);
  for differences, the same draw for both sides (paired).
- Test over clips: the two experiments' counts of a unit are swapped at random, for all seeds at once. Under the null
  hypothesis, that it does not matter which of the two trained networks saw a unit, all swaps are equally likely. Exact
  if there are few units, else `SWAPS` random swaps; corrected for the rows of a table by Holm's procedure (Holm 1979).
- Test over seeds: exact sign-flip test of the differences per seed. With n seeds no p lies below 2/2^n: 0.25 for three.

A difference is called significant if both hold: the corrected p over clips is below 0.05, and the interval over clips
*and* seeds leaves out zero.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Bootstrap draws."""

SWAPS = 10_000
"""Most swaps that a permutation test tries; with at most this many possible ones it is exact."""

_LEVEL = 0.05  # of significance; intervals cover 1 - _LEVEL
_SEED = 20230614
_BLOCK = 500  # swaps at once: bounds the memory at a few hundred MB for 2000 units
_MAX_SEEDS = 16  # the sign-flip test tries 2^seeds signs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """The counts of one experiment's evaluations, as far as mIoU needs them.

    Attributes:
        seeds: S seeds.
        keys: names of the clips.
        counts: `[S,U,3,C]`, summed over the clips of a unit: pixels that are true positives, of the class, and
            predicted as the class, for the classes that enter mIoU.
    """

    seeds: tuple[int, ...]
    keys: tuple[str, ...]
    counts: Floats

    @property
    def mious(self) -> Floats:
        """The mIoU in percent of every seed, `[S]`."""
        return miou(self.counts.sum(1))


@dataclass(frozen=True)
class Interval:
    """A 95 % interval in percent."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One experiment against another, on the same clips and seeds.

    Attributes:
        against: experiment that is subtracted.
        difference: mean over the common seeds of the difference of mIoU, in percent.
        interval: of the difference.
        error: standard error over seeds of the difference; `None` for a single seed.
        p_clips: two-sided, of the test over clips.
        p_holm: the same, corrected for the comparisons of the table.
        p_seeds: two-sided, of the test over seeds; `None` for a single seed or more than 16.
        seeds: number of common seeds.
    """

    against: str
    difference: float
    interval: Interval
    error: float | None
    p_clips: float
    p_holm: float
    p_seeds: float | None
    seeds: int

    @property
    def significant(self) -> bool:
        """Whether the difference is significant, as the head of this module defines it."""
        return self.p_holm < _LEVEL and not self.interval.low <= 0 <= self.interval.high


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those values that there are; `None` without any."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; `None` for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def error(values: Sequence[float]) -> float | None:
    """The standard error of the mean; `None` for fewer than two values."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def units_of(keys: Sequence[str]) -> tuple[int, ...]:
    """The unit of each clip: clips whose names end in successive numbers after the same words belong together."""
    found: list[int] = []
    unit = -1
    next_one: tuple[str, int] | None = None
    for key in keys:
        match = re.fullmatch(r"(.*?)(\d+)", key)
        if match is None or (match[1], int(match[2])) != next_one:
            unit += 1
        next_one = (match[1], int(match[2]) + 1) if match else None
        found.append(unit)
    return tuple(found)


def count(keys: tuple[str, ...], confusions: dict[int, NDArray[np.int64]], classes: Sequence[int]) -> Counts:
    """Reduce confusion matrices (seed → counts `[N,K,K]`, rows are the truth) to what mIoU over `classes` needs."""
    units, ids = units_of(keys), list(classes)
    parts = []
    for matrices in confusions.values():
        diagonal, truth, predicted = np.einsum("nkk->nk", matrices), matrices.sum(2), matrices.sum(1)
        per_clip = np.stack([diagonal, truth, predicted], 1)[:, :, ids].astype(np.float64)
        per_unit = np.zeros((units[-1] + 1, *per_clip.shape[1:]))
        np.add.at(per_unit, list(units), per_clip)
        parts.append(per_unit)
    return Counts(tuple(confusions), keys, np.stack(parts))


def miou(counts: Floats) -> Floats:
    """Mean IoU in percent `[…]` of counts `[…,3,C]`; classes in neither truth nor prediction are left out."""
    hits, union = counts[..., 0, :], counts[..., 1, :] + counts[..., 2, :] - counts[..., 0, :]
    present = union > 0.5
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=present)
    return np.asarray(100 * iou.sum(-1) / np.maximum(present.sum(-1), 1))


def interval(counts: Counts) -> Interval:
    """Bootstrap interval of the mean mIoU over clips and, if there are several, seeds."""
    weights, seeds = _draws(counts.counts.shape[1], len(counts.seeds))
    return _percentiles((_resampled(counts.counts, weights) * seeds).sum(1))


def compare(ours: Counts, theirs: Counts, name: str) -> Comparison | None:
    """Compare on the clips and seeds that both have; `None` if the clips differ or no seed is common.

    The difference is `ours` minus `theirs`, which the result calls `name`.
    """
    common = [seed for seed in ours.seeds if seed in theirs.seeds]
    if ours.keys != theirs.keys or ours.counts.shape[1:] != theirs.counts.shape[1:] or not common:
        return None
    a, b = (side.counts[[side.seeds.index(seed) for seed in common]] for side in (ours, theirs))
    weights, seeds = _draws(a.shape[1], len(common))
    resampled = ((_resampled(a, weights) - _resampled(b, weights)) * seeds).sum(1)
    differences = miou(a.sum(1)) - miou(b.sum(1))
    spread = float(differences.std(ddof=1) / len(common) ** 0.5) if len(common) > 1 else None
    p, p_seeds = _swap_test(a, b), _sign_flip(differences)
    return Comparison(name, float(differences.mean()), _percentiles(resampled), spread, p, p, p_seeds, len(common))


def holm(comparisons: Sequence[Comparison | None]) -> list[Comparison | None]:
    """The comparisons with `p_holm` set for all that are not `None`, taken as one family."""
    family = [(index, comparison) for index, comparison in enumerate(comparisons) if comparison is not None]
    corrected, worst = list(comparisons), 0.0
    for rank, (index, comparison) in enumerate(sorted(family, key=lambda member: member[1].p_clips)):
        worst = max(worst, min(1.0, comparison.p_clips * (len(family) - rank)))
        corrected[index] = replace(comparison, p_holm=worst)
    return corrected


@lru_cache(maxsize=16)
def _draws(units: int, seeds: int) -> tuple[Floats, Floats]:
    """How often each unit `[B,U]`, and with what share each seed `[B,S]`, enters a draw: the same at every call."""
    random = np.random.default_rng(_SEED)
    weights = random.multinomial(units, np.full(units, 1 / units), DRAWS).astype(np.float64)
    return weights, random.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds


def _resampled(counts: Floats, weights: Floats) -> Floats:
    """The mIoU `[B,S]` of every draw and seed."""
    return np.stack([miou(np.tensordot(weights, of_seed, 1)) for of_seed in counts], 1)


def _percentiles(values: Floats) -> Interval:
    low, high = np.quantile(values, [_LEVEL / 2, 1 - _LEVEL / 2])
    return Interval(float(low), float(high))


def _swap_test(a: Floats, b: Floats) -> float:
    """Two-sided p of the difference of mIoU between counts `[S,U,3,C]` under swaps of units."""
    units = a.shape[1]
    exact = 2**units <= SWAPS
    swaps = _all_signs(units) if exact else _random_swaps(units)
    observed = abs(float((miou(a.sum(1)) - miou(b.sum(1))).mean()))
    extreme = sum(
        int((np.abs(_swapped(a, b, swaps[i : i + _BLOCK])) >= observed - 1e-9).sum())
        for i in range(0, len(swaps), _BLOCK)
    )
    return extreme / len(swaps) if exact else (extreme + 1) / (len(swaps) + 1)


def _swapped(a: Floats, b: Floats, swaps: Floats) -> Floats:
    """Mean over seeds of the difference of mIoU under each swap, `[R]`; `swaps` `[R,U]` is 1 where sides change."""
    total = np.zeros(len(swaps))
    for ours, theirs in zip(a, b, strict=True):
        moved = np.tensordot(swaps, theirs - ours, 1)
        total += miou(ours.sum(0) + moved) - miou(theirs.sum(0) - moved)
    return total / len(a)


@lru_cache(maxsize=16)
def _random_swaps(units: int) -> Floats:
    return np.random.default_rng(_SEED).integers(0, 2, (SWAPS, units)).astype(np.float64)


def _all_signs(many: int) -> Floats:
    return np.array(list(product((0.0, 1.0), repeat=many)))


def _sign_flip(differences: Floats) -> float | None:
    """Exact two-sided p that the mean difference `[S]` is as large by chance."""
    if not 1 < len(differences) <= _MAX_SEEDS:
        return None
    means = np.abs((1 - 2 * _all_signs(len(differences))) @ differences) / len(differences)
    return float((means >= abs(differences.mean()) - 1e-9).mean())
