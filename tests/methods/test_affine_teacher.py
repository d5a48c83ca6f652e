"""Affine teacher: what it minimises, what of the network learns, and what every method must keep."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from random_clips import clips
from stpl.data.clip import Batch
from stpl.methods.affine_teacher import AffineTeacher, normalization_parameters
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.testing import check_method
from stpl.training.optimization import OptimizerOptions

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))


def affine_teacher() -> AffineTeacher:
    torch.manual_seed(3)
    optimizer, batchnorm = OptimizerOptions(name="relative"), BatchNormOptions("train")
    return AffineTeacher(
        network=SMALL, optimizer=optimizer, batchnorm=batchnorm, confident_proportion=0.5, confident_scope="class"
    )


@pytest.mark.slow
def test_conforms(tiny_streets: Path, tmp_path: Path) -> None:
    """That two processes train as one is shown in tests/methods/test_baselines.py."""
    check_method(
        "affine_teacher", tmp_path, golden=[2.42359, 2.53477, 2.47022, 2.43838], ranks=False, streets=tiny_streets
    )


def test_labels_are_the_surest_pixels_of_each_class() -> None:
    method, clip = affine_teacher(), clips(1)
    assert clip.augmented is not None
    loss = float(method.losses(Batch(clip))["affine_teacher"].detach())
    with torch.no_grad():
        sure, labels = method.teacher.network.segment(clip.frames[:, -1]).logits.softmax(1).max(1)
        log_p = method.network.segment(clip.augmented[:, -1]).logits.log_softmax(1)
    found = []
    for image in range(len(labels)):
        for label in sorted(set(labels[image].flatten().tolist())):
            places = (labels[image] == label).nonzero().tolist()
            places.sort(key=lambda place: -float(sure[image, place[0], place[1]]))
            quota = max(1, round(0.5 * len(places)))
            found += [-float(log_p[image, label, row, column]) for row, column in places[:quota]]
    assert loss == pytest.approx(sum(found) / len(found), rel=1e-4)


def test_only_normalisation_learns() -> None:
    """Of the student; the teacher takes no gradient at all."""
    method = affine_teacher()
    norms = [layer for layer in method.network.modules() if isinstance(layer, nn.BatchNorm2d)]
    affine = {id(parameter) for layer in norms for parameter in layer.parameters()}
    assert affine
    assert {id(parameter) for parameter in method.parameters() if parameter.requires_grad} == affine


def test_layers_that_normalise() -> None:
    layers = [nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, affine=True)]
    assert sum(1 for _ in normalization_parameters(nn.Sequential(*layers))) == 6
    assert not list(normalization_parameters(nn.Conv2d(3, 4, 1)))
