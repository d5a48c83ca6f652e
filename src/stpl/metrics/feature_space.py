"""How well a feature space separates the classes (paper §4.4, Figures 6 and 7).

All numbers are computed on a balanced sample of pixels. Shape legend: M pixels, D feature channels, K classes.

Probes are simple classifiers that are fitted to the features: they show whether the classes can be separated at all,
on clips they were not fitted on. Clips come in two folds, the earlier and the later half, so that a drive stands in one
(but for one at the border).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stpl.metrics.sampling import PixelSample

NEIGHBOURS = (1, 5, 10, 20, 50, 100, 200)
"""The k at which neighbourhoods are inspected; the paper's Figure 7 reaches 200."""

_BLOCK = 1024  # rows of the distance matrix in memory at once: 30 MB for 7500 pixels
_RIDGE = 1e-3  # weight of the penalty of least squares, relative to the variance of standardised features: 1


def class_variances(features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Intra-class and inter-class variance, σ_intra and σ_inter of Figure 6.

    The paper names them and gives no definition; these are the two parts of the variance of a balanced sample (the law
    of total variance), summed over channels. With z a feature, μ_c the mean of class c and μ the mean of all μ_c:

        σ_intra = mean over c of the mean over z in c of ‖z - μ_c‖²     (lower is better)
        σ_inter = mean over c of ‖μ_c - μ‖²                             (higher is better)

    Both have the unit of a squared feature, and are NaN for no pixels. For numbers that compare between networks give
    unit vectors: then σ_intra + σ_inter = 1 - ‖μ‖², in [0, 1], if all classes have the same number of pixels.
    """
    groups = [features[classes == c].double() for c in _present(classes)]
    if not groups:
        return torch.tensor(torch.nan), torch.tensor(torch.nan)
    means = torch.stack([group.mean(0) for group in groups])
    spreads = [(group - mean).square().sum(1).mean() for group, mean in zip(groups, means, strict=True)]
    return torch.stack(spreads).mean(), (means - means.mean(0)).square().sum(1).mean()


def neighbour_purity(
    features: Tensor, classes: Tensor, neighbours: Sequence[int] = NEIGHBOURS, queries: Tensor | None = None
) -> Tensor:
    """Figure 7: the share of pixels of one's own class among one's k nearest neighbours, a mean over pixels.

    Exhaustive search by Euclidean distance, without an index, a block of rows at a time; a pixel is not its own
    neighbour. Distances that differ by less than the rounding of `features`' type are ties, broken arbitrarily.

    Args:
        features: float `[M,D]`.
        classes: integers `[M]`.
        neighbours: the k to inspect.
        queries: rows whose neighbours are inspected, int64 `[Q]`; all if not given.

    Returns:
        Percent for each k; NaN where it exceeds the M - 1 others.
    """
    most = min(max(neighbours), len(features) - 1)
    counts = torch.zeros(max(most, 0), dtype=torch.int64, device=features.device)
    queries = torch.arange(len(features), device=features.device) if queries is None else queries
    for rows, squared in _squared_distances(features, queries) if most > 0 else ():
        squared[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        nearest = squared.topk(most, dim=1, largest=False).indices
        counts += (classes[nearest] == classes[rows, None]).sum(0)
    number = len(queries)
    return torch.tensor([100 * int(counts[:k].sum()) / (k * number) if k <= most else torch.nan for k in neighbours])


def silhouette(features: Tensor, classes: Tensor, queries: Tensor | None = None) -> Tensor:
    """Mean silhouette (Rousseeuw 1987): how much nearer a pixel lies to its own class than to the nearest other.

    With a the mean distance to the others of its class and b the least mean distance to another class, a pixel scores
    (b - a) / max(a, b), in [-1, 1]; one that is alone in its class scores 0. The mean is that of the rows `queries`
    `[Q]`, all if not given, and NaN for fewer than two classes.
    """
    present = _present(classes)
    if len(present) < 2:
        return features.new_tensor(torch.nan)
    members = (classes[:, None] == present).to(features.dtype)
    sizes, total = members.sum(0), features.new_zeros(())
    queries = torch.arange(len(features), device=features.device) if queries is None else queries
    for rows, squared in _squared_distances(features, queries):
        sums = squared.clamp_(min=0).sqrt_() @ members
        mine, others = members[rows].bool(), members[rows] @ sizes - 1
        within = sums[mine] / others.clamp(min=1)
        beyond = (sums / sizes).masked_fill(mine, torch.inf).amin(1)
        score = (beyond - within) / torch.maximum(beyond, within)
        total = total + score.where(others > 0, torch.zeros_like(score)).nan_to_num(0).sum()
    return total / len(queries)


def _squared_distances(features: Tensor, queries: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of query rows `[b]` with their squared Euclidean distances `[b,M]` to all features."""
    centred = features - features.mean(0)  # smaller norms cancel with less rounding
    norms = centred.square().sum(1)
    for start in range(0, len(queries), _BLOCK):
        rows = queries[start : start + _BLOCK]
        yield rows, torch.addmm(norms, centred[rows], centred.T, alpha=-2).add_(norms[rows, None])


def _present(classes: Tensor) -> Tensor:
    return classes.bincount().nonzero()[:, 0]


def linear_probe(features: Tensor, classes: Tensor, clips: Tensor, count: int | None = None) -> Tensor:
    """Mean class accuracy of a linear classifier fitted on one fold and tested on the other (Alain and Bengio, 2016).

    Regularised least squares onto one-hot targets (Rifkin, Yeo and Poggio, 2003), all classes of the same weight, on
    features standardised by the fold that is fitted. It has a closed form, hence one value.

    Args:
        features: float `[M,D]`.
        classes: integers `[M]`.
        clips: number of the clip that each pixel is from, integers `[M]`.
        count: clips in all, with a pixel here or without: what is halved. The largest number + 1 if not given.

    Returns:
        Percent, a scalar; NaN if fewer than two classes occur in both folds.
    """
    return _cross_validated(features, classes, clips, count, _least_squares)


def nearest_mean(features: Tensor, classes: Tensor, clips: Tensor, count: int | None = None) -> Tensor:
    """Mean class accuracy of the nearest class mean (Mensink et al., 2013); all else as for `linear_probe`."""
    return _cross_validated(features, classes, clips, count, _means)


def _cross_validated(
    features: Tensor, classes: Tensor, clips: Tensor, count: int | None, classifier: Callable[..., Tensor]
) -> Tensor:
    """Of a classifier: features `[M,D]` and classes `[M]` to fit on, `[N,D]` to classify, and K, to scores `[N,K]`."""
    if not len(classes):
        return torch.tensor(torch.nan)
    later = clips >= (int(clips.max()) + 1 if count is None else count) / 2
    counts = torch.stack([classes[fold].bincount(minlength=int(classes.max()) + 1) for fold in (later, ~later)])
    common = (counts > 0).all(0).nonzero()[:, 0]
    if len(common) < 2:
        return torch.tensor(torch.nan)
    chosen = torch.isin(classes, common)
    numbers = torch.searchsorted(common, classes[chosen])
    features, later = features[chosen].float(), later[chosen]
    right = torch.zeros(len(common), dtype=torch.float64, device=features.device)
    for fold in (later, ~later):
        scores = classifier(features[fold], numbers[fold], features[~fold], len(common))
        right += numbers[~fold][scores.argmax(1) == numbers[~fold]].bincount(minlength=len(common))
    return 100 * (right / numbers.bincount(minlength=len(common))).mean()


def _least_squares(features: Tensor, classes: Tensor, tested: Tensor, count: int) -> Tensor:
    """Scores of the weighted ridge regression onto one-hot targets, in float64.

    With more channels than pixels the system of the pixels is the smaller one; both have the same solution. Either is
    positive definite by its penalty.
    """
    weights = (1 / classes.bincount(minlength=count).double() / count)[classes]  # sum to 1, each class to 1/K
    x, z = features.double(), tested.double()
    mean = weights @ x
    spread = (weights @ (x - mean).square()).sqrt().clamp(min=1e-12)
    root = weights.sqrt()[:, None]
    x, z = (x - mean) / spread * root, (z - mean) / spread
    targets = F.one_hot(classes, count).double()
    targets = (targets - weights @ targets) * root
    wide = x.shape[1] > x.shape[0]
    solution = x.T @ _solved(x @ x.T, targets) if wide else _solved(x.T @ x, x.T @ targets)
    scores: Tensor = z @ solution
    return scores


def _solved(system: Tensor, right: Tensor) -> Tensor:
    system.diagonal().add_(_RIDGE)
    return torch.cholesky_solve(right, torch.linalg.cholesky(system))


def _means(features: Tensor, classes: Tensor, tested: Tensor, count: int) -> Tensor:
    means = torch.stack([features[classes == c].mean(0) for c in range(count)])
    return -torch.cdist(tested, means)


class FeatureSpace(PixelSample):
    """Variances, purity, silhouette and probes of features, on a balanced sample that grows with every batch.

    Purity and silhouette are averaged over the first `queries_per_class` sampled pixels of each class (all if `None`),
    each of which is compared with the whole sample: an unbiased estimate (standard error below 1 percent point for 15
    classes) that keeps an evaluation cheap. The sample itself is what a figure is drawn from; the paper's has 500
    pixels per class.
    """

    def __init__(self, per_class: int = 500, queries_per_class: int | None = 100, seed: int = 0) -> None:
        super().__init__(per_class, seed)
        self.queries_per_class = queries_per_class

    def compute(self) -> dict[str, Any]:
        """The numbers by name.

        `sigma_intra`, `sigma_inter`, both `_normalized` (of unit vectors), `silhouette`, `purity` (k → percent),
        `linear_probe` and `nearest_mean` (percent).
        """
        features, classes, clips = self.sample()
        intra, inter = class_variances(features, classes)
        unit_intra, unit_inter = class_variances(F.normalize(features), classes)
        queries = self._queries(classes)
        purity = neighbour_purity(features, classes, NEIGHBOURS, queries)
        return {
            "sigma_intra": intra,
            "sigma_inter": inter,
            "sigma_intra_normalized": unit_intra,
            "sigma_inter_normalized": unit_inter,
            "silhouette": silhouette(features, classes, queries),
            "linear_probe": linear_probe(features, classes, clips, int(self.clips)),
            "nearest_mean": nearest_mean(features, classes, clips, int(self.clips)),
            "purity": {str(k): value for k, value in zip(NEIGHBOURS, purity, strict=True)},
        }

    def _queries(self, classes: Tensor) -> Tensor:
        rank = torch.arange(len(classes), device=classes.device) - torch.searchsorted(classes, classes)
        return (rank < (self.queries_per_class or self.per_class)).nonzero()[:, 0]
