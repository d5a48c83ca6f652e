"""Refitted classifiers on features: by hand, against scikit-learn, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from stpl.metrics.feature_space import FeatureSpace, linear_probe, nearest_mean


def data(pixels: int = 400, channels: int = 12, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping classes of unlike sizes and spreads, over eight clips."""
    random = torch.Generator().manual_seed(seed)
    numbers = (torch.rand(pixels, generator=random).square() * classes).long()
    centres = torch.randn(classes, channels, generator=random)
    features = centres[numbers] + 2 * torch.randn(pixels, channels, generator=random)
    return features, numbers, torch.randint(0, 8, (pixels,), generator=random)


def mean_class_accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    return float(100 * np.mean([(found[truth == c] == c).mean() for c in np.unique(truth)]))


def test_two_classes_by_hand() -> None:
    """On a line: fold 0 has 0, 2 | 6; fold 1 has 1, 5 | 7. Each fold's border lies between its two class means."""
    features = torch.tensor([[0.0], [2.0], [6.0], [1.0], [5.0], [7.0]])
    classes, clips = torch.tensor([0, 0, 1, 0, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    # Means 1 and 6, border 3.5: of fold 1, 5 is taken for class 1. Means 3 and 7, border 5: fold 0 is right.
    assert float(nearest_mean(features, classes, clips)) == pytest.approx(100 * (3 / 4 + 1) / 2)


@pytest.mark.parametrize("channels", [12, 300])
def test_linear_probe_is_the_weighted_ridge_of_scikit_learn(channels: int) -> None:
    """With fewer channels than pixels and with more; correlated ones, or an unsolved system would do as well."""
    features, classes, clips = data(channels=channels)
    random = torch.Generator().manual_seed(3)
    features = features @ torch.randn(channels, channels, generator=random) + 9 * torch.randn(400, 1, generator=random)
    x, y, later = features.double().numpy(), classes.numpy(), clips.numpy() >= 4
    found = np.zeros_like(y)
    for fold in (later, ~later):
        weights = (1 / np.bincount(y[fold]) / 5)[y[fold]]
        mean = np.average(x[fold], axis=0, weights=weights)
        spread = np.sqrt(np.average((x[fold] - mean) ** 2, axis=0, weights=weights))
        model = Ridge(alpha=1e-3).fit((x[fold] - mean) / spread, np.eye(5)[y[fold]], sample_weight=weights)
        found[~fold] = model.predict((x[~fold] - mean) / spread).argmax(1)
    assert float(linear_probe(features, classes, clips)) == pytest.approx(mean_class_accuracy(y, found), abs=1e-6)


def test_nearest_mean_is_that_of_scikit_learn() -> None:
    features, classes, clips = data()
    x, y, later = features.numpy(), classes.numpy(), clips.numpy() >= 4
    found = np.zeros_like(y)
    for fold in (later, ~later):
        found[~fold] = NearestCentroid().fit(x[fold], y[fold]).predict(x[~fold])
    assert float(nearest_mean(features, classes, clips)) == pytest.approx(mean_class_accuracy(y, found), abs=1e-4)


def test_what_does_not_matter() -> None:
    features, classes, clips = data()
    scale = torch.rand(12) + 0.5
    assert float(linear_probe(features * scale + 3, classes, clips)) == pytest.approx(
        float(linear_probe(features, classes, clips)), abs=0.5
    )
    rotation = torch.linalg.qr(torch.randn(12, 12))[0]
    assert float(nearest_mean(features @ rotation, classes, clips)) == pytest.approx(
        float(nearest_mean(features, classes, clips)), abs=0.5
    )
    order = torch.randperm(400)
    for probe in (linear_probe, nearest_mean):
        assert probe(features[order], classes[order] * 3, clips[order]) == probe(features, classes, clips)


def test_features_that_tell_classes_apart_score_100_and_those_that_do_not_score_by_chance() -> None:
    _, classes, clips = data()
    told = torch.nn.functional.one_hot(classes).float()
    for probe in (linear_probe, nearest_mean):
        assert float(probe(told, classes, clips)) == 100
        assert float(probe(torch.randn(4000, 3), torch.arange(4000) % 5, torch.arange(4000) // 500)) < 30


def test_a_class_that_one_fold_lacks_is_left_out() -> None:
    features, classes, clips = data()
    kept = (classes != 4) | (clips < 4)
    without = classes != 4
    for probe in (linear_probe, nearest_mean):
        assert probe(features[kept], classes[kept], clips[kept]) == probe(
            features[without], classes[without], clips[without]
        )
        assert torch.isnan(probe(features[:0], classes[:0], clips[:0]))
        assert torch.isnan(probe(features, torch.zeros_like(classes), clips))


def test_folds_do_not_depend_on_batches_or_processes() -> None:
    """Eight clips at once, one by one, or four each in two processes: the same pixels, clips and numbers."""
    random = torch.Generator().manual_seed(1)
    vectors, classes = torch.randn(8, 6, 5, 7, generator=random), torch.randint(0, 4, (8, 5, 7), generator=random)
    whole, single = FeatureSpace(per_class=20), FeatureSpace(per_class=20)
    whole.update(vectors, classes)
    for i in range(8):
        single.update(vectors[i : i + 1], classes[i : i + 1])
    parts = [FeatureSpace(per_class=20) for _ in range(2)]
    for place, part in enumerate(parts):
        part.first_clip = 4 * place
        part.update(vectors[4 * place : 4 * place + 4], classes[4 * place : 4 * place + 4])
    joined = FeatureSpace(per_class=20)
    for name in ("vectors", "classes", "priorities", "origins"):
        setattr(joined, name, [item for part in parts for item in getattr(part, name)])
    for other in (single, joined):
        assert all(torch.equal(a, b) for a, b in zip(whole.sample(), other.sample(), strict=True))
    vector, label, clip = (item[37] for item in whole.sample())
    assert ((vectors[clip] == vector[:, None, None]).all(0) & (classes[clip] == label)).sum() == 1
    numbers = whole.compute()
    assert numbers["linear_probe"] == linear_probe(*whole.sample(), 8)
    assert numbers["nearest_mean"] == nearest_mean(*whole.sample(), 8)


def test_halves_are_of_all_clips_whether_or_not_they_have_pixels() -> None:
    """Of eight clips the last three have no labels: the border still lies before clip 4, not in the middle of five."""
    random = torch.Generator().manual_seed(2)
    vectors, classes = torch.randn(8, 6, 5, 7, generator=random), torch.randint(0, 4, (8, 5, 7), generator=random)
    classes[5:] = 255
    space = FeatureSpace(per_class=50)
    space.update(vectors, classes)
    features, found, clips = space.sample()
    numbers = space.compute()
    for name, probe in (("linear_probe", linear_probe), ("nearest_mean", nearest_mean)):
        halves = (clips >= 4).long()  # the same folds, told by hand
        assert numbers[name] == probe(features, found, halves)
        assert numbers[name] != probe(features, found, clips)  # the border of the sampled clips is another
