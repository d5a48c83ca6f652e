"""TENT and CoTTA: what they minimise, by hand and by another library, and what every method must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from random_clips import clips
from stpl.data.clip import Batch
from stpl.errors import ConfigError
from stpl.methods import TENT, CoTTA
from stpl.nn.batchnorm import BatchNormOptions, batchnorm_layers, statistics_of
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.testing import check_method
from stpl.training.optimization import OptimizerOptions

SHARED: dict[str, Any] = {
    "network": NetworkOptions(DeepLabV2(18, 8, (1, 2))),
    "optimizer": OptimizerOptions(),
    "batchnorm": BatchNormOptions("train"),
}
RATE = "--optimizer.lr=6.0e-4"


@pytest.mark.slow
def test_they_conform(tiny_streets: Path, tmp_path: Path) -> None:
    """That two processes train as one is shown in tests/methods/test_baselines.py."""
    here: Any = {"ranks": False, "streets": tiny_streets}
    check_method("tent", tmp_path / "tent", RATE, golden=[0.981076, 0.981919, 0.981183, 0.981184], **here)
    few = "--model.scales=[0.5,1.5]"
    check_method("cotta", tmp_path / "cotta", RATE, few, golden=[2.40337, 2.38879, 2.34903, 2.31222], **here)


def test_tent_minimises_the_entropy_of_the_fused_prediction() -> None:
    torch.manual_seed(0)
    method, clip = TENT(**SHARED), clips(1)
    found = method.losses(Batch(clip))["entropy"]
    with torch.no_grad():
        logits = method.network(clip)
    entropy: Tensor = Categorical(logits=logits.permute(0, 2, 3, 1)).entropy()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(entropy.mean().item() / np.log(15), rel=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    norms = {
        id(p) for layer in method.network.modules() if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()
    }
    assert {id(p) for p in method.parameters() if p.grad is not None and p.grad.any()} == norms


def cotta(**settings: Any) -> CoTTA:
    """With a start that is another network than the teacher."""
    torch.manual_seed(0)
    method = CoTTA(**SHARED, **settings)
    for layer in batchnorm_layers(method.start.network):
        nn.init.normal_(layer.weight)
    return method


def seen(method: CoTTA, image: Tensor) -> Tensor:
    """The teacher's probabilities of frames."""
    return method.teacher.network.segment(image).logits.softmax(1)


@torch.no_grad()
def test_cotta_averages_where_the_start_is_unsure() -> None:
    frames = clips(1).frame()
    sure = cotta().start.network.segment(frames).logits.softmax(1).max(1).values
    threshold = float(sure.median())
    method = cotta(scales=(1.5,), threshold=threshold)
    larger = F.interpolate(frames.float(), size=(72, 96), mode="bilinear", align_corners=True).round()
    views = [seen(method, frames), torch.from_numpy(seen(method, frames.flip(-1)).numpy()[..., ::-1].copy())]
    for view in (seen(method, larger), seen(method, larger.flip(-1)).flip(-1)):
        views.append(F.interpolate(view, size=views[0].shape[-2:], mode="bilinear", align_corners=True))
    mean = sum(views) / 4
    assert isinstance(mean, Tensor)
    expected = torch.where(sure > threshold, views[0].argmax(1), mean.argmax(1))
    assert torch.equal(method.labels(frames), expected)
    assert (views[0].argmax(1) != mean.argmax(1)).any()
    loss = method.losses(Batch(clips(1)))["cotta"]
    log_p = method.network.segment(frames).logits.log_softmax(1)
    assert loss.item() == pytest.approx(-log_p.gather(1, expected[:, None]).mean().item(), rel=1e-5)


@torch.no_grad()
def test_only_frames_as_they_are_move_the_teachers_statistics() -> None:
    frames, statistics = clips(1).frame(), []
    for scales in ((), (0.5, 2.0)):
        method = cotta(scales=scales)
        method.labels(frames)
        statistics.append([value.clone() for value in statistics_of(batchnorm_layers(method.teacher.network))])
    assert all(map(torch.equal, *statistics))


def test_the_start_stays_and_the_teacher_follows_from_the_first_step() -> None:
    method = cotta()
    start = [p.clone() for p in method.start.network.parameters()]
    teacher = next(method.teacher.network.parameters()).clone()
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(1)
    for part in (method.teacher, method.start):
        part.follow(method.network, 0)
    assert all(map(torch.equal, start, method.start.network.parameters()))
    torch.testing.assert_close(next(method.teacher.network.parameters()), teacher + 0.001)


@pytest.mark.parametrize(("name", "value"), [("scales", (0.0,)), ("threshold", -1.0), ("restoration", 1.5)])
def test_settings_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"model.{name}"):
        CoTTA(**SHARED, **{name: value})
