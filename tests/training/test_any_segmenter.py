"""Every method and evaluation with a network whose logits cannot be had from its features alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stpl
from stpl.errors import CheckpointError
from stpl.nn import weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.nn.segmenter import NORMALIZATIONS, Architecture, Segmentation, Segmenter, on_grid, upsample
from stpl.runs.build import build
from stpl.runs.fit import fit
from stpl.runs.record import read_record
from toy_transformer import ToyTransformer


def block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.BatchNorm2d(outside), nn.ReLU())


class UNetSegmenter(Segmenter):
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


@dataclass(frozen=True)
class UNet(Architecture):
    def build(self, num_classes: int) -> UNetSegmenter:
        return UNetSegmenter(num_classes)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", ["0.1", "null"])
@pytest.mark.parametrize(
    "experiment", ["batchnorm_augmented", "self_training", "stpl", "naive", "oracle", "ur", "da_vsn"]
)
def test_runs_end_and_are_recorded(experiment: str, momentum: str, tiny_run: Callable[..., list[str]]) -> None:
    network = f"--network.architecture={UNet.__module__}.UNet"
    options = tiny_run(experiment, network, "--start_from=null", f"--batchnorm.momentum={momentum}", steps=2)
    record = read_record(fit(options))
    assert record is not None
    assert record["last"]["miou"] > 0
    assert record["last"]["feature_space"]


@pytest.mark.slow
def test_features_of_another_level(tiny_run: Callable[..., list[str]]) -> None:
    """What the contrast sees is another stage's output; the checkpoint of a run with the usual one still fits."""
    source: Path = fit(tiny_run("source", steps=2))
    folder = fit(tiny_run("stpl", "--network.architecture.level=layer3", steps=2))
    assert "level: layer3" in (folder / "config.yaml").read_text()
    assert (source / "result.json").exists()
    network = DeepLabV2(18, 4, (1,), level="layer3").build(3).eval()
    frames = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    seen = network(frames)
    assert seen.features.shape[1] == network.feature_dim == network.backbone.middle_dim
    assert torch.equal(network.encode(frames), seen.features)
    assert DeepLabV2().level == "layer4"


def test_logits_move_to_another_grid_only_if_they_must() -> None:
    logits = torch.randn(1, 2, 5, 7)
    assert on_grid(logits, (5, 7)) is logits
    assert torch.equal(on_grid(logits, (9, 13)), upsample(logits, (9, 13)))


@pytest.mark.slow
def test_a_transformer_is_one_file_and_one_overlay(tiny_run: Callable[..., list[str]], tmp_path: Path) -> None:
    """Its groups, its score fusion and its options go all the way from the overlay to the checkpoint and back."""
    overlay = tmp_path / "toy.yaml"
    overlay.write_text(
        "network:\n  architecture:\n    class_path: toy_transformer.ToyTransformer\n    init_args:\n      patch: 4\n"
    )
    options = tiny_run("stpl", f"-c={overlay}", "--start_from=null", "--optimizer.head_factor=10", steps=2)
    cli, _ = build(options)
    lr, groups = cli.model.optimizer_options.lr, cli.model.parameter_groups()
    found = {group["name"]: (len(group["params"]), group["lr"] / lr, group.get("weight_decay")) for group in groups}
    assert {name: found[name] for name in list(found)[:4]} == {
        "backbone": (10, 1, None), "backbone without decay": (5, 1, 0.0), "score_fusion": (1, 1, None),
        "classifiers": (2, 10, None),
    }  # fmt: skip
    checkpoint = fit(options) / "checkpoints" / "last.ckpt"
    network = stpl.load(checkpoint, builder="toy_transformer:ToyTransformer")
    assert network.options.architecture == ToyTransformer(patch=4, width=8)
    assert len(list(network.predict(np.zeros((2, 32, 48, 3), np.uint8)))) == 2
    with pytest.raises(CheckpointError, match="is of the network ToyTransformer, not of DeepLabV2"):
        weights.load(checkpoint, build_network(NetworkOptions()), options=NetworkOptions())


def test_no_checkpoint_has_code_imported(tmp_path: Path) -> None:
    described = weights.description(NetworkOptions(DeepLabV2(18, 4)), (32, 48), 0)
    described["network"]["architecture"]["class_path"] = "own_networks.Dictionary"
    torch.save({"stpl": described, "state_dict": {}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"nothing that a file names is called\n.*own_networks:Dictionary"):
        stpl.load(tmp_path / "x.ckpt")
