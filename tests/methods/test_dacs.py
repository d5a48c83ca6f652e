"""DACS and MIC: what every method must keep, and their parts against loops and by hand."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from random_clips import Says, clips
from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import IGNORE, Batch, Clip
from stpl.errors import ConfigError
from stpl.losses.cross_entropy import cross_entropy, weighted_cross_entropy
from stpl.methods.dacs import DACS, MIC, Masking, mean_colour
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.mixing import block_mask, class_mask
from stpl.nn.network import NetworkOptions
from stpl.nn.teacher import TeacherOptions
from stpl.testing import check_method
from stpl.training.optimization import OptimizerOptions

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2), auxiliary=True))
RATE = "--optimizer.lr=6.0e-4"
DATA = SimpleNamespace(datamodule=SimpleNamespace(augmentation=CrossFrameAugmentation()))


@pytest.mark.long
def test_they_conform(tiny_streets: Path, tmp_path: Path) -> None:
    here: Any = {"ranks": False, "streets": tiny_streets}
    check_method("dacs", tmp_path / "dacs", RATE, golden=[4.51813, 4.1946, 3.48299, 3.2757], source=True, **here)
    sure = "--model.threshold=0.0"  # a fresh network is sure of nothing
    golden = [8.08965, 7.90299, 7.69163, 7.39904]
    check_method("mic", tmp_path / "mic", RATE, sure, golden=golden, source=True, **here)
    check_method("mic_target", tmp_path / "target", RATE, sure, golden=[2.51369, 2.52191, 2.48877, 2.4789], **here)


# --- ClassMix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shown", "pasted"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_half_of_the_classes_rounded_up(shown: int, pasted: int) -> None:
    labels = (torch.arange(40) % shown).view(1, 5, 8) + 2
    labels[0, 0, 0] = IGNORE
    mask = class_mask(labels, torch.rand(1, 9, generator=torch.Generator().manual_seed(shown)))
    assert len(set(labels[mask].tolist())) == pasted
    assert not mask[labels == IGNORE].any()
    assert not set(labels[mask].tolist()) & set(labels[~mask].tolist())  # whole classes


def test_the_classes_with_the_smallest_numbers_are_pasted() -> None:
    labels = torch.tensor([[[0, 1, 3]], [[3, 3, 2]]])
    drawn = torch.tensor([[0.9, 0.1, 0.0, 0.5], [0.0, 0.1, 0.3, 0.2]])
    assert class_mask(labels, drawn).tolist() == [[[False, True, True]], [[True, True, False]]]


def test_mixed_clips_take_frame_flow_and_label_from_one_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """And pasted pixels weigh 1, the others what the teacher's labels do."""
    method = DACS(network=SMALL, optimizer=OptimizerOptions())
    target, source = clips(0), clips(1)
    judged = method.judged(target)
    judged.weights.fill_(0.25)
    seen: list[Clip] = []
    weighed: list[torch.Tensor] = []

    def shown(clip: Clip) -> Clip:
        seen.append(clip)
        return clip

    def lost(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        weighed.append(weights)
        return weighted_cross_entropy(logits, labels, weights)

    monkeypatch.setattr(method, "strong", shown)
    monkeypatch.setattr("stpl.methods.dacs.weighted_cross_entropy", lost)
    losses = method.mixing(target, source, judged)
    assert set(losses) == {"cross_entropy", "auxiliary", "mixed"}
    (mixed,), (weights,) = seen, weighed
    pasted = weights == 1
    assert set(weights.flatten().tolist()) == {0.25, 1.0}
    for at in (-1, 0):
        assert mixed.frame(at).equal(torch.where(pasted[:, None], source.frame(at), target.frame(at)))
    assert mixed.labels[0].equal(torch.where(pasted, source.labels[0], judged.labels))
    assert mixed.flows[0, -1].equal(torch.where(pasted[:, None], source.flows[0, -1], target.flows[0, -1]))


# --- the teacher's labels ---------------------------------------------------------------------------------------------


def test_labels_weigh_the_share_of_sure_pixels() -> None:
    method = DACS(network=SMALL, optimizer=OptimizerOptions(), top=0.25, bottom=0.5)
    p = torch.tensor([[0.99, 0.5], [0.97, 0.9]])
    logits = torch.stack([p, 1 - p]).log()[None]
    method.teacher.network = Says(logits)  # type: ignore[assignment]
    judged = method.judged(Clip(torch.zeros(1, 2, 3, 2, 2, dtype=torch.uint8)))
    assert judged.labels.tolist() == [[[0, 0], [0, 0]]]
    assert judged.weights.tolist() == [[[0.5, 0.5], [0.0, 0.0]]]  # round(0.25·2) is no row
    everywhere = DACS(network=SMALL, optimizer=OptimizerOptions())
    everywhere.teacher.network = method.teacher.network
    assert everywhere.judged(Clip(torch.zeros(1, 2, 3, 2, 2, dtype=torch.uint8))).weights.tolist() == [
        [[0.5, 0.5], [0.5, 0.5]]
    ]


def test_the_loss_is_a_mean_over_all_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 4, (2, 3, 5), generator=generator)
    labels[0, 0] = IGNORE
    weights = torch.rand(2, 3, 5, generator=generator)
    total = 0.0
    for b, y, x in np.ndindex(2, 3, 5):
        if labels[b, y, x] != IGNORE:
            total -= weights[b, y, x].item() * logits[b, :, y, x].log_softmax(0)[labels[b, y, x]].item()
    assert weighted_cross_entropy(logits, labels, weights).item() == pytest.approx(total / 30, rel=1e-5)
    known = (labels != IGNORE).double().mean().item()
    whole = weighted_cross_entropy(logits, labels, torch.ones(2, 3, 5)).item()
    assert whole == pytest.approx(cross_entropy(logits, labels).item() * known, rel=1e-5)
    assert weighted_cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]]), torch.ones(1)).item() == (
        pytest.approx(math.log(2) / 2)
    )


def test_the_teacher_is_the_student_at_first() -> None:
    method = DACS(network=SMALL, optimizer=OptimizerOptions(), teacher=TeacherOptions(decay=0.99))
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(1.0)
    method.teacher.follow(method.network, 0)
    pairs = zip(method.teacher.network.parameters(), method.network.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


# --- masking ----------------------------------------------------------------------------------------------------------


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_blocks_are_hidden_as_a_whole() -> None:
    hidden = block_mask((70, 133), 32, 0.7, [rng(0), rng(1)])
    assert hidden.shape == (2, 70, 133)
    for top in range(0, 70, 32):
        for left in range(0, 133, 32):
            part = hidden[:, top : top + 32, left : left + 32].flatten(1)
            assert (part.all(1) | ~part.any(1)).all()
    many = block_mask((400, 400), 2, 0.7, [rng(2)]).float().mean().item()
    assert many == pytest.approx(0.7, abs=0.01)
    assert not block_mask((16, 16), 4, 0.0, [rng(0)]).any()
    assert block_mask((16, 16), 4, 1.0, [rng(0)]).all()


@pytest.mark.parametrize("normalization", ["imagenet", "caffe"])
def test_what_is_hidden_is_zero_to_the_network(normalization: Any) -> None:
    options = NetworkOptions(DeepLabV2(18, 8, (1, 2), normalization=normalization))
    method = MIC(network=options, optimizer=OptimizerOptions(), masking=Masking(block=8))
    clip = clips(0)
    found = method.masked(clip)
    hidden = (found.frames != clip.frames).any(2)
    assert hidden[:, 0].equal(hidden[:, 1])  # the same blocks in both frames
    assert 0.4 < hidden.float().mean() < 0.95
    seen = method.network.segmenter.normalize(found.frames[:, 1])
    assert seen.abs().amax(1)[hidden[:, 1]].max() < 1e-4
    assert len(mean_colour(method.network)) == 3
    own = MIC(network=options, optimizer=OptimizerOptions(), masking=Masking(block=8, previous="own")).masked(clip)
    others = (own.frames != clip.frames).any(2)
    assert others[:, 1].equal(hidden[:, 1])
    assert not others[:, 0].equal(hidden[:, 0])


def test_masked_consistency_teaches_the_student_alone() -> None:
    method = MIC(network=SMALL, optimizer=OptimizerOptions(), source_free=True, threshold=0.0, masking=Masking(block=8))
    assert method.source_wants is None
    method._trainer = DATA  # type: ignore[assignment]
    losses = method.losses(Batch(clips(0)))
    assert set(losses) == {"masked"}
    torch.autograd.backward(losses["masked"])
    assert any(p.grad is not None and p.grad.any() for p in method.network.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())
    both = MIC(network=SMALL, optimizer=OptimizerOptions(), masking=Masking(block=8))
    both._trainer = DATA  # type: ignore[assignment]
    assert set(both.losses(Batch(clips(0), clips(1)))) == {"cross_entropy", "auxiliary", "mixed", "masked"}


@pytest.mark.parametrize(
    "settings", [{"threshold": 1.5}, {"mixed_weight": -1}, {"top": 2.0}, {"bottom": -0.1}, {"masked_weight": -1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MIC(network=SMALL, **settings)


@pytest.mark.parametrize("settings", [{"block": 0}, {"share": 1.1}, {"previous": "none"}])
def test_masks_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Masking(**settings)
