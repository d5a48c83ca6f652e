"""Every method and evaluation with a network whose logits cannot be had from its features alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stpl.nn.accel import Accel
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.nn.segmenter import NORMALIZATIONS, Segmentation, Segmenter, on_grid, upsample
from stpl.runs.fit import fit
from stpl.runs.record import read_record


def block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.BatchNorm2d(outside), nn.ReLU())


class UNet(Segmenter):
    """Two levels with a skip: features at 1/4 of the frames, logits at 1/2, BatchNorm in encoder and decoder."""

    level, stride, feature_dim = "bottom", 4, 12

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.normalization = num_classes, NORMALIZATIONS["imagenet"]
        self.stem, self.down = block(3, 8, 2), block(8, 12, 2)
        self.up, self.head = block(20, 8), nn.Conv2d(8, num_classes, 1)

    def forward(self, frames: Tensor) -> Segmentation:
        skip = self.stem(self.normalize(frames))
        features = self.down(skip)
        rising = nn.functional.interpolate(features, size=skip.shape[-2:], mode="nearest")
        return Segmentation(features, self.head(self.up(torch.cat([skip, rising], 1))))


@pytest.mark.parametrize("momentum", ["0.1", "null"])
@pytest.mark.parametrize("experiment", ["batchnorm_augmented", "self_training", "stpl", "naive", "oracle"])
def test_runs_end_and_are_recorded(
    experiment: str, momentum: str, tiny_run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stpl.training.base.build_network", lambda options: Accel(UNet(options.space.num_classes)))
    options = tiny_run(experiment, "--start_from=null", f"--batchnorm.momentum={momentum}", steps=2)
    record = read_record(fit(options))
    assert record is not None
    assert record["last"]["miou"] > 0
    assert record["last"]["feature_space"]


def test_features_of_another_level(tiny_run: Callable[..., list[str]]) -> None:
    """What the contrast sees is another stage's output; the checkpoint of a run with the usual one still fits."""
    source: Path = fit(tiny_run("source", steps=2))
    folder = fit(tiny_run("stpl", "--network.level=layer3", steps=2))
    assert "level: layer3" in (folder / "config.yaml").read_text()
    assert (source / "result.json").exists()
    network = DeepLabV2(3, 18, 4, dilations=(1,), level="layer3").eval()
    frames = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    seen = network(frames)
    assert seen.features.shape[1] == network.feature_dim == network.backbone.middle_dim
    assert torch.equal(network.encode(frames), seen.features)
    assert NetworkOptions.from_dict({"dilations": [1]}).level == "layer4"  # as older checkpoints do not say


def test_logits_move_to_another_grid_only_if_they_must() -> None:
    logits = torch.randn(1, 2, 5, 7)
    assert on_grid(logits, (5, 7)) is logits
    assert torch.equal(on_grid(logits, (9, 13)), upsample(logits, (9, 13)))
