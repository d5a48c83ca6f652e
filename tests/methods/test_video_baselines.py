"""TPS, RDA and both phases of VAT-VST: what every method must keep, and their numbers."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from histograms import histogram_of
from random_clips import Says, clips
from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import BACKWARD, IGNORE, Batch, Clip
from stpl.errors import ConfigError
from stpl.losses.tube import tube_matching
from stpl.methods.iast import sure
from stpl.methods.tps import TPS, made_grey
from stpl.methods.vat_vst import VAT, VST, aggregated, groups
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.discriminator import DiscriminatorOptions
from stpl.nn.mixing import mirrored
from stpl.nn.network import NetworkOptions
from stpl.nn.segmenter import upsample
from stpl.nn.style import match_histogram
from stpl.nn.warp import warp
from stpl.testing import check_method
from stpl.training.offline_pseudo_labels import Predictions
from stpl.training.optimization import OptimizerOptions
from stpl.training.supervision import adversarial_losses

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2), auxiliary=True))
NARROW = "--model.discriminator.width=4"
RATE = "--optimizer.lr=6.0e-4"  # whatever a search finds for streets; so too the settings of the papers below


@pytest.mark.long
def test_they_conform(tiny_streets: Path, tmp_path: Path) -> None:
    here: Any = {"source": True, "ranks": False, "streets": tiny_streets}
    check_method(
        "tps", tmp_path / "tps", RATE, "--model.weight=1.0", golden=[5.45033, 5.33456, 5.30222, 5.10336], **here
    )
    check_method(
        "rda", tmp_path / "rda", RATE, NARROW, "--model.weight=1.0", golden=[3.57408, 3.51649, 3.56775, 3.51898], **here
    )
    weight = "--model.adversarial_weight=0.001"
    check_method("vat", tmp_path / "vat", RATE, NARROW, weight, golden=[17.2773, 16.5221, 17.0513, 16.2754], **here)


@pytest.mark.long
def test_source_free_ones_conform(tiny_streets: Path, tmp_path: Path) -> None:
    here: Any = {"ranks": False, "streets": tiny_streets}
    check_method("tps_target", tmp_path / "tps", RATE, golden=[2.59358, 2.56052, 2.55963, 2.59241], **here)
    rounds = (
        "--model.rounds=2",
        "--model.initial=0.05",
        "--model.proportion=0.2",
    )  # a fresh network is sure of nothing
    check_method("vat_vst_target", tmp_path / "vst", RATE, *rounds, golden=[3.11069, 3.07167, 3.09841, 3.05356], **here)
    filled = ("--model.rounds=1", "--model.initial=0.05", "--model.proportion=0.2", "--model.refinement=fill-in")
    check_method("vat_vst", tmp_path / "both", RATE, *filled, golden=[3.12502, 2.557, 2.58156, 2.52523], **here)


def test_gradients_are_clipped_apart() -> None:
    options = OptimizerOptions(clip=0.5)
    method = VAT(network=SMALL, optimizer=options, discriminator=DiscriminatorOptions(width=4)).train()
    judged = {id(parameter) for parameter in method.discriminator.parameters()}
    parts = (list(method.discriminator.parameters()), [p for p in method.parameters() if id(p) not in judged])
    for parameter in method.parameters():
        parameter.grad = torch.ones_like(parameter)
    method.configure_gradient_clipping(torch.optim.SGD(method.parameters(), lr=1.0))
    for part in parts:
        norm = torch.stack([p.grad.square().sum() for p in part if p.grad is not None]).sum().sqrt()
        assert norm.item() == pytest.approx(0.5, rel=1e-3)


# --- TPS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9, 14), (16, 5)])
def test_histogram_matching_against_numpy(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(30, 90, (2, 3, 12, 10), dtype=torch.uint8, generator=generator)
    reference = (torch.randint(0, 64, (2, 3, *size), generator=generator) * 4).byte()  # not all levels occur
    found = match_histogram(frames, reference)
    for b in range(2):
        for c in range(3):
            values, places, counts = np.unique(frames[b, c].numpy(), return_inverse=True, return_counts=True)
            wanted, others = np.unique(reference[b, c].numpy(), return_counts=True)
            quantiles, theirs = np.cumsum(counts) / counts.sum(), np.cumsum(others) / others.sum()
            expected = np.interp(quantiles, theirs, wanted)[places].reshape(12, 10)
            np.testing.assert_allclose(found[b, c].numpy(), expected, rtol=1e-5, atol=1e-4)
            assert len(values) == len(quantiles)
    torch.testing.assert_close(match_histogram(frames, frames), frames.float())


class Colours(nn.Module):
    """A network that tells three classes by a pixel's colour: what is mirrored stays what it was."""

    normalization = None

    def fused_scores(self, clip: Clip) -> tuple[Tensor, Tensor]:
        logits = clip.frames[:, -1].float() / 64
        return logits, -logits


def look_up(image: Tensor, y: float, x: float) -> Tensor:
    """Bilinear, borders repeated."""
    height, width = image.shape[-2:]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    a, b = y - top, x - left
    upper = (1 - b) * image[:, top, left] + b * image[:, top, right]
    return (1 - a) * upper + a * ((1 - b) * image[:, bottom, left] + b * image[:, bottom, right])


@pytest.mark.parametrize("mirror", [0.0, 1.0])
@pytest.mark.parametrize("distance", [1, 2])
def test_temporal_labels_against_a_loop_over_pixels(distance: int, mirror: float) -> None:
    method = TPS(network=SMALL, optimizer=OptimizerOptions(), distance=distance, mirror_probability=mirror)
    assert method.wants.frames == tuple(range(-distance - 1, 1))
    method.network = Colours()
    clip = clips(0, (7, 9), frames=distance + 2)
    main, auxiliary = method.labels(clip)
    for b in range(2):
        for sign, found in ((1, main), (-1, auxiliary)):
            told = (sign * clip.frames[b, -1 - distance].float() / 64).softmax(0)
            for step in range(distance, 0, -1):
                flow, brought = clip.flows[1 - step, -step][b], torch.zeros_like(told)
                for y in range(7):
                    for x in range(9):
                        brought[:, y, x] = look_up(told, y + flow[1, y, x].item(), x + flow[0, y, x].item())
                told = brought
            assert (found[b] == told.argmax(0)).float().mean() > 0.98  # but for ties by rounding


def test_a_mirrored_clip_moves_the_other_way() -> None:
    clip = clips(1, (12, 16))
    found = mirrored(clip, [True, False])
    brought, turned = (warp(x.frames[:, 0].float(), x.flows[BACKWARD]) for x in (clip, found))
    torch.testing.assert_close(turned[0], brought[0].flip(-1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(turned[1], brought[1])


def test_the_strong_view() -> None:
    frames = torch.tensor([[255, 0, 0], [0, 255, 0]], dtype=torch.uint8).view(2, 1, 3, 1, 1)
    grey = made_grey(frames, [False, True])
    assert grey.flatten(1).tolist() == [[255, 0, 0], [150, 150, 150]]
    method = TPS(network=SMALL, optimizer=OptimizerOptions(), smallest_scale=0.5, largest_scale=0.5)
    strong = method._strong(clips(0, (48, 64), frames=3))
    assert strong.frames.shape == (2, 2, 3, 24, 32)
    losses = method.losses(Batch(clips(0, frames=3), clips(1, (64, 80), 3)))
    assert set(losses) == {"cross_entropy", "auxiliary", "temporal", "auxiliary temporal"}
    alone = TPS(network=SMALL, optimizer=OptimizerOptions(), source_free=True)
    assert alone.source_wants is None
    assert set(alone.losses(Batch(clips(0, frames=3)))) == {"temporal", "auxiliary temporal"}


@pytest.mark.parametrize("normalization", ["caffe", "imagenet"])
def test_the_released_view_wraps_around(normalization: Literal["caffe", "imagenet"]) -> None:
    options = NetworkOptions(DeepLabV2(18, 8, (1, 2), normalization=normalization))
    method = TPS(network=options, optimizer=OptimizerOptions(), strong_view="wrapped")
    assert not method.wants.augmented
    still = CrossFrameAugmentation(blur_probability=0, jitter_probability=0)
    method._trainer = SimpleNamespace(datamodule=SimpleNamespace(augmentation=still))  # type: ignore[assignment]
    clip = clips(0, frames=3)
    fed = method.network.segmenter.normalize(method._wrapped(clip, [False, False])[:, 1])
    seen = method.network.segmenter.normalize(clip.frames[:, -1])
    wrapped = (seen.double() * 255).trunc() % 256 / 255
    apart = (fed.double() - wrapped).abs()
    assert (apart.minimum(1 - apart) < 2e-2).all()  # one level more or less
    assert fed.min() > -0.01
    assert fed.max() < 1.01


# --- VAT --------------------------------------------------------------------------------------------------------------


def slow_tubes(probabilities: Tensor, labels: Tensor) -> float:
    """The tube matching loss, pixel by pixel."""
    total = 0.0
    for tube, truth in zip(probabilities, labels, strict=True):
        for k in range(tube.shape[1]):
            shared = mine = theirs = 0.0
            for t in range(len(tube)):
                for p, y in zip(tube[t, k].flatten().tolist(), truth[t].flatten().tolist(), strict=True):
                    if y != IGNORE:
                        shared, mine, theirs = shared + p * (y == k), mine + p * p, theirs + (y == k)
            total += 1 - 2 * shared / (mine + theirs) if theirs else 0
    return total / len(probabilities)


def test_tube_matching_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(2, 2, 4, 3, 5, generator=generator, dtype=torch.float64).softmax(2)
    labels = torch.randint(0, 3, (2, 2, 3, 5), generator=generator)  # class 3 is absent
    labels[0, :, 0] = IGNORE
    assert tube_matching(probabilities, labels).item() == pytest.approx(slow_tubes(probabilities, labels), rel=1e-9)
    probabilities.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: tube_matching(p, labels), (probabilities,))
    perfect = torch.nn.functional.one_hot(labels.clamp(max=3), 4).movedim(-1, 2).double()
    assert tube_matching(perfect, labels).item() == pytest.approx(0, abs=1e-12)
    assert tube_matching(probabilities, torch.full_like(labels, IGNORE)).item() == 0


def test_the_sequence_discriminator_is_the_one_with_a_3d_convolution() -> None:
    method = VAT(network=SMALL, optimizer=OptimizerOptions(), discriminator=DiscriminatorOptions(width=4))
    first = method.discriminator.layers[0]
    assert isinstance(first, nn.Conv2d)
    deep = nn.Conv3d(15, 4, 4, 2, 1)  # on two frames only its inner two slices see anything
    with torch.no_grad():
        assert deep.weight.shape[2] == 4
        deep.weight[:, :, 1:3] = first.weight.view(4, 2, 15, 4, 4).transpose(1, 2)
        assert deep.bias is not None
        assert first.bias is not None
        deep.bias.copy_(first.bias)
    maps = torch.rand(2, 2, 15, 32, 64)
    torch.testing.assert_close(deep(maps.transpose(1, 2))[:, :, 0], first(maps.flatten(1, 2)), rtol=1e-4, atol=1e-5)
    assert method.discriminator(torch.rand(1, 30, 64, 128)).shape == (1, 1, 2, 4)


def test_terms_of_vat() -> None:
    method = VAT(network=SMALL, optimizer=OptimizerOptions(), discriminator=DiscriminatorOptions(width=4))
    batch = Batch(clips(0), clips(1, (64, 80)))
    losses = method.losses(batch)
    assert set(losses) == {"cross_entropy", "auxiliary", "tube", "adversarial", "discriminator"}
    assert losses["adversarial"].item() == pytest.approx(0.001 * math.log(2), rel=0.1)
    both = VAT(
        network=SMALL, optimizer=OptimizerOptions(), previous_gradient=True, discriminator=DiscriminatorOptions(width=4)
    )
    assert "previous cross_entropy" in both.losses(batch)


def test_single_frames_instead_of_tubes() -> None:
    """The Dice of each frame by itself, and a discriminator of each: the rows of Table 3."""
    small = {"network": SMALL, "optimizer": OptimizerOptions(), "discriminator": DiscriminatorOptions(width=4)}
    torch.manual_seed(0)
    method = VAT(dice="frame", adversary="image", **small)  # type: ignore[arg-type]
    assert method.discriminator(torch.rand(1, 15, 64, 128)).shape == (1, 1, 2, 4)
    batch = Batch(clips(0), clips(1, (64, 80)))
    losses = method.losses(batch)
    source = batch.source
    assert source is not None
    network = method.network
    now, before = network.frame_scores(source)[0]
    shown = [upsample(logits, source.size).softmax(1) for logits in (before, now)]  # an untrained fusion is [I|0]
    each = [tube_matching(p[:, None], source.labels[at][:, None]) for p, at in zip(shown, (-1, 0), strict=True)]
    assert losses["tube"].item() == pytest.approx(sum(each).item() / 2, rel=1e-5)  # type: ignore[union-attr]
    others = [upsample(logits, batch.target.size).softmax(1) for logits in network.frame_scores(batch.target)[0][::-1]]
    theirs, ours = (torch.stack(frames, 1).flatten(0, 1) for frames in (shown, others))
    loss, own = adversarial_losses(method.discriminator, theirs, ours)
    assert losses["adversarial"].item() == pytest.approx(0.001 * loss.item(), rel=1e-4)
    assert losses["discriminator"].item() == pytest.approx(own.item(), rel=1e-4)
    for wrong in ({"dice": "tubes"}, {"adversary": "video"}):
        with pytest.raises(ConfigError):
            VAT(**small, **wrong)  # type: ignore[arg-type]


# --- VST --------------------------------------------------------------------------------------------------------------


def vst(**settings: Any) -> VST:
    return VST(network=SMALL, optimizer=OptimizerOptions(), **settings)


def test_who_shares_thresholds() -> None:
    keys = ["drive/0003/05", "drive/0003/06", "ulm_000000_000019", "ulm_000000_000150", "a.mp4/000012"]
    assert list(groups(keys, "clip").values()) == ["0", "0", "1", "2", "3"]
    assert list(groups(keys, "image").values()) == keys
    assert set(groups(keys, "split").values()) == {""}


def test_thresholds_of_the_whole_split_are_cbst_s() -> None:
    """With neither memory nor difficulty, θ is the confidence at rank ⌊α·n⌋: pixels above it are that share."""
    method = vst(scope="split", memory=0.0, difficulty=0.0, proportion=0.25)
    confidences = [0.99 - 0.01 * place for place in range(40)]
    found = method.thresholds(histogram_of(confidences), None, 0)[0].item()
    assert sum(confidence > found for confidence in confidences) == 10


def test_aggregation_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    p, before, after = torch.randn(3, 1, 4, 3, 5, generator=generator, dtype=torch.float64).softmax(2)
    masks = torch.rand(2, 1, 3, 5, generator=generator) > 0.5
    found = aggregated(p, [before, after], [masks[0], masks[1]])
    for y in range(3):
        for x in range(5):
            parts = [p[0, :, y, x]]
            parts += [q[0, :, y, x] for q, m in zip((before, after), masks, strict=True) if m[0, y, x]]
            torch.testing.assert_close(found[0, :, y, x], torch.stack(parts).mean(0))


@pytest.mark.parametrize(
    ("refinement", "expected"),
    [("none", [0, 1, IGNORE, IGNORE]), ("cut-out", [0, IGNORE, IGNORE, IGNORE]), ("fill-in", [0, 1, 1, IGNORE])],
)
def test_refinement_by_hand(refinement: Any, expected: list[int]) -> None:
    now = torch.tensor([[0.95, 0.05], [0.04, 0.96], [0.5, 0.5], [0.5, 0.5]]).T[None, :, None].double()
    then = torch.tensor([[0.99, 0.01], [0.93, 0.07], [0.02, 0.98], [0.02, 0.98]]).T[None, :, None].double()
    visible = torch.tensor([True, True, True, False])[None, None]
    judged = Predictions(1 - now, 1 - then, visible)
    labels = vst(refinement=refinement).label(judged, torch.full((1, 2), 0.9, dtype=torch.float64))
    assert labels.flatten().tolist() == expected
    assert sure(1 - now, torch.tensor([[0.951, 0.9]], dtype=torch.float64)).flatten()[0] == IGNORE


@pytest.mark.slow
def test_losses_of_vst_by_hand() -> None:
    method = vst()
    logits = torch.tensor([0.7, 0.2, 0.1]).log().view(1, 3, 1, 1).expand(1, 3, 1, 2)
    method.network = Says(logits)
    clip = Clip(torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8))
    batch = Batch(clip, prepared={"labels": torch.tensor([[[0, IGNORE]]])})
    losses = method.losses(batch)
    assert losses["self_training"].item() == pytest.approx(-math.log(0.7))
    entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    assert losses["entropy"].item() == pytest.approx(3 * entropy / 3)
    assert losses["smoothing"].item() == pytest.approx(-0.1 * sum(map(math.log, (0.7, 0.2, 0.1))) / 3)
    bare = method.losses(Batch(clip, prepared={"labels": torch.full((1, 1, 2), IGNORE)}))
    assert (bare["self_training"].item(), bare["smoothing"].item()) == (0, 0)


def test_what_is_said_of_a_clip_that_stands_still() -> None:
    frames = clips(0).frames[:, :1].expand(2, 3, 3, 48, 64)
    still = torch.zeros(2, 2, 48, 64)
    clip = Clip(frames, {BACKWARD: still, (0, 1): still}, offsets=(-1, 0, 1), key=("a/1", "a/2"))
    method = vst().eval()
    judged, alone = method.predictions(clip), vst(aggregate=False).eval()
    alone.load_state_dict(method.state_dict())
    assert judged.visible is not None
    assert judged.visible.all()
    assert judged.previous is not None
    torch.testing.assert_close(judged.doubts, judged.previous, rtol=0, atol=2e-3)
    torch.testing.assert_close(judged.doubts, alone.predictions(clip).doubts, rtol=0, atol=2e-3)
