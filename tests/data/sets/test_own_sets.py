"""A data set is one file: three that the package does not know (`counted`, `bdd`, `orchard`) go through every verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repository import REPOSITORY
from stpl.cli import main
from stpl.data.clip import Wants
from stpl.data.datamodule import RecordedData
from stpl.data.sequence_set import open_set
from stpl.data.sets import data_set
from stpl.errors import ConfigError, DataError
from stpl.runs.fit import fit
from stpl.runs.record import read_record

SIZE = {"counted": (64, 128), "bdd": (64, 128), "orchard": (58, 128)}  # what the crop leaves of 64 rows
FIRST = {
    "counted": "0000_frankfurt_000000_001741",
    "bdd": "0000f77c-6257be58-0000307",
    "orchard": "2024-05-03-left-10",
}
LIGHT = [
    "--network.architecture.depth=18",
    "--network.architecture.width=8",
    "--trainer.precision=32-true",
    "--data.loading.num_workers=0",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for name in (*SIZE, "viper"):
        assert main(["data", "fake", name, f"--root={root}", "--size=64,128", "--clips=2"]) == 0
    return root


@pytest.mark.parametrize("name", SIZE)
def test_every_verb_takes_it(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    height, width = SIZE[name]
    options = [name, f"--root={root}", f"--size={height},{width}"]
    assert main(["data", "flow", *options]) == 0
    assert main(["data", "check", *options]) == 0
    said = capsys.readouterr().out
    assert f"{name} train: 2 clips" in said
    assert "2 of 2 flow files" in said
    assert said.endswith("all is well\n")
    assert main(["data", "cache", *options]) == 0


@pytest.mark.parametrize("name", SIZE)
def test_its_clips_are_what_was_drawn(name: str, root: Path) -> None:
    files = open_set(root, name, "train", size=SIZE[name])
    data = RecordedData(root, source=name, target=name, source_size=SIZE[name], domain="source")
    clip = data.reader("train").read(0, Wants(labels=(0,)))
    assert clip.key == FIRST[name] == files.key(0)
    present = set(np.unique(clip.labels[0].numpy()).tolist()) - {255}
    assert 0 in present  # road
    assert len(present) >= 4


def test_numbers_that_change_along_are_looked_up(root: Path) -> None:
    files = open_set(root, "counted", "val", size=SIZE["counted"])
    folder = root / "counted" / "val"
    assert files.frame_path(0, -1) == folder / "img_all" / "0000_0005_frankfurt_000000_001740_newImg8bit.png"
    assert files.frame_path(0) == folder / "img_all" / "0000_0006_frankfurt_000000_001741_newImg8bit.png"
    assert files.label_path(0) == folder / "cls" / "0000_0002_frankfurt_000000_001741_final_mask.png"
    with pytest.raises(DataError, match=r"0000_\*_frankfurt_000000_001734_newImg8bit\.png: there is no such frame"):
        files.require((-7,))


def test_a_label_without_a_number_is_of_the_declared_frame(root: Path) -> None:
    files = open_set(root, "bdd", "val", size=SIZE["bdd"])
    assert files.label_path(0) == root / "bdd/labels/val/0000f77c-6257be58_train_id.png"
    assert files.label_path(0, -1) is None
    assert [files.frame_path(0, offset).stem[-3:] for offset in (-2, 0, 1)] == ["305", "307", "308"]


@pytest.mark.parametrize(("source", "target"), [("viper", "counted"), ("bdd", "orchard"), ("orchard", "bdd")])
def test_any_source_trains_with_any_target(
    source: str, target: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of TPS, which reads labels of the source and three frames of the target; then an evaluation."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("STPL_RUNS", str(tmp_path))
    sets = [f"--data.source={source}", f"--data.target={target}", "--data.label_space=viper15", f"--data.root={root}"]
    steps = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--run.experiment=one_step"]
    sizes = ["--data.source_size=[32,64]", "--data.target_size=[32,64]", "--data.cache=false"]
    start = ["--bench=viper", "--experiment=tps", "--start_from=null", "--model.checkpoint=null"]
    record = read_record(fit([*start, *sets, *sizes, *steps, *LIGHT]))
    assert record is not None
    assert record["steps"] == 1
    assert record["last"]["iou"]["road"] is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "kitti",
            r"no data set 'kitti'\n  → choose one of: cityscapes, synthia, viper, vps; or name a module of your own",
        ),
        ("fakes", r"no data set 'fakes': fakes\.SET is not there"),
        ("repository:REPOSITORY", r"no data set 'repository:REPOSITORY': repository\.REPOSITORY is no DataSet"),
    ],
)
def test_what_declares_no_set_is_told(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data_set(name)


def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn_set.py").write_text("SET = DataSet()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"torn_set cannot be imported \(NameError"):
        data_set("torn_set")
