"""How sure the numbers are: source models are the unit.

A run of seed k starts from source model k, so seeds pair the runs of two experiments. What varies beside the method is
the source model, and within it the clips that the target split happens to hold.

- What decides (`Comparison.significant`): the two-sided paired t test of the differences of mIoU over source models,
  corrected by Holm's procedure (Holm 1979) for all comparisons of a report. Below `FEWEST` source models nothing does.
- Beside a difference stands the t interval over source models.
- Printed beside it, without deciding anything: the sign-flip test over source models (with n of them no p lies below
  2/2^n), and the nested bootstrap, which draws source models with replacement and, within each drawn one, clips anew;
  the same draw for both sides. mIoU is no mean over clips but a ratio of sums, so it is computed anew from the drawn
  *counts*. Clips that follow one another show the same scene and are drawn together.
"""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from stpl.runs.artifacts import StatisticsKind

LEVEL = 0.05
"""Of significance; intervals cover 1 - LEVEL."""

FEWEST = 5
"""Source models below which a difference gets no mark."""

DRAWS = 2000
"""Bootstrap draws."""

FLIPS = 10_000
"""Random sign flips, where there are too many source models to try all."""

_SEED = 20230614
_MAX_EXACT = 16  # 2^16 sign flips

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """The counts of one experiment's evaluations, as far as mIoU needs them.

    Attributes:
        seeds: S seeds, each of a source model.
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
    """The last weights of one experiment against those of another, with the same kind of statistics.

    Attributes:
        experiment: whose weights.
        against: experiment that is subtracted.
        kind: of the statistics of both.
        differences: of mIoU in percent, for each source model that both have.
        p_holm: `p`, corrected for all comparisons of the report; `None` for one that takes no part.
    """

    experiment: str
    against: str
    kind: StatisticsKind
    differences: tuple[float, ...]
    p_holm: float | None = None

    @property
    def difference(self) -> float:
        """The mean difference."""
        return statistics.fmean(self.differences)

    @property
    def error(self) -> float | None:
        """The standard error of the mean difference; `None` for a single source model."""
        return error(self.differences)

    @property
    def interval(self) -> Interval | None:
        """The t interval of the mean difference; `None` for a single source model."""
        from scipy.special import stdtrit

        if self.error is None:
            return None
        reach = float(stdtrit(len(self.differences) - 1, 1 - LEVEL / 2)) * self.error
        return Interval(self.difference - reach, self.difference + reach)

    @property
    def p(self) -> float | None:
        """Two-sided p of the paired t test; `None` for a single source model."""
        return float(t_test(np.array(self.differences))) if len(self.differences) > 1 else None

    @property
    def significant(self) -> bool | None:
        """What is marked; `None` where nothing is."""
        return None if self.p_holm is None else self.p_holm < LEVEL


def judged(comparisons: Iterable[Comparison]) -> dict[Comparison, Comparison]:
    """Each comparison with `p_holm`, all together as one family; equal ones count once.

    Those over fewer than `FEWEST` source models take no part, and are not in the answer.
    """
    family = list(dict.fromkeys(one for one in comparisons if len(one.differences) >= FEWEST))
    if not family:
        return {}
    corrected = family_p([np.array(one.differences) for one in family])
    return {one: replace(one, p_holm=float(p)) for one, p in zip(family, corrected, strict=True)}


def family_p(differences: Sequence[Floats]) -> Floats:
    """Holm-corrected p `[…,M]` of the t tests of M comparisons: differences `[…,S]`, each over its own S models."""
    return holm(np.stack([t_test(one) for one in differences], -1))


def t_test(differences: Floats) -> Floats:
    """Two-sided p `[…]` that the mean of differences `[…,S]` over S > 1 source models is as large by chance."""
    from scipy.special import stdtr

    many = differences.shape[-1]
    center = np.abs(differences.mean(-1))
    spread = differences.std(-1, ddof=1) / many**0.5
    with np.errstate(divide="ignore"):  # differences that are equal, and not 0
        t = np.divide(center, spread, out=np.zeros_like(center), where=center > 0)
    return np.asarray(2 * stdtr(many - 1, -t))


def holm(p: Floats) -> Floats:
    """Probabilities `[…,M]`, each corrected for all M of them.

    Examples:
        >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, -1)
    scaled = np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1)
    found = np.empty_like(p)
    np.put_along_axis(found, order, np.minimum(np.maximum.accumulate(scaled, -1), 1), -1)
    return found


def sign_flips(differences: Sequence[float]) -> float | None:
    """Two-sided p of the mean under changes of sign: exact for few source models; `None` for a single one.

    Examples:
        >>> sign_flips([1.0, 2.0, 1.5, 0.5, 1.0])  # all five above 0: two of 32 choices of signs are as extreme
        0.0625
    """
    many = len(differences)
    if many < 2:
        return None
    exact = many <= _MAX_EXACT
    observed = abs(float(np.mean(differences)))
    extreme = int((np.abs(_signs(many, exact) @ np.array(differences)) / many >= observed - 1e-9).sum())
    return extreme / 2**many if exact else (extreme + 1) / (FLIPS + 1)


@lru_cache(maxsize=16)
def _signs(many: int, exact: bool) -> Floats:
    if exact:
        return np.array(list(product((-1.0, 1.0), repeat=many)))
    return np.random.default_rng(_SEED).choice((-1.0, 1.0), (FLIPS, many))


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


def common(ours: Counts, theirs: Counts) -> tuple[Floats, Floats] | None:
    """The counts of both on the seeds that both have; `None` if there is none, or the clips differ."""
    seeds = [seed for seed in ours.seeds if seed in theirs.seeds]
    if ours.keys != theirs.keys or ours.counts.shape[1:] != theirs.counts.shape[1:] or not seeds:
        return None
    a, b = (side.counts[[side.seeds.index(seed) for seed in seeds]] for side in (ours, theirs))
    return a, b


def compare(ours: Counts, theirs: Counts, names: tuple[str, str], kind: StatisticsKind) -> Comparison | None:
    """Compare on the seeds that both have; `None` as for `common`. `names` are those of the two experiments."""
    if (both := common(ours, theirs)) is None:
        return None
    a, b = both
    differences = miou(a.sum(1)) - miou(b.sum(1))
    return Comparison(*names, kind, tuple(differences.tolist()))


def nested_interval(ours: Floats, theirs: Floats | None = None) -> Interval | None:
    """Nested bootstrap interval of the mean mIoU of counts `[S,U,3,C]`, or of the mean difference of two.

    `None` for a single source model: the clips alone do not say how sure a mean over source models is.
    """
    models, units = ours.shape[:2]
    if models < 2:
        return None
    drawn, weights = _draws(models, units)
    values = np.empty(drawn.shape)
    for model in range(models):
        mine = drawn == model
        values[mine] = miou(np.tensordot(weights[mine], ours[model], 1))
        if theirs is not None:
            values[mine] -= miou(np.tensordot(weights[mine], theirs[model], 1))
    low, high = np.quantile(values.mean(1), [LEVEL / 2, 1 - LEVEL / 2])
    return Interval(float(low), float(high))


@lru_cache(maxsize=2)
def _draws(models: int, units: int) -> tuple[NDArray[np.int64], Floats]:
    """The S source models `[B,S]` of each draw, and how often each unit `[B,S,U]` enters: the same at every call."""
    random = np.random.default_rng(_SEED)
    drawn = random.integers(0, models, (DRAWS, models))
    return drawn, random.multinomial(units, np.full(units, 1 / units), drawn.shape).astype(np.float64)
