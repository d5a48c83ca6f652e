"""Affine teacher: what it minimises, what of the network learns, and what every method must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from random_clips import clips
from stpl.data.clip import BACKWARD, IGNORE, Batch
from stpl.errors import ConfigError
from stpl.losses.cross_entropy import balanced_cross_entropy, cross_entropy
from stpl.methods.affine_teacher import AffineTeacher
from stpl.methods.tent import normalization_parameters
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.nn.segmenter import grid_of
from stpl.nn.teacher import restore
from stpl.nn.warp import resize_flow, warp
from stpl.testing import check_method
from stpl.training.optimization import OptimizerOptions

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))


def affine_teacher(**settings: Any) -> AffineTeacher:
    torch.manual_seed(3)
    shared: dict[str, Any] = {"confident_proportion": 0.5, "confident_scope": "class"}
    optimizer, batchnorm = OptimizerOptions(name="relative"), BatchNormOptions("train")
    return AffineTeacher(network=SMALL, optimizer=optimizer, batchnorm=batchnorm, **shared | settings)


def shake(method: AffineTeacher) -> None:
    """Have the teacher, whose features BatchNorm scales, be another network than the start."""
    with torch.no_grad():
        for parameter in normalization_parameters(method.teacher.network):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))


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


def test_all_parameters_may_learn() -> None:
    method = affine_teacher(learns="all")
    assert all(parameter.requires_grad for parameter in method.network.parameters())
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


@torch.no_grad()
def test_whose_pseudo_labels_are_used() -> None:
    clip, chosen, found = clips(1), {}, {}
    for trust in ("teacher", "average", "agreement", "confidence", "time"):
        method = affine_teacher(trust=trust)
        assert (method.start is None) == (trust in ("teacher", "time"))
        shake(method)
        teacher = method.teacher.network
        prediction = teacher.segment(clip.frame()).logits
        found[trust], chosen[trust] = method._choose(prediction, clip)
    start = affine_teacher().network.segment(clip.frame()).logits  # of the same seed, with statistics of the batch
    labels, sure = method.pseudo_labels(prediction, clip)
    assert torch.equal(found["teacher"], labels)
    assert torch.equal(chosen["teacher"], sure)
    mean = (prediction.softmax(1) + start.softmax(1)) / 2
    assert torch.equal(found["average"], mean.argmax(1))
    assert torch.equal(chosen["agreement"], sure & (start.argmax(1) == labels))
    assert 0 < chosen["agreement"].sum() < sure.sum()
    assert torch.equal(chosen["confidence"], method.pseudo_labels(start, clip)[1])
    assert torch.equal(found["confidence"], labels)
    before = teacher.segment(clip.frame(-1)).logits.argmax(1)
    flow = resize_flow(clip.flows[BACKWARD], grid_of(labels))
    says = warp((before[:, None] == torch.arange(15)[:, None, None]).float(), flow)
    agrees = torch.stack([says[:, label] > 0.5 for label in range(15)], 1).gather(1, labels[:, None])[:, 0]
    assert torch.equal(chosen["time"], sure & agrees)
    assert 0 < chosen["time"].sum() < sure.sum()


def test_classes_weigh_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, :2] = IGNORE
    labels[1] = IGNORE
    log_p = logits.log_softmax(1)
    for exponent in (1.0, 0.5):
        total = weight = 0.0
        for label in range(3):
            places = (labels[0] == label).nonzero().tolist()
            each = len(places) ** -exponent if places else 0.0
            total -= sum(each * float(log_p[0, label, y, x]) for y, x in places)
            weight += each * len(places)
        found = balanced_cross_entropy(logits, labels, exponent)
        assert found.item() == pytest.approx(total / weight / 2, rel=1e-5)  # a frame without labels counts with 0
    even = balanced_cross_entropy(logits[:1], labels[:1], 0.0)
    assert even.item() == pytest.approx(cross_entropy(logits[:1], labels[:1]).item(), rel=1e-6)


def test_weights_are_restored() -> None:
    method = affine_teacher(restoration=0.3)
    assert method.start is not None
    then = {name: value.clone() for name, value in method.network.named_parameters()}
    for parameter in method.network.parameters():
        parameter.data.add_(1)
    restore(method.network, method.start.network, 0.3, seed=5)
    moved = {name: value - then[name] for name, value in method.network.named_parameters()}
    learning = torch.cat([moved[n].flatten() for n, p in method.network.named_parameters() if p.requires_grad])
    assert 0.2 < (learning == 0).float().mean() < 0.4
    assert all((moved[name] != 0).all() for name, p in method.network.named_parameters() if not p.requires_grad)
    again = {name: value.clone() for name, value in method.network.named_parameters()}
    restore(method.network, method.start.network, 0.3, seed=5)
    assert all(torch.equal(again[name], value) for name, value in method.network.named_parameters())
    restore(method.network, method.start.network, 1.0, seed=6)
    assert all(torch.equal(then[name], p) for name, p in method.network.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "value"), [("trust", "nobody"), ("learns", "nothing"), ("restoration", 2.0)])
def test_settings_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"model.{name}"):
        affine_teacher(**{name: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("--model.trust=agreement", "--model.balance=0.5", "--model.restoration=0.1", "--model.learns=all"),
        ("--model.trust=time",),
    ],
)
def test_options_against_drift_conform(settings: tuple[str, ...], tiny_streets: Path, tmp_path: Path) -> None:
    check_method("affine_teacher", tmp_path, *settings, ranks=False, streets=tiny_streets)
