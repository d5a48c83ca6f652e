"""IAST: what every method must keep, its thresholds against a loop and the released code, its losses by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from histograms import histogram_of
from random_clips import Says
from stpl.data.clip import IGNORE, Batch, Clip
from stpl.errors import ConfigError
from stpl.methods.iast import CONFIDENCE_CAP, IAST, sure_share
from stpl.methods.vat_vst import VST
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.testing import check_method
from stpl.training.optimization import OptimizerOptions

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))


@pytest.mark.slow
def test_it_conforms(tiny_streets: Path, tmp_path: Path) -> None:
    rounds = ("--optimizer.lr=6.0e-4", "--model.rounds=2", "--model.initial=0.05")  # a fresh network is sure of nothing
    golden = [10.555, 2.54862, 10.6104, 10.5327]
    check_method("iast_target", tmp_path, *rounds, golden=golden, ranks=False, streets=tiny_streets)


def test_thresholds_follow_the_clips() -> None:
    generator = np.random.default_rng(0)
    method = IAST(network=SMALL, difficulty=2)
    before, theta = None, 0.9
    for _ in range(4):
        confidences = sorted(generator.uniform(0.4, 1, 30).tolist(), reverse=True)
        psi = confidences[int(0.25 * theta**2 * 30)]
        theta = min(0.9 * theta + 0.1 * psi, CONFIDENCE_CAP)
        before = method.thresholds(histogram_of(confidences), before, 1)
        assert before[0].item() == pytest.approx(theta, abs=1e-3)
        assert before[1:].tolist() == [0.9] * 14  # classes that no pixel is predicted as
    certain = method.thresholds(histogram_of([1.0] * 9), torch.full((15,), 0.9999, dtype=torch.float64), 0)
    assert certain[0].item() == CONFIDENCE_CAP
    assert method.group("frankfurt_000000_000294") == "frankfurt_000000_000294"


@pytest.mark.parametrize("share", [0.25, 0.4])
def test_alpha_is_sought_for_a_share_of_sure_pixels(share: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Against counting the pixels one by one."""
    generator = np.random.default_rng(0)
    clips = [np.sort(generator.beta(4, 1, 200)).tolist() for _ in range(12)]

    def groups() -> Iterator[tuple[int, Tensor]]:
        return iter([(place, histogram_of(clip)) for place, clip in enumerate(clips)])

    method = IAST(network=SMALL, share=share, difficulty=1.0)
    found = method.all_thresholds(groups, 0)
    sure = sum(confidence > found[place][0].item() for place, clip in enumerate(clips) for confidence in clip)
    assert sure / 2400 == pytest.approx(share, abs=0.01)
    assert sure_share(groups(), found) == pytest.approx(sure / 2400, abs=0.002)  # confidences are in half precision
    assert not capsys.readouterr().err
    IAST(network=SMALL, share=0.01, difficulty=1.0).all_thresholds(groups, 0)
    assert "no α makes the share of 0.01; the nearest is 0." in capsys.readouterr().err
    plain = IAST(network=SMALL, difficulty=1.0)
    assert [t[0].item() for t in plain.all_thresholds(groups, 0).values()] != [t[0].item() for t in found.values()]


def test_thresholds_of_the_released_code() -> None:
    """Its percentile, of the confidences and the last threshold."""
    method = IAST(network=SMALL, threshold_form="released")
    found = method.thresholds(histogram_of([0.95, 0.9, 0.8, 0.7, 0.6]), None, 0)
    assert found[0].item() == pytest.approx(0.902848, abs=1e-5)
    certain = method.thresholds(histogram_of([1.0] * 5), None, 0)
    assert certain[0].item() == pytest.approx(0.91, abs=1e-6)
    generator = np.random.default_rng(0)
    for difficulty in (0.0, 1.0, 8.0):
        method = IAST(network=SMALL, threshold_form="released", difficulty=difficulty, memory=0.0)
        confidences = generator.uniform(0.4, 0.99, 30)
        last = torch.full((15,), 0.7, dtype=torch.float64)
        for round_, alpha in enumerate((0.2, 0.25, 0.3)):
            expected = np.percentile([*confidences, 0.7], 100 * (1 - alpha * 0.7**difficulty))
            got = method.thresholds(histogram_of(confidences.tolist()), last, round_)[0].item()
            assert got == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("form", "divisor"), [("paper", 1), ("released", 3)])
def test_losses_by_hand(form: Any, divisor: int) -> None:
    method = IAST(network=SMALL, entropy_form=form)
    method.network = Says(torch.tensor([0.7, 0.2, 0.1]).log().view(1, 3, 1, 1).expand(1, 3, 1, 2))
    clip = Clip(torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8))
    losses = method.losses(Batch(clip, prepared={"labels": torch.tensor([[[0, IGNORE]]])}))
    assert losses["self_training"].item() == pytest.approx(-math.log(0.7))
    entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    assert losses["entropy"].item() == pytest.approx(3 * entropy / divisor)
    assert losses["smoothing"].item() == pytest.approx(-0.1 * sum(map(math.log, (0.7, 0.2, 0.1))) / 3)


@pytest.mark.parametrize("schedule", ["poly", "advent"])
def test_every_round_has_a_rate_of_its_own(schedule: Any) -> None:
    options = OptimizerOptions(lr=1.0, power=0.5, schedule=schedule)
    method = IAST(network=SMALL, optimizer=options, rates=[1.0, 0.5, 0.25])
    method.trainer = mock.Mock(max_steps=6)
    found = method.configure_optimizers()
    rates = []
    for _ in range(6):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    expected = [(1 - step / 6) ** 0.5 * rate for step, rate in enumerate((1, 1, 0.5, 0.5, 0.25, 0.25))]
    assert rates == pytest.approx(expected)


def test_settings_out_of_range_are_refused() -> None:
    refused: list[dict[str, Any]] = [{"proportion": 1.5}, {"rates": []}, {"rates": [-1.0]}, {"entropy_form": "mine"}]
    for settings in refused:
        with pytest.raises(ConfigError):
            IAST(network=SMALL, **settings)


def test_vst_is_iast_of_videos() -> None:
    method = VST(network=SMALL)
    assert (method.growth, method.entropy_form, method.rates) == (0.0, "released", [1.0])
