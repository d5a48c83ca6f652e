"""Methods in anybody's Trainer: plain loaders, Lightning's loggers and callbacks, networks of somebody else's."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import stpl
from own_networks import Dictionary
from random_clips import clips as random_clips
from repository import REPOSITORY
from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import BACKWARD, Batch, Clip, collate
from stpl.data.datamodule import RecordedData, StreetsData
from stpl.data.loading import Loading
from stpl.errors import ConfigError, DataError, StplError
from stpl.methods import CBST, DAVSN, STPL, TPS, BatchNormStatistics, SelfTraining
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.runs.build import build
from stpl.runs.fit import fit
from stpl.runs.record import read_metrics
from stpl.testing import TINY, no_read_back
from stpl.training import Method
from stpl.training.base import StatisticsKind
from stpl.training.loaders import evaluation_clip, renewal_clips, training_batch

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))
RENEWED = BatchNormOptions(evaluation="renewed", renewal_batches=2)
PAGE = REPOSITORY / "docs" / "own_trainer.md"


def single_clips(count: int = 6, frames: int = 2) -> list[Clip]:
    """Clips without a batch: flow, label of the current frame, and no augmented view."""
    batches = (random_clips(seed, frames=frames) for seed in range(count))
    found = []
    for place, batch in enumerate(batches):
        one = batch.map(lambda tensor: tensor[0])
        found.append(replace(one, augmented=None, labels={0: one.labels[0]}, key=f"a/{place}"))
    return found


def loader(**options: Any) -> DataLoader[Clip]:
    found: Any = DataLoader(single_clips(frames=3), **{"batch_size": 2, "collate_fn": collate} | options)  # type: ignore[arg-type]
    return found  # type: ignore[no-any-return]


def rows_of(logger: CSVLogger) -> list[dict[str, str]]:
    with (Path(logger.log_dir) / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(
        **quiet | {"accelerator": "cpu", "max_steps": 3, "logger": False, "default_root_dir": folder} | options
    )


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*returned `None`"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated"),
]


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The script of the page as it stands, on a drive of five frames."""
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(script.splitlines()) <= 25
    generator = np.random.default_rng(0)
    for name, shape, high in (("frames", (48, 64, 3), 256), ("labels", (48, 64), 19)):
        (tmp_path / "drive" / name).mkdir(parents=True)
        for number in range(5):
            image = generator.integers(0, high, shape).astype(np.uint8)
            assert cv2.imwrite(str(tmp_path / "drive" / name / f"{number}.png"), image)
    monkeypatch.chdir(tmp_path)
    network = Dictionary(19)
    before = [value.clone() for value in network.backbone.parameters()]
    monkeypatch.setitem(sys.modules, "my_networks", mock.Mock(build=lambda: network))
    space: dict[str, Any] = {}
    exec(compile(script, str(PAGE), "exec"), space)

    run, best = space["trainer"], space["best"]
    assert {"val/miou", "val/iou/road", "val/score", "val/moved"} <= set(run.callback_metrics)
    assert best.monitor == "val/miou"
    content = torch.load(best.best_model_path, weights_only=True)
    assert content["stpl"]["frame_size"] == [48, 64]
    rows = rows_of(run.logger)
    assert {"train/loss", "train/lr", "train/fused ↔ augmented fused", *run.callback_metrics} <= set(rows[0])
    losses = [(row["step"], float(row["train/loss"])) for row in rows if row["train/loss"]]
    assert [step for step, _ in losses] == ["1", "2", "3", "4"]
    scores = [(row["step"], float(row["val/miou"])) for row in rows if row["val/miou"]]
    assert [step for step, _ in scores] == ["2", "4", "4"]  # each epoch, and what the last line validates
    assert float(best.best_model_score) == max(score for _, score in scores[:2])
    assert float(capsys.readouterr().out.splitlines()[-1]) == scores[2][1] == float(best.best_model_score)
    assert any(not torch.equal(a, b) for a, b in zip(before, network.backbone.parameters(), strict=True))


def test_what_is_logged_is_what_was_found(tmp_path: Path) -> None:
    """To the last digit, once, and the losses at the trainer's pace."""
    method = STPL(network=SMALL)
    seen: list[dict[str, float]] = []
    step = Method.training_step

    def training_step(self: Method, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        output = step(self, batch, batch_idx)
        assert output is not None
        seen.append({name: float(value) for name, value in output.items() if name != "loss"})
        assert float(output["loss"].detach()) == seen[-1]["train/loss"]
        return output

    logger = CSVLogger(tmp_path)
    run = trainer(tmp_path, max_steps=6, log_every_n_steps=2, logger=logger)
    with mock.patch.object(Method, "training_step", training_step):
        run.fit(method, loader(), loader())
    rows = rows_of(logger)
    logged = {int(row["step"]): {name: float(row[name]) for name in seen[0]} for row in rows if row["train/loss"]}
    assert logged == {step: seen[step - 1] for step in (2, 4, 6)}
    found = method.evaluation()
    (validated,) = run.validate(method, loader(), verbose=False)
    assert validated["val/miou"] == found["miou"]
    assert validated["val/iou/road"] == found["iou"]["road"]
    assert validated["val/information_maximization"] == validated["val/score"] == found["score"]


def test_a_step_and_its_log_read_nothing_back(tmp_path: Path) -> None:
    """From the second step on: what Lightning makes of a name when it is logged first stays."""
    step, checked = Method.training_step, []

    def training_step(self: Method, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        if batch_idx == 0:
            return step(self, batch, batch_idx)
        with no_read_back():
            output = step(self, batch, batch_idx)
        checked.append(batch_idx)
        return output

    with (
        mock.patch.object(Method, "training_step", training_step),
        mock.patch("stpl.losses.pixel_contrast._best", return_value="masked"),
    ):
        trainer(tmp_path).fit(STPL(network=SMALL), loader())
    assert checked == [1, 2]


class Plain(LightningDataModule):
    """A data module that knows nothing of this package."""

    def train_dataloader(self) -> DataLoader[Clip]:
        return loader()

    def val_dataloader(self) -> DataLoader[Clip]:
        return loader()


def test_any_data_module_and_callbacks(tmp_path: Path) -> None:
    stop = EarlyStopping(monitor="val/miou", mode="max", patience=1, min_delta=200.0)
    best = ModelCheckpoint(tmp_path, monitor="train/loss", every_n_train_steps=1, save_top_k=-1)
    run = trainer(tmp_path, max_steps=90, callbacks=[stop, best], enable_checkpointing=True)
    run.fit(STPL(network=SMALL, batchnorm=RENEWED), datamodule=Plain())
    assert run.global_step == 6  # two epochs
    content = torch.load(best.best_model_path, weights_only=True)
    again = STPL.load_from_checkpoint(best.best_model_path, network=SMALL)
    assert all(torch.equal(content["state_dict"][name], value) for name, value in again.state_dict().items())
    assert again.frame_size == (48, 64)


def test_the_suite_and_a_trainer_of_ones_own_train_alike(tmp_path: Path, tiny_run: Callable[..., list[str]]) -> None:
    """To the last digit: losses and evaluations, with views that the method makes itself."""
    options = ("--start_from=null", "--data.init_args.loading.augment_on=device")
    folder = fit(tiny_run("stpl", *options))
    recorded = {(step, name): value for step, name, value in read_metrics(folder / "metrics.csv")}
    cli, _ = build(tiny_run("stpl", *options, "--run.experiment=own"))
    logger = CSVLogger(tmp_path)
    run = trainer(tmp_path, max_steps=4, log_every_n_steps=1, val_check_interval=2, logger=logger)
    run.fit(cli.model, datamodule=cli.datamodule)
    rows = rows_of(logger)
    names = [name for step, name in recorded if step == 4]
    assert {"train/lr", "train/loss", "val/miou", "val/vpq_mean", "val/purity@10"} <= set(names)
    for name in names:
        logged = {int(row["step"]): float(row[name]) for row in rows if row[name]}
        assert logged == {step: value for (step, other), value in recorded.items() if other == name and step}, name
        assert len(logged) == len([row for row in rows if row[name]]), name


@pytest.mark.parametrize("kind", ["shuffled", "unshuffled", "own sampler", "stream"])
def test_clips_to_renew_from_are_fixed_and_disturb_nothing(kind: str) -> None:
    class Stream(IterableDataset[Clip]):
        def __iter__(self) -> Any:
            return iter(single_clips())

    kinds: dict[str, dict[str, Any]] = {
        "shuffled": {"shuffle": True},
        "own sampler": {"batch_size": 1, "batch_sampler": [[5, 4], [3, 2]]},
    }
    options = kinds.get(kind, {})
    made = DataLoader(Stream(), batch_size=2, collate_fn=collate) if kind == "stream" else loader(**options)
    state = torch.get_rng_state()
    found = [renewal_clips(made, 2, CrossFrameAugmentation()) for _ in range(2)]
    assert torch.equal(state, torch.get_rng_state())
    keys = [clip.key for clip in found[0]]
    expected = {"own sampler": [("a/0",), ("a/3",)], "stream": [("a/0", "a/1"), ("a/2", "a/3")]}
    assert keys == expected.get(kind, [("a/0", "a/1"), ("a/3", "a/4")])  # spread evenly
    for one, other in zip(*found, strict=True):
        assert one.augmented is not None
        assert other.augmented is not None
        assert torch.equal(one.augmented, other.augmented)
        assert not torch.equal(one.augmented, one.frames)
        assert not one.labels
    assert all(clip.augmented is None for clip in renewal_clips({"target": made}, 2, None))


def test_statistics_are_renewed_from_the_training_loader(tmp_path: Path) -> None:
    """An evaluation with them differs from one with the running ones, and leaves these as they were."""
    method = STPL(network=SMALL, batchnorm=RENEWED)
    run = trainer(tmp_path, val_check_interval=3)
    run.fit(method, loader(shuffle=True), loader())
    buffers = {name: value.clone() for name, value in method.named_buffers() if "running" in name}
    scores, kinds = [], get_args(StatisticsKind)
    for kind in (*kinds, kinds[0]):
        method.statistics = kind
        scores.append(run.validate(method, loader(), verbose=False)[0]["val/score"])
        assert all(torch.equal(buffers[name], value) for name, value in method.named_buffers() if "running" in name)
    assert scores[0] == scores[3]
    assert len(set(scores)) == 3
    fresh = STPL(network=SMALL)
    fresh.statistics = "original"
    with pytest.raises(ConfigError, match="none to renew statistics from"):
        trainer(tmp_path).validate(fresh, loader(), verbose=False)


def test_views_are_a_function_of_seed_step_and_place(tmp_path: Path) -> None:
    def seen(seed: int) -> list[Tensor]:
        found: list[Tensor] = []

        class Watched(BatchNormStatistics):
            def losses(self, batch: Batch) -> dict[str, Tensor]:
                assert batch.target.augmented is not None
                assert not batch.target.labels
                found.append(batch.target.augmented)
                return super().losses(batch)

        seed_everything(seed)
        trainer(tmp_path).fit(Watched(network=SMALL, augmented=True), loader())
        return found

    one, again, other = seen(1), seen(1), seen(2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_methods_with_source_clips(tmp_path: Path) -> None:
    """As one loader of batches, or as a loader for each domain; TPS makes its views and draws its numbers there too."""

    def paired(clips: Any) -> Batch:
        return Batch(collate(clips), source=collate(clips))

    loaders: list[Any] = [loader(collate_fn=paired), {"target": loader(), "source": loader()}]
    for loaded in loaders:
        method = TPS(network=SMALL)
        method.source_wants = replace(method.source_wants, labels=(0,)) if method.source_wants else None
        run = trainer(tmp_path)
        run.fit(method, loaded, loader())
        assert {"train/cross_entropy", "train/temporal"} <= set(run.callback_metrics)
    with pytest.raises(ConfigError, match="this method wants source clips, and a batch has none"):
        trainer(tmp_path).fit(DAVSN(network=SMALL), loader())


def test_unlabelled_clips_are_evaluated_and_predicted(tmp_path: Path) -> None:
    clips: Any = [replace(clip, labels={}) for clip in single_clips()]
    unlabelled = DataLoader(clips, 2, collate_fn=lambda found: Batch(collate(found)))
    run = trainer(tmp_path)
    (found,) = run.validate(SelfTraining(network=SMALL), unlabelled, verbose=False)
    assert "val/score" in found
    assert "val/miou" not in found
    predictions: Any = run.predict(SelfTraining(network=SMALL), unlabelled)
    assert [list(prediction.shape) for prediction in predictions] == [[2, 48, 64]] * 3


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    """`stpl.load` describes any module; a checkpoint is read with it again."""
    module = Dictionary(15)
    network = stpl.load(module, size=(48, 64), classes="viper15").network
    method = STPL(network=network)
    assert method.network is network
    assert method.options.space.classes[0] == "road"
    run = trainer(tmp_path)
    run.fit(method, loader(), loader())
    assert run.callback_metrics["val/moved"] > 0
    run.save_checkpoint(tmp_path / "own.ckpt")
    other = stpl.load(module, size=(48, 64), classes="viper15").network
    again = STPL.load_from_checkpoint(tmp_path / "own.ckpt", network=other)
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Dictionary(5), "the network predicts 5 classes, 19 are named"),
        (nn.Linear(3, 3), "does not take"),
        ("streets", "it is a str, neither NetworkOptions nor an nn.Module"),
    ],
)
def test_a_network_that_cannot_be_used(network: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        STPL(network=network)


def changed(**fields: Any) -> Clip:
    return replace(collate(single_clips(2)), **fields)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (torch.zeros(2, 3, 8, 8), "training loader, target: it yields float32 [2, 3, 8, 8], not clips"),
        ([1], "training loader, target: it yields a list, not clips"),
        (single_clips(1)[0], "frames are [2, 3, 48, 64], not [B,T,3,H,W]"),
        (changed(frames=torch.zeros(2, 2, 3, 48, 64)), "frames are uint8 RGB in 0…255, these are float32"),
        (changed(flows={}), "clips lack flow (0, -1)"),
        (changed(labels={}), "clips lack label 0"),
        (changed(offsets=(-2, 0)), "clips lack frame -1"),
        ({"train": changed()}, "this method wants target clips, and a batch has none"),
    ],
)
def test_what_a_training_loader_may_not_yield(batch: Any, said: str) -> None:
    wants = STPL(network=SMALL).streams["target"]
    with pytest.raises(StplError) as error:
        training_batch(batch, {"target": replace(wants, labels=(0,))})
    assert said in str(error.value)
    if not isinstance(batch, Mapping) and "label" not in said:
        with pytest.raises(StplError, match=r"evaluation loader: |Clip\.frames: "):
            evaluation_clip(batch)


def test_a_batch_holds_what_is_wanted_and_no_more() -> None:
    wants = replace(SelfTraining(network=SMALL).wants, frames=(-1, 0))
    three = random_clips(0, frames=3)
    found = training_batch(Batch(three, source=three), {"target": wants})
    assert found.source is None
    assert (found.target.labels, found.target.augmented, tuple(found.target.flows)) == ({}, None, (BACKWARD,))
    assert torch.equal(found.target.frames, three.frames[:, 1:])


def test_methods_that_label_the_whole_split_refuse_loaders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CBST labels the whole training split, which loaders cannot serve"):
        trainer(tmp_path).fit(CBST(network=SMALL), loader())


def test_a_data_module_of_the_suite_wants_a_number_of_steps(tmp_path: Path, tiny_streets: Path) -> None:
    data = StreetsData(tiny_streets, TINY, loading=Loading(batch_size=2, num_workers=0))
    with pytest.raises(ConfigError, match="a run is counted in steps"):
        trainer(tmp_path, max_steps=-1, max_epochs=1).fit(SelfTraining(network=SMALL), datamodule=data)
    with pytest.raises(DataError):
        trainer(tmp_path).validate(SelfTraining(network=SMALL), datamodule=RecordedData(tmp_path / "none"))
    assert "__old__init__" not in vars(
        DataLoader
    )  # Lightning's changes, which an error in a loader's hook leaves behind


def test_methods_are_lightning_modules_of_which_nothing_must_be_given_but_the_network() -> None:
    method = SelfTraining(network=SMALL)
    assert isinstance(method, LightningModule)
    assert method.optimizer_options.lr > 0
