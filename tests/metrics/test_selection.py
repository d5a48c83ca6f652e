from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stpl.metrics.selection import (
    NegativeEntropy,
    SoftNeighborhoodDensity,
    soft_neighborhood_density,
    validators,
)


def density_by_loops(vectors: Tensor, temperature: float) -> float:
    rows = vectors.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    entropies = []
    for i, row in enumerate(rows):
        weights = np.array([math.exp(row @ other / temperature) for j, other in enumerate(rows) if j != i])
        shares = weights / weights.sum()
        entropies.append(-(shares * np.log(shares)).sum())
    return float(np.mean(entropies))


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_density_is_that_of_double_loops(temperature: float) -> None:
    vectors = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    found = soft_neighborhood_density(vectors, temperature).item()
    assert found == pytest.approx(density_by_loops(vectors, temperature), rel=1e-5)


def test_density_of_one_and_of_two_clusters() -> None:
    """All alike: everyone is a neighbour. Two tight clusters of m: the m - 1 others of one's own."""
    assert soft_neighborhood_density(torch.ones(12, 3)).item() == pytest.approx(math.log(11))
    two = torch.eye(2).repeat_interleave(6, dim=0)
    near, far = 5 * math.exp(1 / 0.05), 6.0
    share = near / (near + far)
    expected = share * math.log(5 / share) + (1 - share) * math.log(6 / (1 - share))
    assert soft_neighborhood_density(two).item() == pytest.approx(expected, rel=1e-6)


def logits(clips: int) -> Tensor:
    return 3 * torch.randn(clips, 4, 5, 7, generator=torch.Generator().manual_seed(1))


def test_density_takes_a_sample_that_does_not_depend_on_the_batches() -> None:
    whole, parts = SoftNeighborhoodDensity(50), SoftNeighborhoodDensity(50)
    whole.update(logits(6))
    for clip in logits(6):
        parts.update(clip[None])
    assert len(whole.sample()[0]) == 50
    assert parts.compute().item() == whole.compute().item()
    everything = SoftNeighborhoodDensity(1000)
    everything.update(logits(6))
    pixels = logits(6).softmax(1).movedim(1, -1).reshape(-1, 4)
    assert everything.compute().item() == pytest.approx(soft_neighborhood_density(pixels).item(), rel=1e-5)


def test_density_of_one_pixel_is_zero() -> None:
    metric = SoftNeighborhoodDensity()
    metric.update(torch.zeros(1, 4, 1, 1))
    assert metric.compute().item() == 0


def test_entropy_knows_its_extremes() -> None:
    metric = NegativeEntropy(4)
    metric.update(torch.eye(4).view(1, 4, 2, 2) * 100)
    assert metric.compute().item() == pytest.approx(0, abs=1e-6)
    metric.reset()
    metric.update(torch.zeros(1, 4, 2, 2))
    assert metric.compute().item() == pytest.approx(-math.log(4))


def test_validators_are_told_apart_by_a_collapse() -> None:
    """A network that calls everything class 1 looks perfect to entropy and density, and worthless to information."""
    collapsed = torch.zeros(1, 4, 5, 5)
    collapsed[:, 1] = 100
    diverse = torch.eye(4)[torch.arange(25) % 4].T.reshape(1, 4, 5, 5) * 100
    found = {}
    for name, batch in (("collapsed", collapsed), ("diverse", diverse)):
        metrics = validators(4)
        for metric in metrics.values():
            metric.update(batch)
        found[name] = {key: float(metric.compute()) for key, metric in metrics.items()}
    assert set(found["diverse"]) == {"information_maximization", "soft_neighborhood_density", "negative_entropy"}
    assert found["collapsed"]["information_maximization"] < found["diverse"]["information_maximization"] - 1
    assert found["collapsed"]["soft_neighborhood_density"] > found["diverse"]["soft_neighborhood_density"] + 1
    assert found["collapsed"]["negative_entropy"] == pytest.approx(found["diverse"]["negative_entropy"], abs=1e-6)
