from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, recall_score

from stpl.data.label_space import SPACES, label_space
from stpl.metrics.segmentation import PROTOCOLS, SegmentationMetrics, confusion_matrix
from stpl.metrics.selection import InformationMaximization


def random_pair(classes: int, absent: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(classes)
    names = [c for c in range(classes) if c not in absent]
    label = rng.choice(names, (3, 9, 11))
    prediction = np.where(rng.random(label.shape) < 0.6, label, rng.choice(names, label.shape))
    label[rng.random(label.shape) < 0.2] = 255
    return torch.from_numpy(prediction), torch.from_numpy(label)


@pytest.mark.parametrize("absent", [(), (2,), (0, 4)])
def test_iou_equals_scikit_learn_s(absent: tuple[int, ...]) -> None:
    prediction, label = random_pair(6, absent)
    metrics = SegmentationMetrics(6)
    for p, y in zip(prediction, label, strict=True):
        metrics.update(p[None], y[None])
    found = metrics.compute()
    keep = (label != 255).numpy()
    truth, guess = label.numpy()[keep], prediction.numpy()[keep]
    present = [c for c in range(6) if c not in absent]
    expected = 100 * jaccard_score(truth, guess, labels=present, average=None)
    np.testing.assert_allclose(found["iou"][present], expected, rtol=1e-12)
    assert all(math.isnan(found["iou"][c]) for c in absent)
    assert found["miou"].item() == pytest.approx(expected.mean())
    assert found["accuracy"].item() == pytest.approx(100 * (truth == guess).mean())
    recalls = 100 * recall_score(truth, guess, labels=present, average=None)
    assert found["class_accuracy"].item() == pytest.approx(recalls.mean())


def test_iou_by_hand() -> None:
    metrics = SegmentationMetrics(3)
    metrics.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 255]]]))
    found = metrics.compute()
    assert found["iou"][:2].tolist() == [50.0, 50.0]
    assert math.isnan(found["iou"][2])
    assert found["miou"].item() == 50.0


def test_a_class_predicted_but_never_true_counts_as_zero() -> None:
    metrics = SegmentationMetrics(2)
    metrics.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    assert metrics.compute()["iou"].tolist() == [50.0, 0.0]


def test_unreported_classes_stay_out_of_the_mean() -> None:
    prediction, label = random_pair(4)
    every, some = SegmentationMetrics(4), SegmentationMetrics(4, reported=[0, 1, 3])
    every.update(prediction, label)
    some.update(prediction, label)
    assert some.compute()["miou"].item() == pytest.approx(every.compute()["iou"][[0, 1, 3]].mean().item())


@pytest.mark.parametrize("name", ["viper15-unified", "synthia12-unified"])
def test_the_unified_protocol_drops_unreported_classes_by_truth_and_by_prediction(name: str) -> None:
    """Against the definition in UnifiedVideoDA: mask pixels, then count."""
    space = label_space(name)
    prediction, label = random_pair(space.num_classes)
    metrics = SegmentationMetrics.of(space)
    metrics.update(prediction, label)
    found = metrics.compute()
    unreported = [i for i in range(space.num_classes) if i not in space.reported]
    assert [space.classes[i] for i in unreported] == (["fence"] if name.startswith("synthia") else [])
    kept = ~(np.isin(label, [*unreported, 255]) | np.isin(prediction, unreported))
    reported = list(space.reported)
    expected = 100 * jaccard_score(label.numpy()[kept], prediction.numpy()[kept], labels=reported, average=None)
    np.testing.assert_allclose(found["iou"][reported], expected, rtol=1e-12)
    assert found["miou"].item() == pytest.approx(expected.mean())
    lineage = SegmentationMetrics.of(label_space(name.removesuffix("-unified")))
    lineage.update(prediction, label)
    assert (found["miou"] > lineage.compute()["miou"]) == bool(unreported)  # errors into a dropped class are free


def test_every_space_names_a_protocol() -> None:
    assert {space.protocol for space in SPACES.values()} == set(PROTOCOLS)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_matrix(torch.zeros(1, 2).long(), torch.zeros(2, 1).long(), 3)


def test_information_maximization_knows_its_extremes() -> None:
    score = InformationMaximization(4)
    sure = torch.eye(4).view(1, 4, 2, 2) * 100
    score.update(sure)
    assert score.compute().item() == pytest.approx(math.log(4))
    score.reset()
    score.update(sure[:, [0, 0, 0, 0]])  # every class equally likely everywhere
    assert score.compute().item() == pytest.approx(0, abs=1e-6)
    score.reset()
    collapsed = torch.zeros(1, 4, 2, 2)
    collapsed[:, 1] = 100
    score.update(collapsed)
    assert score.compute().item() == pytest.approx(0, abs=1e-6)
