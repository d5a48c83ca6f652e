"""FDA: the transfer of style, robust entropy, and the ensemble; the row's own run is in test_baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from random_clips import clips
from stpl.data.clip import Batch
from stpl.errors import ConfigError
from stpl.losses.entropy import entropy_map, robust_entropy
from stpl.methods.fda import FDA, FDASelfTraining
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.nn.style import Window, transfer_amplitude
from stpl.runs.build import build
from stpl.runs.fit import fit
from stpl.testing import check_method
from stpl.testing.runs import tiny_arguments
from stpl.training.offline_pseudo_labels import BINS, Predictions, add_to, doubts_of
from stpl.training.optimization import OptimizerOptions
from stpl.training.supervision import transferred

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2), auxiliary=True))


def by_numpy(image: Any, reference: Any, low: tuple[int, int]) -> Any:
    """Plain: the whole spectrum, shifted, a window about its centre, the real part of the inverse."""
    spectrum, other = (np.fft.fftshift(np.fft.fft2(x), axes=(-2, -1)) for x in (image, reference))
    amplitude, phase = np.abs(spectrum), np.angle(spectrum)
    height, width = image.shape[-2:]
    y, x = height // 2, width // 2
    window = np.s_[..., y - low[0] : y + low[0] + 1, x - low[1] : x + low[1] + 1]
    amplitude[window] = np.abs(other)[window]
    mixed = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * phase), axes=(-2, -1)))
    assert np.abs(mixed.imag).max() < 1e-3  # the window is symmetric
    return mixed.real


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (32, 47), (31, 64)])
@pytest.mark.parametrize(("beta", "window"), [(0.05, "paper"), (0.1, "code"), (0.15, "paper")])
def test_the_spectrum_swap_against_numpy(size: tuple[int, int], beta: float, window: Window) -> None:
    generator = torch.Generator().manual_seed(0)
    image, reference = torch.randint(0, 256, (2, 2, 3, *size), dtype=torch.uint8, generator=generator)
    low = (int(beta * size[0]), int(beta * size[1])) if window == "paper" else (int(beta * min(size)),) * 2
    found = transfer_amplitude(image, reference, beta, window)
    expected = by_numpy(image.double().numpy(), reference.double().numpy(), low)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


def test_properties_of_the_transfer() -> None:
    generator = torch.Generator().manual_seed(1)
    image, other = 255 * torch.rand(2, 1, 3, 40, 60, generator=generator)
    torch.testing.assert_close(transfer_amplitude(image, image, 0.1), image, rtol=0, atol=1e-3)
    assert torch.equal(transfer_amplitude(image, other, 0.0), image)
    mixed = transfer_amplitude(image, other, 0.1)
    torch.testing.assert_close(mixed.mean((-2, -1)), other.mean((-2, -1)), rtol=1e-4, atol=1e-2)
    grey = transfer_amplitude(torch.full((1, 3, 32, 32), 100.0), torch.full((1, 3, 32, 32), 40.0), 0.1)
    torch.testing.assert_close(grey, torch.full((1, 3, 32, 32), 40.0))
    turned = torch.fft.fft2(mixed).angle() - torch.fft.fft2(image).angle()
    assert (turned.cos() > 0.999).float().mean() > 0.99  # phases stay
    assert transfer_amplitude(image, torch.rand(1, 3, 20, 90), 0.1).shape == image.shape  # of another size


def test_robust_entropy_by_hand() -> None:
    uniform, sure = torch.zeros(1, 3, 1, 1), torch.tensor([1000.0, 0, 0]).view(1, 3, 1, 1)
    assert robust_entropy(uniform).item() == pytest.approx(1.0, abs=1e-5)
    assert robust_entropy(sure).item() == pytest.approx(0, abs=1e-11)
    logits = torch.tensor([0.7, 0.2, 0.1]).log().view(1, 3, 1, 1)
    assert entropy_map(logits).item() == pytest.approx(0.72985, abs=1e-4)
    assert robust_entropy(logits).item() == pytest.approx(0.28374, abs=1e-4)


def test_robust_entropy_has_its_gradient() -> None:
    logits = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(robust_entropy, (logits,))


def test_both_frames_of_a_source_clip_take_the_style_of_one_target_frame() -> None:
    source, target = clips(0, (64, 80), 3), clips(1)
    found = transferred(source, target, 0.1).frames
    assert found.shape == source.frames.shape
    for place in range(3):
        for frame in range(2):
            one = transfer_amplitude(
                source.frames[place : place + 1, frame], target.frames[place % 2 : place % 2 + 1, 1], 0.1
            )
            torch.testing.assert_close(found[place, frame], one[0])


def test_domains_of_another_size_and_number_train_together() -> None:
    method = FDA(network=SMALL, optimizer=OptimizerOptions())
    losses = method.losses(Batch(clips(1), clips(0, (64, 80), 3)))
    assert set(losses) == {"cross_entropy", "auxiliary", "entropy", "auxiliary entropy"}
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.slow
def test_an_ensemble_conforms(tiny_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPL_RUNS", str(tmp_path / "members"))
    fresh = ("--start_from=null", "--trainer.limit_val_batches=1", "--optimizer.lr=6.0e-4", "--model.beta=0.01")
    members = [
        fit(tiny_arguments("fda", tiny_streets, *fresh, f"--seed_everything={seed}", steps=2)) / "checkpoints/last.ckpt"
        for seed in (1, 2)
    ]
    ensemble = f"--model.ensemble=[{members[0]},{members[1]}]"
    here: Any = {"source": True, "ranks": False, "streets": tiny_streets}
    golden = [5.60967, 5.42276, 5.4038, 5.26308]
    check_method("fda_ensemble", tmp_path / "ensemble", "--ensemble_from=null", ensemble, golden=golden, **here)
    args = tiny_arguments("fda_ensemble", tiny_streets, "--start_from=null", "--ensemble_from=[fda,fda_09]")
    with pytest.raises(ConfigError, match="a member of the ensemble is not there"):
        build(args)


def test_the_ensemble_means_and_its_labels() -> None:
    method = FDASelfTraining(network=SMALL, optimizer=OptimizerOptions(), labels=Path("given"), share=0.5, sure=0.9)
    confidences = torch.tensor([0.99, 0.97, 0.95, 0.8, 0.7])
    p = torch.cat([confidences[:, None], ((1 - confidences) / 14)[:, None].expand(5, 14)], 1)
    histogram = torch.zeros(15, BINS, dtype=torch.int64)
    doubts = doubts_of(p.log().T[None, :, None])
    add_to(histogram, doubts)
    thresholds = method.thresholds(histogram, None, 0)
    assert thresholds[0].item() == 0.9  # the second surest has 0.97, which is more than sure enough
    assert method.label(Predictions(doubts), thresholds[None]).flatten().tolist() == [0, 0, 0, 255, 255]
    generous = FDASelfTraining(network=SMALL, optimizer=OptimizerOptions(), labels=Path("given"), share=0.8)
    assert generous.thresholds(histogram, None, 0)[0].item() == pytest.approx(0.8, abs=1e-3)
    one, other = (method.eval().network for _ in range(2))
    method._members = [one, other]
    clip = clips(1)
    torch.testing.assert_close(method.predictions(clip).doubts, doubts_of(one.observe(clip).logits), rtol=0, atol=1e-3)
