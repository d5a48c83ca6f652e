"""The data module of recorded data sets, from VIPER and SYNTHIA-Seq to Cityscapes-Seq."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from fakes import write_cityscapes, write_synthia, write_viper
from stpl.data import flow as optical_flow
from stpl.data.clip import BACKWARD, Wants
from stpl.data.datamodule import RecordedData
from stpl.data.label_space import label_space
from stpl.data.sequence_set import open_set
from stpl.errors import DataError

SIZES: dict[str, Any] = {"target_size": (32, 64), "source_size": (32, 80)}
ALL = Wants(flows=(BACKWARD,), labels=(0,))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_viper(tmp_path / "Viper", sequences=1)
    write_synthia(tmp_path / "SynthiaSeq", clips=1)
    write_cityscapes(tmp_path / "Cityscapes", cities=("ulm",), snippets=1)
    return tmp_path


@pytest.mark.parametrize(("source", "key", "classes"), [("viper", "001_00010", 15), ("synthia", "000001", 12)])
def test_source_trains_on_the_source_and_is_evaluated_on_the_target(
    source: str, key: str, classes: int, root: Path
) -> None:
    data = RecordedData(root, source, **SIZES, domain="source")
    train, val = (data.reader(split).read(0, ALL) for split in ("train", "val"))
    assert data.space_name is not None
    assert label_space(data.space_name).num_classes == classes
    assert (train.key, val.key) == (key, "ulm_000000_000019")
    assert train.frames.shape[2:] == train.labels[0].shape == (32, 80)  # training labels at the frames' size
    assert (val.frames.shape[2:], val.labels[0].shape) == ((32, 64), (64, 128))  # evaluation at the labels' own


def test_target_is_cityscapes(root: Path) -> None:
    data = RecordedData(root, "viper", **SIZES)
    train, val = (data.reader(split).read(0, ALL) for split in ("train", "val"))
    assert train.frames.shape[2:] == train.labels[0].shape == (32, 64)  # labels serve the oracle only
    assert not train.frames.equal(val.frames)
    assert (root / "Cityscapes" / "flow_dis" / "cityscapes" / "train").is_dir()


@pytest.mark.parametrize("cache", [False, True])
def test_adaptation_opens_no_label_and_no_source(cache: bool, root: Path, opened: list[str]) -> None:
    reader = RecordedData(root, "viper", **SIZES, cache=cache).reader("train")
    reader.read(0, Wants(flows=(BACKWARD,)))
    names = [name for name in opened if name.startswith(str(root))]
    assert any("leftImg8bit_sequence" in name for name in names)
    assert not [name for name in names if "gtFine" in name or "Viper" in name]
    reader.read(0, ALL)
    assert [name for name in opened if "gtFine" in name]


@pytest.mark.parametrize("flow", ["estimated", "files"])
def test_the_cache_changes_nothing(flow: Literal["estimated", "files"], root: Path) -> None:
    files = open_set(root, "cityscapes", "train", size=SIZES["target_size"])
    made = np.random.default_rng(0).normal(0, 3, (2, 16, 32)).astype(np.float32)
    optical_flow.write(root / files.flow_folder / files.flow_name(0), made)
    plain, cached = (
        RecordedData(root, "viper", **SIZES, flow=flow, cache=cache).reader("train").read(0, ALL)
        for cache in (False, True)
    )
    assert plain.tensors().keys() == cached.tensors().keys() == {"frames", "flow 0,-1", "label 0"}
    assert all(tensor.equal(cached.tensors()[name]) for name, tensor in plain.tensors().items())
    assert (root / "Cityscapes" / "cache_32x64" / "train" / "flow_dis").exists() == (flow == "estimated")


def test_flow_files_that_are_missing_name_the_command(root: Path) -> None:
    data = RecordedData(root, "viper", **SIZES, flow="files", domain="source")
    with pytest.raises(DataError, match=r"Viper_train: there is no folder[\s\S]*→ make it: stpl data flow viper"):
        data.reader("train")


def test_frame_lists_reach_their_split(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("ulm/ulm_000000_000007_leftImg8bit.png\n")
    data = RecordedData(root, "viper", **SIZES, target_train_list=path)
    assert data.reader("train").read(0, Wants()).key == "ulm_000000_000007"
    assert data.reader("val").read(0, Wants()).key == "ulm_000000_000019"
    path.write_text("001/001_00011.jpg\n")
    with pytest.raises(DataError, match=r"001_00011\.png: there is no such label"):
        RecordedData(root, "viper", **SIZES, source_list=path, domain="source").reader("train")


def test_label_space_can_be_chosen(root: Path) -> None:
    assert RecordedData(root, "synthia").space_name == "synthia12"
    data = RecordedData(root, "viper", label_space="synthia12", domain="source")
    label = data.reader("train").read(0, ALL).labels[0]
    assert label is not None
    assert set(label.flatten().tolist()) <= {*range(12), 255}
