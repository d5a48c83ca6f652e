"""CBST with source, and CRST: what every method must keep, and their numbers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from random_clips import Says, clips
from stpl.data.clip import IGNORE, Batch, Clip
from stpl.errors import ConfigError
from stpl.methods import CBST, LRENT, MRKLD
from stpl.methods.cbst import Portion
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.runs.fit import fit
from stpl.testing import check_method
from stpl.testing.runs import tiny_arguments
from stpl.training.offline_pseudo_labels import Predictions

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))
RATE = "--optimizer.lr=6.0e-4"  # whatever a search finds for streets
CLIP = Clip(torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.long
def test_they_conform(tiny_streets: Path, tmp_path: Path) -> None:
    here: Any = {"ranks": False, "streets": tiny_streets}
    rounds = (RATE, "--model.rounds=2")
    golden = [2.16301, 2.0877, 2.14804, 2.10385]
    check_method("cbst", tmp_path / "cbst", *rounds, golden=golden, source=True, **here)
    golden = [2.43304, 2.35911, 2.4239, 2.37446]
    check_method("crst_mrkld", tmp_path / "mrkld", *rounds, golden=golden, source=True, **here)
    golden = [2.48926, 2.48079, 2.48877, 2.46176]
    check_method("crst_lrent", tmp_path / "lrent", *rounds, golden=golden, source=True, **here)


@pytest.mark.slow
def test_source_free_ones_conform(tiny_streets: Path, tmp_path: Path) -> None:
    here: Any = {"ranks": False, "streets": tiny_streets}
    golden = [2.42012, 2.34502, 2.40464, 2.35809]
    check_method("crst_mrkld_target", tmp_path / "mrkld", RATE, "--model.rounds=2", golden=golden, **here)
    golden = [2.47802, 2.4709, 2.47649, 2.44953]
    check_method("crst_lrent_target", tmp_path / "lrent", RATE, "--model.rounds=2", golden=golden, **here)


def test_a_regularised_model_by_hand() -> None:
    """The paper's weight, and what it is in the released code, which multiplies by it twice."""
    labels = {"labels": torch.tensor([[[0, IGNORE]]])}
    for weight, expected in ((0.1, 0.54837), (0.01, 0.42168)):
        method = MRKLD(network=SMALL, smoothing_weight=weight, source_free=True)
        method.network = Says(torch.tensor([2.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2))
        losses = method.losses(Batch(CLIP, prepared=labels))
        assert losses["self_training"].item() == pytest.approx(0.40761, abs=1e-5)
        assert sum(loss.item() for loss in losses.values()) == pytest.approx(expected, abs=1e-5)


def test_regularised_labels_by_hand() -> None:
    method = LRENT(network=SMALL, source_free=True)
    p = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.2, 0.4]], dtype=torch.float64).T[None, :, None]
    k = torch.tensor([[0.9, 0.35, 0.05]], dtype=torch.float64)
    found = Predictions(1 - p)
    assert method.label(found, k).flatten().tolist() == [2, 2]
    soft = method.soften(found, k)[0, :, 0, 0]
    assert soft.tolist() == pytest.approx([0.0118, 0.0322, 0.9559], abs=1e-4)
    assert -0.25 * method._powers(found, k)[0, :, 0, 0].logsumexp(0).item() == pytest.approx(-0.7044, abs=1e-4)
    assert method.label(found, torch.ones(1, 3, dtype=torch.float64)).flatten().tolist() == [IGNORE, IGNORE]

    method.network = Says(torch.tensor([0.7, 0.2, 0.1]).log().view(1, 3, 1, 1).expand(1, 3, 1, 2))
    labels = torch.tensor([[[2, IGNORE]]])
    softened = torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.7, 0.0]])[None, :, None]
    (loss,) = method.losses(Batch(CLIP, prepared={"labels": labels, "soft": softened})).values()
    expected = -(torch.tensor([0.1, 0.2, 0.7]) * torch.tensor([0.7, 0.2, 0.1]).log()).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_hard_soft_label_is_that_of_cbst() -> None:
    """As α goes to 0, all of the label lies on the class of the largest p/k, and it is given where that is above 1."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(1, 5, 6, 7, generator=generator, dtype=torch.float64).softmax(1)
    k = torch.rand(1, 5, generator=generator, dtype=torch.float64).clamp(min=0.1)
    hard, soft = CBST(network=SMALL, source_free=True), LRENT(network=SMALL, source_free=True, softness=1e-3)
    assert torch.equal(hard.label(Predictions(1 - p), k), soft.label(Predictions(1 - p), k))


def test_the_source_weighs_as_its_portion() -> None:
    method = CBST(network=SMALL).eval()
    batch = Batch(clips(1), source=clips(2), prepared={"labels": clips(3).labels[0][:, ::7, ::7][:, :7, :9]})
    alone = {"labels": batch.prepared["labels"]}

    def losses(**more: Any) -> dict[str, float]:
        found = method.losses(Batch(batch.target, source=more.pop("source", None), prepared=alone | more))
        return {name: loss.item() for name, loss in found.items()}

    (ours,) = losses().values()
    theirs = losses(source=batch.source, source_weight=torch.tensor(1.0))
    mixed = losses(source=batch.source, source_weight=torch.tensor(0.25))
    assert theirs["self_training"] == 0
    assert mixed["self_training"] == pytest.approx(0.75 * ours)
    assert mixed["cross_entropy"] == pytest.approx(0.25 * theirs["cross_entropy"])


@pytest.mark.slow
def test_hard_labels_are_none_to_learn_soft_ones_from(
    tiny_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STPL_RUNS", str(tmp_path))
    options = ("--start_from=null", "--model.rounds=1")
    fit(tiny_arguments("cbst_target", tiny_streets, *options))
    with pytest.raises(ConfigError, match="are no soft ones, which LRENT learns from"):
        fit(tiny_arguments("crst_lrent_target", tiny_streets, *options, "--labels_from=cbst_target"))


def test_settings_out_of_range_are_refused() -> None:
    refused: list[tuple[Any, dict[str, Any]]] = [
        (CBST, {"growth": 1.5}),
        (MRKLD, {"smoothing_weight": -1.0}),
        (LRENT, {"softness": 0.0}),
    ]
    for method, settings in refused:
        with pytest.raises(ConfigError, match=next(iter(settings))):
            method(network=SMALL, **settings)
    with pytest.raises(ConfigError, match=r"source_portion\.first"):
        Portion(first=1.5)


def test_the_portion_grows_from_round_to_round() -> None:
    assert [Portion().of(round_) for round_ in (0, 1, 2, 99)] == pytest.approx([0.03, 0.0325, 0.035, 0.06])
