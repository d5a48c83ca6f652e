"""Accuracy of simple classifiers that are fitted to features, on clips they were not fitted on.

What a frozen classifier makes of features depends on where they lie; these show whether the classes can be separated
at all. Clips come in two folds, the earlier and the later half, so that a drive stands in one (but for one at the
border).

Shape legend: M pixels, D channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_RIDGE = 1e-3
"""Weight of the penalty, relative to the mean variance of the standardised features: the number 1."""

Classifier = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Features `[M,D]` and classes `[M]` to fit on, features `[N,D]` to classify, K; gives scores `[N,K]`."""


def linear_probe(features: Tensor, classes: Tensor, clips: Tensor, count: int | None = None) -> Tensor:
    """Mean class accuracy of a linear classifier fitted on one fold and tested on the other (Alain and Bengio, 2016).

    Regularised least squares onto one-hot targets (Rifkin, Yeo and Poggio, 2003), all classes of the same weight, on
    features standardised by the fold that is fitted. It has a closed form, hence one value.

    Args:
        features: float `[M,D]`.
        classes: integers `[M]`.
        clips: number of the clip that each pixel is from, integers `[M]`.
        count: clips in all, those without a pixel here as well: what is halved. The largest number + 1 if not given.

    Returns:
        Percent, a scalar; NaN if fewer than two classes occur in both folds.
    """
    return _cross_validated(features, classes, clips, count, _least_squares)


def nearest_mean(features: Tensor, classes: Tensor, clips: Tensor, count: int | None = None) -> Tensor:
    """Mean class accuracy of the nearest class mean (Mensink et al., 2013); all else as for `linear_probe`."""
    return _cross_validated(features, classes, clips, count, _means)


def _cross_validated(
    features: Tensor, classes: Tensor, clips: Tensor, count: int | None, classifier: Classifier
) -> Tensor:
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
