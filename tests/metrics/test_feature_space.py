from __future__ import annotations

import math
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from stpl.errors import StplError
from stpl.metrics import feature_space
from stpl.metrics.feature_space import NEIGHBOURS, FeatureSpace, class_variances, neighbour_purity, silhouette
from stpl.metrics.sampling import lowest_of_each
from stpl.report.plots import plane


def clusters(classes: int, each: int, dim: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian clusters around random unit vectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(classes).repeat_interleave(each)
    centres = torch.nn.functional.normalize(torch.randn(classes, dim, generator=generator).double())
    return centres[ids] + spread * torch.randn(len(ids), dim, generator=generator).double(), ids


def crosses(distance: float, arm: float) -> tuple[Tensor, Tensor]:
    """Three classes at `distance` along their own axes, each of eight points `arm` away from its centre."""
    arms = torch.cat([torch.eye(4), -torch.eye(4)]).double() * arm
    points = torch.cat([torch.nn.functional.one_hot(torch.tensor(c), 4).double() * distance + arms for c in range(3)])
    return points, torch.arange(3).repeat_interleave(8)


def test_variances_of_constructed_clusters() -> None:
    """Each point lies `arm` from its mean; the three means lie d·√(2/3) from theirs (an equilateral triangle)."""
    intra, inter = class_variances(*crosses(distance=5.0, arm=0.5))
    assert intra.item() == pytest.approx(0.5**2)
    assert inter.item() == pytest.approx(5.0**2 * 2 / 3)


def test_variances_add_up_to_the_variance_of_a_balanced_sample() -> None:
    features, classes = clusters(6, 30, 8, 0.7)
    intra, inter = class_variances(features, classes)
    assert (intra + inter).item() == pytest.approx(features.numpy().var(axis=0).sum())


def test_variances_weigh_classes_not_pixels() -> None:
    """Doubling the pixels of one class changes nothing."""
    features, classes = clusters(3, 20, 5, 0.4)
    again = torch.cat([features, features[classes == 1]]), torch.cat([classes, classes[classes == 1]])
    assert torch.stack(class_variances(*again)).tolist() == pytest.approx(
        torch.stack(class_variances(features, classes)).tolist()
    )


def test_purity_of_separate_clusters() -> None:
    """All 7 others of one's class come first, then strangers: 7/k."""
    found = neighbour_purity(*crosses(distance=50.0, arm=0.5), neighbours=(1, 7, 8, 14, 23, 24))
    assert found[:5].tolist() == pytest.approx([100, 100, 700 / 8, 50, 700 / 23])
    assert math.isnan(found[5])  # there are but 23 others


def test_purity_by_hand() -> None:
    """Points 0, 1, 3, 7 on a line, classes a b a b; nearest others: 1; 0 then 3; 1 then 0; 3 then 1."""
    line, classes = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 1, 0, 1])
    expected = [0.0, 100 * (1 + 0 + 1 + 1) / 8]  # second neighbours: 3 (a), 3 (a), 0 (a), 1 (b)
    assert neighbour_purity(line, classes, (1, 2)).tolist() == pytest.approx(expected)
    assert neighbour_purity(line, classes, (2,), torch.tensor([0])).tolist() == pytest.approx([50.0])


@pytest.mark.parametrize("block", [7, 1024])
def test_neighbours_are_scikit_learn_s(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_space, "_BLOCK", block)
    features, classes = clusters(7, 40, 32, 0.3)
    index = NearestNeighbors(n_neighbors=200, algorithm="brute").fit(features.numpy())
    neighbours = index.kneighbors(return_distance=False)
    same = classes.numpy()[neighbours] == classes.numpy()[:, None]
    expected = [100 * same[:, :k].mean() for k in NEIGHBOURS]
    assert neighbour_purity(features, classes).tolist() == pytest.approx(expected, rel=1e-6)
    some = torch.arange(0, 280, 3)
    expected = [100 * same[::3, :k].mean() for k in NEIGHBOURS]
    assert neighbour_purity(features, classes, NEIGHBOURS, some).tolist() == pytest.approx(expected, rel=1e-6)


def test_purity_at_the_paper_s_size_is_fast() -> None:
    """15 × 500 pixels of 2048 channels, k up to 200: 5 seconds on two cores are 10 of one."""
    features, classes = torch.randn(7500, 2048), torch.arange(7500) % 15
    start = time.process_time()
    neighbour_purity(features, classes)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("spread", [0.05, 0.5])
def test_silhouette_is_scikit_learn_s(spread: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_space, "_BLOCK", block)
    features, classes = clusters(5, 25, 12, spread)
    classes[0] = 9  # alone in its class, and ids with gaps
    expected = silhouette_score(features.numpy(), classes.numpy())
    assert silhouette(features, classes).item() == pytest.approx(expected, rel=1e-6)


def test_silhouette_of_a_query_and_of_nothing_to_compare() -> None:
    line, classes = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1])
    assert silhouette(line, classes, torch.tensor([0])).item() == pytest.approx((5 - 1) / 5)
    assert math.isnan(silhouette(line, torch.zeros(4, dtype=torch.int64)))


def test_lowest_of_each_is_a_sort_per_class() -> None:
    generator = np.random.default_rng(0)
    priorities, classes = generator.random(200), generator.integers(0, 4, 200)
    classes[classes == 2] = 5
    expected = [
        int(i) for c in (0, 1, 3, 5) for i in sorted(np.flatnonzero(classes == c), key=lambda i: priorities[i])[:9]
    ]
    assert lowest_of_each(torch.from_numpy(priorities), torch.from_numpy(classes), 9).tolist() == expected


def scenes(clips: int = 12) -> tuple[Tensor, Tensor]:
    """Features that say where each pixel is, and labels: class 0 everywhere, class 1 rare, some unknown."""
    places = torch.arange(clips * 6 * 8).view(clips, 1, 6, 8)
    labels = torch.zeros(clips, 6, 8, dtype=torch.int64)
    labels[:, 2:4, 3] = 1
    labels[:, 0] = 255
    return torch.cat([places, -places], dim=1).float(), labels


def sampled(batch: int, **options: int) -> tuple[Tensor, Tensor]:
    metric = FeatureSpace(**options)
    features, labels = scenes()
    for start in range(0, len(labels), batch):
        metric.update(features[start : start + batch], labels[start : start + batch])
    return metric.sample()[:2]


@pytest.mark.parametrize("batch", [1, 5])
def test_the_sample_does_not_depend_on_the_batches(batch: int) -> None:
    whole, parts = sampled(12, per_class=40), sampled(batch, per_class=40)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_the_sample_is_balanced_distinct_and_knows_its_classes() -> None:
    features, classes = sampled(4, per_class=40)
    assert torch.bincount(classes).tolist() == [40, 24]  # all there are of class 1
    places = features[:, 0].long()
    assert len(set(places.tolist())) == 64
    _, labels = scenes()
    assert torch.equal(labels.flatten()[places], classes)
    assert torch.equal(features[:, 1], -features[:, 0])


def test_the_sample_is_even_over_clips_and_changes_with_the_seed() -> None:
    counts = np.zeros(12)
    for seed in range(40):
        features, classes = sampled(12, per_class=60, seed=seed)
        places = features[classes == 0, 0].long().numpy() // 48
        counts += np.bincount(places, minlength=12)
    assert counts.sum() == 40 * 60
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < 31.3  # 99.9 % of a χ² with 11 degrees of freedom


def test_numbers_of_separate_clusters_and_what_is_missing() -> None:
    """Pixels of class c all point along axis c, half of them twice as long: unit vectors coincide."""
    labels = (torch.arange(96) % 3).view(2, 6, 8)
    lengths = 1 + torch.arange(96).view(2, 1, 6, 8).div(3, rounding_mode="floor") % 2
    features = torch.nn.functional.one_hot(labels).movedim(-1, 1).float() * lengths
    metric = FeatureSpace(queries_per_class=None)
    metric.update(features, labels)
    found = metric.compute()
    assert found["sigma_intra"].item() == pytest.approx(0.25)
    assert found["sigma_inter"].item() == pytest.approx(1.5**2 * 2 / 3)
    assert found["sigma_intra_normalized"].item() == pytest.approx(0, abs=1e-12)
    assert found["sigma_inter_normalized"].item() == pytest.approx(2 / 3)
    assert found["purity"]["20"].item() == pytest.approx(100)
    assert found["purity"]["50"].item() == pytest.approx(100 * 31 / 50)
    assert math.isnan(found["purity"]["100"])
    # Half of each class coincides, the other half is 1 away; strangers are 1·√2, √5 or 2·√2 away.
    one, two = (math.sqrt(2) + math.sqrt(5)) / 2, (math.sqrt(5) + math.sqrt(8)) / 2
    own = 16 / 31
    assert found["silhouette"].item() == pytest.approx(((one - own) / one + (two - own) / two) / 2, rel=1e-5)


def test_fewer_queries_estimate_the_same() -> None:
    features, classes = clusters(4, 200, 6, 0.45)
    exact = neighbour_purity(features, classes, (10,)).item()
    metric = FeatureSpace(queries_per_class=60)
    shuffled = torch.randperm(800, generator=torch.Generator().manual_seed(0))
    metric.update(features[shuffled].T.reshape(1, 6, 20, 40), classes[shuffled].view(1, 20, 40))
    assert metric.compute()["purity"]["10"].item() == pytest.approx(exact, abs=6)


def test_the_plane_is_reproducible_and_keeps_clusters_apart() -> None:
    features, classes = clusters(4, 25, 60, 0.05)
    first, second = plane(features.numpy()), plane(features.numpy())
    assert first.shape == (100, 2)
    np.testing.assert_array_equal(first, second)
    assert neighbour_purity(torch.from_numpy(first), classes, (10,)).item() == 100
    assert plane(np.zeros((3, 5), np.float32)).shape == (3, 2)


def test_the_plane_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(StplError, match=r"scikit-learn[\s\S]*stpl\[report\]"):
        plane(np.zeros((9, 5), np.float32))
