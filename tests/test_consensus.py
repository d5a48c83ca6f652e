"""Consensus: what it minimises, what of the network learns, and what every method must keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from random_clips import clips
from stpl.data.clip import Batch
from stpl.errors import ConfigError
from stpl.methods.consensus import Consensus, normalization_parameters
from stpl.methods.optimization import OptimizerOptions
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.network import NetworkOptions
from stpl.testing import check_method

SMALL = NetworkOptions(18, 8, (1, 2))


def consensus(**options: object) -> Consensus:
    torch.manual_seed(3)
    return Consensus(SMALL, OptimizerOptions(name="relative"), batchnorm=BatchNormOptions("train"), **options)  # type: ignore[arg-type]


def test_conforms(tiny_streets: Path, tmp_path: Path) -> None:
    """That two processes train as one is shown in tests/test_baselines.py."""
    golden = [-0.276952, -0.165956, -0.239545, -0.261682]
    check_method("consensus", tmp_path, golden=golden, ranks=False, streets=tiny_streets)


def test_losses_by_a_loop_over_pixels() -> None:
    method, clip = consensus(diversity=0.7, target="probabilities"), clips(1)
    losses = method.losses(Batch(clip))
    assert clip.augmented is not None
    with torch.no_grad():
        teacher = method.teacher.network.segment(clip.frames[:, -1]).logits.softmax(1)
        student = method.network.segment(clip.augmented[:, -1]).logits.softmax(1)
    count, mean, total = 0, torch.zeros(student.shape[1]), torch.zeros(())
    for image, row, column in torch.cartesian_prod(*(torch.arange(n) for n in student[:, 0].shape)).tolist():
        total -= (teacher[image, :, row, column] * student[image, :, row, column].log()).sum()
        mean += student[image, :, row, column]
        count += 1
    assert float(losses["agreement"].detach()) == pytest.approx(float(total / count), rel=1e-4)
    mean /= count
    assert float(losses["diversity"].detach()) == pytest.approx(float(0.7 * (mean * mean.log()).sum()), rel=1e-4)


def test_labels_are_the_surest_pixels_of_each_class() -> None:
    method, clip = consensus(confident_proportion=0.5), clips(1)
    assert clip.augmented is not None
    loss = float(method.losses(Batch(clip))["agreement"].detach())
    with torch.no_grad():
        sure, labels = method.voted(clip).max(1)
        log_p = method.network.segment(clip.augmented[:, -1]).logits.log_softmax(1)
    found = []
    for image in range(len(labels)):
        for label in sorted(set(labels[image].flatten().tolist())):
            places = (labels[image] == label).nonzero().tolist()
            places.sort(key=lambda place: -float(sure[image, place[0], place[1]]))
            quota = max(1, round(0.5 * len(places)))
            found += [-float(log_p[image, label, row, column]) for row, column in places[:quota]]
    assert loss == pytest.approx(sum(found) / len(found), rel=1e-4)


def test_a_vote_counts_where_the_previous_frame_shows_the_same() -> None:
    """Two votes: their mean where the colours along the flow agree and the flow stays inside, else the current one."""
    method, clip = consensus(votes=("current", "previous")), clips(4)
    assert clip.flow is not None
    still = replace(clip, frames=clip.frames[:, -1:].expand_as(clip.frames), flow=torch.zeros_like(clip.flow))
    with torch.no_grad():
        alone = method.teacher.network.segment(clip.frames[:, -1]).logits.softmax(1)
        away = replace(clip, flow=torch.full_like(clip.flow, 1000.0))
        assert torch.allclose(method.voted(away), alone, atol=1e-5)
        assert torch.allclose(method.voted(still), alone, atol=1e-5)
        before = method.teacher.network.segment(clip.frames[:, -2]).logits.softmax(1)
        dark = replace(clip, frames=clip.frames // 32, flow=torch.zeros_like(clip.flow))  # all colours are alike
        now, then = (method.teacher.network.segment(dark.frames[:, place]).logits.softmax(1) for place in (-1, -2))
        assert torch.allclose(method.voted(dark), (now + then) / 2, atol=1e-5)
    assert not torch.allclose(before, alone)


def test_only_normalisation_learns() -> None:
    """And all of the network where it is told so; the teacher never does."""
    method = consensus()
    affine = {
        id(p) for layer in method.network.modules() if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()
    }
    assert affine
    assert {id(p) for p in method.parameters() if p.requires_grad} == affine
    everything = consensus(learns="all")
    assert all(p.requires_grad for p in everything.network.parameters())
    assert not any(p.requires_grad for p in everything.teacher.parameters())


def test_layers_that_normalise() -> None:
    layers = [nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, affine=True)]
    assert sum(1 for _ in normalization_parameters(nn.Sequential(*layers))) == 6
    assert not list(normalization_parameters(nn.Conv2d(3, 4, 1)))


def test_a_still_scene_under_no_augmentation_asks_for_nothing_but_certainty_of_the_mean() -> None:
    """Student and teacher see the same: agreement is then the entropy, the least that it can be for that teacher."""
    method, clip = consensus(target="probabilities"), clips(2)
    same = replace(clip, augmented=clip.frames)
    with torch.no_grad():
        p = method.teacher.network.segment(clip.frames[:, -1]).logits.softmax(1)
        entropy = -(p * p.log()).sum(1).mean()
        losses = method.losses(Batch(same))
        other = method.losses(Batch(clips(2)))
    assert float(losses["agreement"]) == pytest.approx(float(entropy), rel=1e-4)
    assert float(other["agreement"]) >= float(losses["agreement"]) - 1e-6


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="diversity"):
        consensus(diversity=-1.0)
    with pytest.raises(ConfigError, match="nobody votes"):
        consensus(votes=())
