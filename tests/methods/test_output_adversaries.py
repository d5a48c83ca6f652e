"""AdaptSegNet, ADVENT and MinEnt: what every method must keep, and their numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from random_clips import clips
from stpl.data.clip import Batch, Clip
from stpl.errors import ConfigError
from stpl.methods import RDA, AdaptSegNet, AdvEnt, MinEnt
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.discriminator import DiscriminatorOptions
from stpl.nn.network import NetworkOptions
from stpl.testing import check_method

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2), auxiliary=True))
NARROW = "--model.discriminator.width=4"
RATE = "--optimizer.lr=6.0e-4"  # whatever a search finds for streets


@pytest.mark.long
def test_adversaries_conform(tiny_streets: Path, tmp_path: Path) -> None:
    here: Any = {"source": True, "ranks": False, "streets": tiny_streets}
    check_method("adaptsegnet", tmp_path / "seg", RATE, NARROW, golden=[3.55766, 3.43814, 3.39686, 3.26924], **here)
    check_method("iast_warmup", tmp_path / "iast", RATE, NARROW, golden=[3.35451, 3.23472, 3.19315, 3.06533], **here)
    check_method("advent", tmp_path / "advent", RATE, NARROW, golden=[3.55765, 3.43813, 3.39684, 3.26924], **here)


@pytest.mark.slow
def test_minent_conforms(tiny_streets: Path, tmp_path: Path) -> None:
    here: Any = {"ranks": False, "streets": tiny_streets}
    golden = [0.000987975, 0.000988137, 0.000987607, 0.000987575]  # λ_ent is 0.001
    check_method("minent", tmp_path / "minent", RATE, golden=[2.86478, 2.74524, 2.70396, 2.57635], source=True, **here)
    check_method("minent_target", tmp_path / "target", RATE, golden=golden, **here)


@pytest.fixture
def batch() -> Batch:
    return Batch(clips(1, (64, 96)), source=clips(2, (64, 96)))


def fused(method: Any, clip: Clip) -> list[Tensor]:
    """Each classifier's prediction at the frames' size, in float64."""
    scores = method.network.fused_scores(clip)
    return [F.interpolate(s.double(), clip.size, mode="bilinear", align_corners=True) for s in scores]


def released_entropy(logits: Tensor) -> Tensor:
    """As ADVENT's code has it, which needs a constant in the logarithm."""
    p = logits.softmax(1)
    return -p * torch.log2(p + 1e-30) / math.log2(logits.shape[1])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bce", "lsgan"])
@pytest.mark.parametrize(
    ("method", "maps"), [(AdaptSegNet, lambda logits: logits.softmax(1)), (AdvEnt, released_entropy)]
)
def test_the_adversaries_of_both_classifiers(method: Any, maps: Any, kind: Any, batch: Batch) -> None:
    """Against the formulas, written out: source is 0 and target 1."""
    made = method(network=SMALL, kind=kind, discriminator=DiscriminatorOptions(width=4)).eval()
    assert batch.source is not None

    def distance(scores: Tensor, label: float) -> float:
        if kind == "lsgan":
            return float((scores - label).square().mean())
        p = scores.sigmoid()
        return -float((label * p.log() + (1 - label) * (1 - p).log()).mean())

    found = made.losses(batch)
    for of, weight, there, here in zip(
        ("main", "auxiliary"), (0.001, 0.0002), fused(made, batch.source), fused(made, batch.target), strict=True
    ):
        judge = made.discriminators[of].double()
        source, target = judge(maps(there)), judge(maps(here))
        judge.float()
        assert found[f"adversarial {of}"].item() == pytest.approx(weight * distance(target, 0.0), rel=1e-5)
        own = 0.5 * distance(source, 0.0) + 0.5 * distance(target, 1.0)
        assert found[f"discriminator {of}"].item() == pytest.approx(own, rel=1e-5)
    assert set(found) == {
        *("cross_entropy", "auxiliary"),
        *(f"{side} {of}" for side in ("adversarial", "discriminator") for of in ("main", "auxiliary")),
    }


@torch.no_grad()
def test_the_entropy_of_both_classifiers(batch: Batch) -> None:
    made = MinEnt(network=SMALL).eval()
    found = made.losses(batch)
    main, auxiliary = (float(released_entropy(logits).sum(1).mean()) for logits in fused(made, batch.target))
    assert found["entropy"].item() == pytest.approx(0.001 * main, rel=1e-5)
    assert found["auxiliary entropy"].item() == pytest.approx(0.0002 * auxiliary, rel=1e-5)
    assert {"cross_entropy", "auxiliary"} <= set(found)
    alone = MinEnt(network=SMALL, source_free=True)
    assert alone.source_wants is None
    assert set(alone.losses(Batch(batch.target))) == {"entropy", "auxiliary entropy"}


def test_a_discriminator_of_fifteen_classes_has_the_size_of_the_papers() -> None:
    made = AdaptSegNet(network=NetworkOptions(DeepLabV2(18, 8, (1, 2))))
    assert list(made.discriminators) == ["main"]
    assert sum(parameter.numel() for parameter in made.judge("main").parameters()) == 2_777_025


def test_settings_out_of_range_are_refused() -> None:
    for method, settings in ((AdaptSegNet, {"adversarial_weight": -1.0}), (MinEnt, {"entropy_weight": -1.0})):
        with pytest.raises(ConfigError, match="-1"):
            method(network=SMALL, **settings)  # type: ignore[arg-type]


def test_rda_has_the_adversaries_of_advent() -> None:
    made = RDA(network=SMALL, adversarial_weight=0.01, discriminator=DiscriminatorOptions(width=4))
    assert isinstance(made, AdvEnt)
    assert made.adversarial_weights == {"main": 0.01, "auxiliary": 0.0002}
