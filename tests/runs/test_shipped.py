"""The source models that the package ships: their files, what they belong to, and how a run finds them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crash import crash_at
from stpl.data import streets
from stpl.data.clip import ClipReader, Frame
from stpl.data.datamodule import StreetsData
from stpl.data.flow import estimate
from stpl.data.streets import Drive, StreetsOptions, draw_drive
from stpl.errors import CheckpointError, ConfigError
from stpl.nn import checkpoint_files, formats, weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.runs import ship, shipped
from stpl.runs.build import build, starting_point
from stpl.runs.experiments import EXPERIMENTS
from stpl.runs.fit import fit
from stpl.runs.record import RunKey, read_metrics

Arguments = Callable[..., list[str]]
SEEDS = range(5)
SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 3)))


# --- files


def test_a_safetensors_file_is_what_the_format_says(tmp_path: Path) -> None:
    """Against bytes put together by hand."""
    tensors = {"a": torch.tensor([[1.5, -2.0]]), "b": torch.tensor(7), "c": torch.tensor([0.5]).half()}
    formats.write_safetensors(tmp_path / "x.safetensors", tensors, {"step": 3})
    data = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert json.loads(data[8 : 8 + length]) == {
        "__metadata__": {"stpl": '{"step": 3}'},
        "b": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
        "a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [8, 16]},
        "c": {"dtype": "F16", "shape": [1], "data_offsets": [16, 18]},
    }
    numbers = np.array(7, "<i8").tobytes() + np.array([1.5, -2.0], "<f4").tobytes() + np.array(0.5, "<f2").tobytes()
    assert data[8 + length :] == numbers  # the largest types first, as the library aligns them
    content = formats.read(tmp_path / "x.safetensors")
    assert content["stpl"] == {"step": 3}
    assert all(torch.equal(content["state_dict"][name], tensors[name]) for name in tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_description_that_is_no_json_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    text = json.dumps({"__metadata__": {"stpl": "{"}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="description cannot be read"):
        weights.read(path)


# --- those that are there


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shipped_model_belongs_to_the_recipe_as_it_is(seed: int) -> None:
    """If this fails, what is drawn in the studio, the recipe or the network has changed: `make ship`."""
    path = checkpoint_files.shipped("streets", seed)
    assert path.is_file(), f"{path} is missing: `make ship` makes it"
    assert shipped.source_model(seed) == Path(f"streets:{seed}")
    assert weights.entry(path)["seed"] == seed
    network = build_network(weights.describe(path))
    weights.load(path, network)
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())


def test_shipped_models_are_small_and_differ() -> None:
    files = [checkpoint_files.shipped("streets", seed) for seed in SEEDS]
    assert sum(path.stat().st_size for path in files) <= 10e6
    assert len({path.read_bytes()[-1000:] for path in files}) == len(SEEDS)


def test_a_shipped_model_scores_what_its_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpl.data.datamodule.open_split", _drawn_in(tmp_path))
    said = weights.entry(checkpoint_files.shipped("streets", 0))["studio_miou"]
    assert said > 55
    assert ship.studio_miou(Path("streets:0")) == pytest.approx(said, abs=0.3)


def _drawn_in(root: Path) -> Callable[..., Any]:
    from stpl.data.streets import open_split

    return lambda _, *arguments: open_split(root, *arguments)


class Drawn(ClipReader):
    """The clips of a split, each drawn when it is asked for."""

    def __init__(self, domain: str, split: str) -> None:
        self.options, self.place = StreetsOptions(), (domain, split)

    def __len__(self) -> int:
        return self.options.drives(*self.place) * (self.options.frames - 1)

    @property
    def name(self) -> str:
        return "drawn"

    def key(self, index: int) -> str:
        return "d"

    def drawn(self, index: int, offset: int) -> tuple[Drive, int]:
        number, frame = divmod(index, self.options.frames - 1)
        return _drive(*self.place, number), frame + 1 + offset

    def frame(self, index: int, offset: int = 0) -> Frame:
        drive, number = self.drawn(index, offset)
        frame: Frame = drive.frames[number].transpose(1, 2, 0)
        return frame

    def flow(self, index: int, of: int = 0, to: int = -1) -> torch.Tensor:
        later, earlier = (np.ascontiguousarray(self.frame(index, offset)) for offset in (of, to))
        return torch.from_numpy(estimate(later, earlier))

    def label(self, index: int, offset: int = 0) -> torch.Tensor:
        drive, number = self.drawn(index, offset)
        return torch.from_numpy(drive.labels[number].astype(np.int64))


@lru_cache(maxsize=4)
def _drive(domain: str, split: str, number: int) -> Drive:
    """A clip asks for its drive at each frame, flow and label."""
    return draw_drive(StreetsOptions(), domain, split, number)


@pytest.mark.long
def test_the_recipe_starts_as_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of source training give the loss that stands in the file."""
    monkeypatch.setenv("STPL_RUNS", str(tmp_path))
    monkeypatch.setattr(StreetsData, "open", lambda self, domain, split: Drawn("studio", split))
    step, loss = weights.entry(checkpoint_files.shipped("streets", 0))["first_loss"]
    short = [f"--trainer.max_steps={step}", f"--trainer.val_check_interval={step}", "--trainer.limit_val_batches=1"]
    few = ["--optimizer.horizon=800", "--data.loading.eval_batch_size=2", "--data.loading.num_workers=0"]
    folder = fit(["--bench=streets", "--experiment=source", "--seed_everything=0", *short, *few])
    found = {(at, name): value for at, name, value in read_metrics(folder / "metrics.csv")}
    assert found[step, "train/loss"] == pytest.approx(loss, rel=0.05)


# --- what they belong to


def test_what_makes_a_model_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shipped.fingerprint(0)
    assert before == shipped.fingerprint(0) != shipped.fingerprint(1)
    home = tmp_path / "streets"
    shutil.copytree(Path(str(streets.__file__)).parent, home)
    monkeypatch.setattr(streets, "__file__", str(home / "__init__.py"))
    assert shipped.fingerprint(0) == before
    for name, changes in (("domain", False), ("cache", False), ("palette", True), ("render", True)):
        text = (home / f"{name}.py").read_text()
        (home / f"{name}.py").write_text(text + "\nCHANGED = 1\n")
        assert (shipped.fingerprint(0) != before) == changes, name
        (home / f"{name}.py").write_text(f'{text}\n# a comment\ndef f() -> None:\n    """A word."""\n')
        (home / f"{name}.py").write_text(text.replace('"""', '"""More words. ', 1) + "\n# a comment\n\n")
        assert shipped.fingerprint(0) == before, name
        (home / f"{name}.py").write_text(text)


@pytest.mark.parametrize(
    ("overlay", "before", "after"),
    [
        ("bench/streets.yaml", "width: 16", "width: 24"),
        ("bench/streets.training.yaml", "lr: 2.0e-3", "lr: 1.0e-3"),
        ("bench/streets.training.yaml", "max_steps: 800", "max_steps: 900"),
        ("bench/streets.training.yaml", "batch_size: 8", "batch_size: 4"),
    ],
)
def test_another_recipe_or_network_makes_it_stale(
    overlay: str, before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "experiments"
    shutil.copytree(EXPERIMENTS, copy)
    now = shipped.fingerprint(0)
    monkeypatch.setenv("STPL_EXPERIMENTS", str(copy))
    assert shipped.fingerprint(0) == now
    path = copy / overlay
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    assert shipped.fingerprint(0) != now


def test_other_drives_make_it_stale_and_another_camera_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = shipped.fingerprint(0)
    monkeypatch.setattr(shipped, "StreetsOptions", lambda: StreetsOptions(shift="fog"))
    assert shipped.fingerprint(0) == now
    monkeypatch.setattr(shipped, "StreetsOptions", lambda: StreetsOptions(train_drives=301))
    assert shipped.fingerprint(0) != now


# --- how a run finds them


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped models with one tiny stand-in, of seed 0."""
    monkeypatch.setattr(checkpoint_files, "SHIPPED", tmp_path / "models")
    monkeypatch.setenv("STPL_RUNS", str(tmp_path / "runs"))
    path = checkpoint_files.shipped("streets", 0)
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    about = weights.description(SMALL, (48, 96), 4) | {"seed": 0, "fingerprint": shipped.fingerprint(0)}
    formats.write_safetensors(path, build_network(SMALL).state_dict(), about)
    return path


def test_names_of_shipped_models(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoint_files.located(Path("streets")) == checkpoint_files.located(Path("streets:0")) == shelf
    assert weights.describe(Path("streets")) == SMALL
    with pytest.raises(CheckpointError, match="no source model of streets with seed 7") as refused:
        weights.read(Path("streets:7"))
    assert "choose one of the seeds 0" in str(refused.value)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        weights.read(Path("viper:0"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "streets").mkdir()
    assert checkpoint_files.located(Path("streets")) == shelf  # a folder of runs is no checkpoint
    (tmp_path / "streets").rmdir()
    (tmp_path / "streets").write_bytes(b"")
    assert checkpoint_files.located(Path("streets")) == Path("streets")  # what is there wins


@pytest.mark.slow
def test_a_variant_starts_from_the_source_models_of_its_benchmark(shelf: Path, tiny_run: Arguments) -> None:
    """`streets-long` has none of its own: first the shipped one, then that of `streets` here, at last its own."""
    arguments = ["--bench=streets-long", *tiny_run("stpl", steps=2)[1:]]

    def start() -> str:
        return str(build(arguments)[0].config.model.init_args.checkpoint)

    assert start() == "streets:0"
    fit(tiny_run("source", steps=2))
    assert start().endswith("streets/source/seed0/checkpoints/last.ckpt")
    fit(["--bench=streets-long", *tiny_run("source", steps=2)[1:]])
    assert start().endswith("streets-long/source/seed0/checkpoints/last.ckpt")


@pytest.mark.slow
def test_a_run_starts_from_its_own_source_model_or_the_shipped_one(
    shelf: Path, tiny_run: Arguments, tmp_path: Path
) -> None:
    assert starting_point(RunKey("streets", "source", 0)) == Path("streets:0")
    own = RunKey("streets", "source", 0).directory(tmp_path / "runs")
    own.mkdir(parents=True)
    assert starting_point(RunKey("streets", "source", 0)) == Path("streets:0")  # begun, but not recorded
    adapted = fit(tiny_run("stpl", steps=2))
    assert "checkpoint: streets:0" in (adapted / "config.yaml").read_text()
    fit(tiny_run("source", steps=2))
    assert starting_point(RunKey("streets", "source", 0)) == own / "checkpoints" / "last.ckpt"
    assert starting_point(RunKey("viper", "source", 0)).parts[-4:] == ("source", "seed0", "checkpoints", "last.ckpt")


@pytest.mark.slow
def test_the_seed_of_the_source_model_can_be_chosen(shelf: Path, tiny_run: Arguments) -> None:
    with pytest.raises(ConfigError, match="no source model of seed 3") as refused:
        fit(tiny_run("spatial", "--seed_everything=3"))
    assert "stpl fit --bench=streets --experiment=source --seed_everything=3" in str(refused.value)
    adapted = fit(tiny_run("spatial", "--seed_everything=3", "--start_seed=0", steps=2))
    assert "checkpoint: streets:0" in (adapted / "config.yaml").read_text()


@pytest.mark.long
def test_a_run_from_a_shipped_model_goes_on_from_another_folder(
    shelf: Path, tiny_run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared is the model's name: it has no place, and a run's source model may have been moved."""
    options = tiny_run("spatial", "--run.checkpoint_every=1", "--trainer.val_check_interval=1")
    crash_at(3, options)
    shutil.copytree(EXPERIMENTS.absolute(), tmp_path / "elsewhere" / "experiments")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (fit(options) / "result.json").exists()
    fit(tiny_run("source", steps=2))
    moved = tiny_run("duplicate", "--run.checkpoint_every=1", "--trainer.val_check_interval=1")
    crash_at(3, moved)
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere" / "runs")
    monkeypatch.setenv("STPL_RUNS", str(tmp_path / "elsewhere" / "runs"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (fit(moved) / "result.json").exists()


@pytest.mark.slow
def test_a_stale_model_is_not_taken(shelf: Path, tiny_run: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "fingerprint", lambda seed: "another")
    with pytest.raises(ConfigError, match="trained with another renderer, recipe or network") as refused:
        fit(tiny_run("stpl"))
    assert "make ship" in str(refused.value)


@pytest.mark.slow
def test_shipping_recorded_runs(tiny_run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the bytes, statistics as they were, and the numbers of the file are those of what is in it."""
    monkeypatch.setattr(checkpoint_files, "SHIPPED", tmp_path / "models")
    monkeypatch.setattr(
        ship, "studio_miou", lambda path: 12.5 if path == checkpoint_files.shipped("streets", 0) else -1
    )
    with pytest.raises(ConfigError, match="seed0 is not recorded"):
        ship.ship(runs=tmp_path / "runs", seeds=1)
    run = fit(tiny_run("source", steps=2))
    ship.ship(runs=tmp_path / "runs", seeds=1)
    path = checkpoint_files.shipped("streets", 0)
    found, about = weights.read(path)["state_dict"], weights.entry(path)
    state = weights.tensors(weights.read(run / "checkpoints" / "last.ckpt"))
    assert found.keys() == state.keys()
    for name, value in state.items():
        kept = "running" in name or not value.is_floating_point()
        assert torch.equal(found[name], value if kept else value.half())
    assert about["studio_miou"] == 12.5
    first = next((step, value) for step, name, value in read_metrics(run / "metrics.csv") if name == "train/loss")
    assert tuple(about["first_loss"]) == first
    assert about["fingerprint"] == shipped.fingerprint(0)
    assert path.stat().st_size < 0.6 * (run / "checkpoints" / "last.ckpt").stat().st_size
