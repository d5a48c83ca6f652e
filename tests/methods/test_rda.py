"""RDA: the attack on the spectrum and the terms; its run from the command line is in test_video_baselines."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from random_clips import clips
from stpl.data.clip import Batch
from stpl.losses.adversarial import reversed_gradient
from stpl.methods.rda import BANDS, RDA, Attacker
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.discriminator import DiscriminatorOptions
from stpl.nn.network import NetworkOptions
from stpl.nn.style import Spectrum, band_means, ring_bands
from stpl.training.optimization import OptimizerOptions

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2), auxiliary=True))


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (40, 65)])
def test_bands_against_a_loop(size: tuple[int, int]) -> None:
    height, width = size
    bands = ring_bands(size, BANDS, torch.device("cpu"))
    for y in range(height):
        for x in range(width // 2 + 1):
            ky, kx = min(y, height - y), x
            ring = 0
            while ring < BANDS - 1 and (
                ky > height * (ring + 1) // (2 * BANDS) or kx > width * (ring + 1) // (2 * BANDS)
            ):
                ring += 1
            assert bands[y, x] == ring
    image = 255 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    means = band_means(Spectrum.of(image).amplitude, bands, BANDS, width)
    whole = torch.fft.fft2(image.double()).abs()
    torch.testing.assert_close(means.sum(2).double(), whole.mean((-2, -1)), rtol=1e-4, atol=1e-3)


def attack(frames: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Attacker]:
    torch.manual_seed(0)
    attacker = Attacker(0.1)
    noise = torch.rand(len(frames), 96, 2, generator=torch.Generator().manual_seed(3))
    images, changed = attacker(frames, reference, noise)
    return images, changed, attacker


def test_the_attack_exchanges_nine_components() -> None:
    clip, other = clips(0, (64, 96)), clips(1, (64, 96))
    images, changed, attacker = attack(clip.frames, other.frames[:, -1])
    gates = attacker.gates(torch.rand(2, 3, BANDS), torch.zeros(2, 96, 2))
    assert gates.round().sum((1, 2)).tolist() == [9, 9]
    assert changed >= 0
    for frame in range(2):  # the same components of both frames, phases as they were
        spectrum = Spectrum.of(clip.frames[:, frame])
        ratio = Spectrum.of(images[:, frame].detach()).amplitude - spectrum.amplitude
        bands = ring_bands((64, 96), BANDS, torch.device("cpu"))
        touched = band_means(ratio.abs(), bands, BANDS, 96) > 1e-2
        assert (touched.sum((1, 2)) <= 9).all()
        assert touched.any()
    same, nothing, _ = attack(clip.frames[:, -1:], clip.frames[:, -1])
    torch.testing.assert_close(same[:, 0], clip.frames[:, -1].float(), rtol=0, atol=2e-3)
    assert nothing.item() == pytest.approx(0, abs=1e-6)


def test_the_attacker_learns_the_opposite() -> None:
    values = torch.tensor([1.0, -2.0], requires_grad=True)
    turned = reversed_gradient(values)
    assert torch.equal(turned, values)
    (turned * torch.tensor([3.0, 4.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [-3, -4]
    images, _, attacker = attack(clips(0, (64, 96)).frames, clips(1, (64, 96)).frames[:, -1])
    images.square().mean().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in attacker.parameters())


def test_noise_counts_beside_the_scores_of_any_picture() -> None:
    torch.manual_seed(0)
    attacker = Attacker(0.1)
    pictures = Spectrum.of(clips(0, (64, 96)).frames[:, -1]).amplitude
    means = band_means(pictures, ring_bands((64, 96), BANDS, torch.device("cpu")), BANDS, 96)
    draws = [torch.empty(2, 96, 2).exponential_().log().neg() for _ in range(8)]
    choices = torch.stack([attacker.gates(means, noise).round() for noise in draws])
    assert 1 < (choices.mean(0) > 0).sum() / choices[0].sum() < 11  # other components for other noise, not all alike
    assert (choices.mean(0) < 1).all()
    attacker.gates(100 * means, draws[0]).square().sum().backward()  # type: ignore[no-untyped-call]
    assert attacker.mix.weight.grad is not None
    assert attacker.mix.weight.grad.abs().max() > 1e-4


def test_terms_of_rda() -> None:
    options = DiscriminatorOptions(width=4)
    method = RDA(network=SMALL, optimizer=OptimizerOptions(lr=1e-3), discriminator=options)
    batch = Batch(clips(0), clips(1, (64, 80)), clips(2))
    losses = method.losses(batch)
    assert len(losses) == 2 + 1 + 2 * 4
    assert losses["discriminator main"].item() == pytest.approx(math.log(2), abs=0.1)
    assert losses["adversarial attacked auxiliary"].item() == pytest.approx(0.0002 * math.log(2), rel=0.1)
    rates = {group["name"]: group["lr"] for group in method.parameter_groups()}
    assert rates["attacker"] == 1e-3  # the network's
    assert "new" not in rates
    own = RDA(network=SMALL, optimizer=OptimizerOptions(lr=1e-3), attacker_lr=1e-6, discriminator=options)
    assert {group["name"]: group["lr"] for group in own.parameter_groups()}["attacker"] == 1e-6
    plain = RDA(
        network=SMALL,
        optimizer=OptimizerOptions(),
        attack="none",
        smallest_scale=1,
        largest_scale=1,
        discriminator=options,
    ).eval()
    assert plain.before_wants is None
    found = plain.losses(batch)
    assert "structure" not in found
    assert found["robustness main"].item() == pytest.approx(0, abs=1e-6)  # the same image
