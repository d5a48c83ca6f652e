from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from stpl.data.label_space import PALETTE, SPACES, SYNTHIA_12, VIPER_15, check_train_ids, label_space
from stpl.data.sets import data_set, names
from stpl.errors import CheckpointError, ConfigError, DataError
from stpl.nn import weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network

OPTIONS = NetworkOptions(DeepLabV2(18, 4, (1,)))


@pytest.mark.parametrize("prefix", ["", "network.", "module."])
def test_weights_load_whatever_the_prefix(prefix: str, tmp_path: Path) -> None:
    source, target = build_network(OPTIONS), build_network(OPTIONS)
    state = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    extra = {"projection.layers.0.weight": torch.zeros(1)} if prefix == "network." else {}
    torch.save({"state_dict": {**state, **extra}}, tmp_path / "a.ckpt")
    weights.load(tmp_path / "a.ckpt", target)
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    torch.save({"wieght": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"1 missing \(weight\); 1 unexpected \(wieght, did you mean weight\?\)"):
        weights.load(tmp_path / "a.pt", nn.Linear(2, 2))


def test_other_shapes_are_named(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"weight \(2, 3\) ≠ \(2, 2\)"):
        weights.load(tmp_path / "a.pt", nn.Linear(2, 2))


def test_a_checkpoint_that_does_not_describe_itself(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="does not describe its network"):
        weights.describe(tmp_path / "a.ckpt")


def test_options_survive_the_checkpoint() -> None:
    assert NetworkOptions.from_dict(OPTIONS.to_dict()) == OPTIONS
    with pytest.raises(ConfigError, match="not the options of a network"):
        NetworkOptions.from_dict({"depth": 18, "dilations": [1], "colour": "red"})


def test_a_checkpoint_from_before_an_option_has_its_default(tmp_path: Path) -> None:
    """Checkpoints that schema 1 wrote when there were fewer options still describe themselves, and load."""
    source = build_network(OPTIONS)
    entry = weights.description(OPTIONS, (48, 96), step=3)
    for name in ("stride_in", "auxiliary"):
        del entry["network"]["architecture"]["init_args"][name]
    del entry["holds"]
    torch.save({"state_dict": source.state_dict(), "stpl": entry}, tmp_path / "a.ckpt")
    assert weights.describe(tmp_path / "a.ckpt") == OPTIONS
    weights.load(tmp_path / "a.ckpt", build_network(OPTIONS), options=OPTIONS)


def test_an_auxiliary_classifier_is_not_dropped_in_silence(tmp_path: Path) -> None:
    double = NetworkOptions(DeepLabV2(18, 4, (1,), auxiliary=True))
    state = build_network(double).state_dict()
    torch.save({"state_dict": state, "stpl": weights.description(double, (48, 96), step=0)}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"auxiliary=True\n.*set network.architecture.auxiliary to that"):
        weights.load(tmp_path / "a.ckpt", build_network(OPTIONS), options=OPTIONS)


def test_the_unified_spaces_differ_in_what_they_ignore_alone() -> None:
    riders = {"cityscapes": {25}, "synthia": {11}, "vps": {12}}  # in viper15, they count as persons
    for name, ignored in (("viper15", riders), ("synthia12", {})):
        lineage, unified = label_space(name), label_space(f"{name}-unified")
        assert (lineage.classes, lineage.reported) == (unified.classes, unified.reported)
        assert (lineage.protocol, unified.protocol) == ("lineage", "unified")
        for dataset in names():
            tables = [data_set(dataset).table(space) for space in (lineage, unified)]
            differing = set((tables[0] != tables[1]).nonzero()[0].tolist())
            assert differing == ignored.get(dataset, set())


def test_label_spaces_follow_the_papers() -> None:
    assert VIPER_15.num_classes == 15
    assert SYNTHIA_12.num_classes == 12
    assert len(SYNTHIA_12.reported) == 11
    assert "fence" not in [SYNTHIA_12.classes[i] for i in SYNTHIA_12.reported]
    for space in SPACES.values():
        assert set(space.classes) <= set(PALETTE)
        assert space.palette.shape == (space.num_classes, 3)
        for dataset in (data_set(name) for name in names()):
            ids = set(dataset.table(space).tolist()) - {255}
            if dataset.name == "cityscapes" or space.name.startswith(dataset.space):
                assert ids == set(range(space.num_classes)), (space.name, dataset.name)


@pytest.mark.parametrize(
    ("dataset", "identifier", "name"),
    [("viper", 7, "vegetation"), ("viper", 8, "vegetation"), ("viper", 22, "bicycle"), ("viper", 25, None),
     ("cityscapes", 25, "person"), ("cityscapes", 33, "bicycle"), ("cityscapes", 17, None)],
)  # fmt: skip
def test_viper_ids(dataset: str, identifier: int, name: str | None) -> None:
    train_id = int(data_set(dataset).table(VIPER_15)[identifier])
    assert (None if train_id == 255 else VIPER_15.classes[train_id]) == name


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigError, match="viper15"):
        label_space("cityscapes18")
    with pytest.raises(ConfigError, match="choose one of: cityscapes, synthia, viper, vps"):
        data_set("kitti")
    with pytest.raises(DataError, match=r"label values \[15, 200\]"):
        check_train_ids(torch.tensor([0, 15, 200, 255], dtype=torch.uint8).numpy(), VIPER_15, "x.png")
