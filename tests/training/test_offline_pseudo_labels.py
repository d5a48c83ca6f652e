"""Pseudo-labels as a stage: made for the whole split, resumed, found again, shared between runs and processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stpl.data.clip import IGNORE
from stpl.data.pseudo_labels import PseudoLabels, finished, growing
from stpl.errors import ConfigError, DataError
from stpl.methods.cbst import CBST
from stpl.nn import weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.rows import Rows
from stpl.runs.fit import fit
from stpl.testing import check_method
from stpl.testing.runs import CrashError, fit_until, tiny_arguments
from stpl.training.offline_pseudo_labels import BINS, Predictions, add_to, doubts_of
from stpl.training.optimization import OptimizerOptions

Arguments = Callable[..., list[str]]
NULL = "--start_from=null"


def cbst(**options: Any) -> CBST:
    return CBST(network=NetworkOptions(DeepLabV2(18, 4, (1,))), optimizer=OptimizerOptions(), **options)


def logits_of(confidences: list[float]) -> torch.Tensor:
    """Pixels predicted as class 0 with these probabilities, the rest spread over 14 others."""
    p = torch.tensor(confidences, dtype=torch.float64)
    rest = ((1 - p) / 14).expand(14, -1)
    return torch.cat([p[None], rest]).log()[None, :, None]


@pytest.mark.parametrize(("share", "threshold"), [(0.2, 0.99), (0.4, 0.95), (0.5, 0.95), (0.1, 1.0)])
def test_class_thresholds_by_hand(share: float, threshold: float) -> None:
    histogram = torch.zeros(15, BINS, dtype=torch.int64)
    add_to(histogram, doubts_of(logits_of([0.99, 0.95, 0.9, 0.8, 0.6])))
    assert histogram.sum() == 5
    found = cbst(share=share).thresholds(histogram, None, 0)
    assert found[0].item() == pytest.approx(threshold, abs=1e-3)
    assert found[1:].tolist() == [1.0] * 14  # classes that nothing is predicted as


def test_labels_are_of_the_largest_ratio() -> None:
    doubts = 1 - torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).view(1, 3, 1, 1)
    method = cbst()
    assert method.label(Predictions(doubts), torch.tensor([[0.9, 0.35, 0.05]])).item() == 2  # ratios 0.667, 0.857, 2
    assert method.label(Predictions(doubts), torch.tensor([[0.9, 0.35, 0.2]])).item() == IGNORE


def test_the_kept_share_of_each_class_is_the_one_asked_for() -> None:
    """Near certainty too, where half-precision probabilities would all be 1."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 15, 40, 50, generator=generator)
    logits[:, 3] += 14  # one class is nearly certain everywhere
    doubts, histogram = doubts_of(logits), torch.zeros(15, BINS, dtype=torch.int64)
    add_to(histogram, doubts)
    method = cbst(share=0.3)
    labels, predicted = method.label(Predictions(doubts), method.thresholds(histogram, None, 0)), doubts.min(1)[1]
    common = predicted == 3
    assert common.float().mean() > 0.95
    assert ((labels == 3) & common).sum() / common.sum() == pytest.approx(0.3, abs=0.01)


def test_the_share_grows() -> None:
    histogram = torch.zeros(15, BINS, dtype=torch.int64)
    add_to(histogram, doubts_of(logits_of([0.99, 0.98, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5])))
    method = cbst(share=0.1, growth=0.2, largest_share=0.4)
    found = [method.thresholds(histogram, None, round_)[0].item() for round_ in range(3)]
    assert found == pytest.approx([0.99, 0.97, 0.95], abs=1e-3)


@pytest.mark.slow
def test_cbst_conforms(tiny_streets: Path, tmp_path: Path) -> None:
    check_method("cbst_target", tmp_path, "--model.rounds=2", ranks=False, streets=tiny_streets)


@pytest.mark.slow
def test_labels_are_kept_and_found(tiny_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPL_RUNS", str(tmp_path))
    run = fit(tiny_arguments("cbst_target", tiny_streets, NULL, "--model.rounds=2"))
    stores = [PseudoLabels(run / "pseudo" / f"round{number}") for number in range(2)]
    assert [store.about["round"] for store in stores] == [0, 1]
    assert len(stores[0]) == 8
    assert stores[0].about["weights"] != stores[1].about["weights"]
    key = next(iter(stores[0]._rows))
    label, doubt = stores[0].of([key, key])
    assert label.shape == doubt.shape == (2, 7, 13)
    assert set(label.flatten().tolist()) <= {*range(15), IGNORE}
    with pytest.raises(DataError, match="has no pseudo-label"):
        stores[0].of(["camera-train/9999/01"])


@pytest.mark.long
def test_a_kill_while_labelling_loses_little(
    tiny_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that are there are not made again, and the run ends with the same bits."""
    monkeypatch.setenv("STPL_RUNS", str(tmp_path))
    small = ("--data.loading.eval_batch_size=2", "--run.checkpoint_every=1", NULL, "--model.rounds=2")
    whole = fit(tiny_arguments("cbst_target", tiny_streets, *small, "--run.experiment=whole"))
    again = tiny_arguments("cbst_target", tiny_streets, *small, "--run.experiment=cut")
    write, rows = Rows.write, list[str]()

    def dying(self: Rows, index: int, row: Mapping[str, NDArray[Any]], name: str = "") -> None:
        write(self, index, row, name)
        rows.append(name)
        if len(rows) == 8 + 4:  # in the second round
            raise CrashError

    with mock.patch.object(Rows, "write", dying), suppress(CrashError):
        fit(again)
    partial = tmp_path / "streets/cut/seed0/pseudo/round1.partial"
    assert partial.is_dir()
    with next(partial.glob("journal-*")).open("a") as file:
        file.write('[5, [1, 2], "camera-train/to')  # a line cut off by the kill
    with mock.patch.object(Rows, "write", dying):
        cut = fit(again)
    assert len(rows) == 8 + 8
    assert not partial.exists()
    first, second = (weights.read(run / "checkpoints" / "last.ckpt") for run in (whole, cut))
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    a, b = (np.load(run / "pseudo/round1/labels.npy") for run in (whole, cut))
    assert np.array_equal(a, b)


@pytest.mark.slow
def test_labels_that_are_gone_are_told(tiny_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPL_RUNS", str(tmp_path))
    args = tiny_arguments("cbst_target", tiny_streets, NULL, "--model.rounds=1", "--run.checkpoint_every=1")
    assert fit_until(3, args)
    folder = tmp_path / "streets/cbst_target/seed0/pseudo/round0"
    kept = tmp_path / "kept"
    shutil.move(folder, kept)
    with pytest.raises(ConfigError, match="the labels of this round are gone"):
        fit(args)
    shutil.move(kept, folder)
    fit(args)


@pytest.mark.slow
def test_an_experiment_may_train_on_another_ones_labels(
    tiny_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STPL_RUNS", str(tmp_path))
    others = tiny_arguments("cbst_target", tiny_streets, NULL, "--labels_from=cbst_target", "--run.experiment=second")
    with pytest.raises(ConfigError, match="made no pseudo-labels") as caught:
        fit(others)
    assert "stpl fit --bench=streets --experiment=cbst_target --seed_everything=0" in str(caught.value)
    first = fit(tiny_arguments("cbst_target", tiny_streets, NULL, "--model.rounds=2"))
    second = fit(others)
    assert not (second / "pseudo").exists()
    assert f"labels: {first / 'pseudo' / 'round1'}" in (second / "config.yaml").read_text()
    manifest = first / "pseudo/round1/manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "about": {**content["about"], "clips": "other drives"}}))
    with pytest.raises(ConfigError, match="are of other drives, not of"):
        fit([*others, "--run.experiment=third"])
    manifest.write_text("{")
    with pytest.raises(DataError, match="torn"):
        fit([*others, "--run.experiment=fourth"])
    missing = [f"--model.labels={tmp_path / 'nowhere'}", "--run.experiment=fifth"]
    with pytest.raises(ConfigError, match="there are no pseudo-labels here"):
        fit([*tiny_arguments("cbst_target", tiny_streets, NULL), *missing])


def test_labels_begun_with_other_weights_are_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "round0"
    one = growing(folder, {"weights": "a"}, 3, (2, 2))
    one.begin()
    one.write(0, {"labels": np.ones((2, 2)), "doubts": np.zeros((2, 2))}, "x")
    same, other = (growing(folder, {"weights": name}, 3, (2, 2)) for name in "ab")
    assert same.begin() == [1, 2]
    assert other.begin() == [0, 1, 2]
    assert not finished(folder)
