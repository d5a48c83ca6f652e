"""`stpl predict`: files that the benchmark's own evaluator takes, and scores as we do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813
from numpy.typing import NDArray

from repository import REPOSITORY
from stpl.apply.benchmark_labels import label_ids
from stpl.cli import main
from stpl.data.image import read_ids, read_rgb, write_png
from stpl.data.label_space import VIPER_15
from stpl.data.sets import data_set
from stpl.nn import weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.runs.fit import build_evaluation
from stpl.runs.request import Request

pytestmark = pytest.mark.slow

CITYSCAPES = data_set("cityscapes")
SHARED = tuple(int(i) for i in np.flatnonzero(CITYSCAPES.table(VIPER_15) < 15))
"""Ids that the official evaluation and ours both count; it also counts wall (12), pole (17) and train (31)."""
IGNORED = (0, 3, 4, 9, 14, 29)
"""Ids that neither counts."""
OFFICIAL_NAMES = {"light": "traffic light", "sign": "traffic sign"}
NATIVE, INPUT = (96, 192), (48, 96)
FRAMES = ("frankfurt_000000_000294", "frankfurt_000001_000019", "lindau_000003_000019")


def blocks(values: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.uint8]:
    """An image of random rectangles."""
    coarse = generator.choice(np.array(values, dtype=np.uint8), (NATIVE[0] // 12, NATIVE[1] // 12))
    return np.kron(coarse, np.ones((12, 12), np.uint8))


@pytest.fixture
def cityscapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The validation split of Cityscapes-Seq in small: three clips. Labels are put beside it by the tests."""
    monkeypatch.setenv("STPL_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(REPOSITORY)
    generator = np.random.default_rng(0)
    for frame in FRAMES:
        city, sequence, number = frame.split("_")
        folder = tmp_path / "data" / "Cityscapes" / "leftImg8bit_sequence" / "val" / city
        image = np.stack([blocks(tuple(range(0, 256, 17)), generator) for _ in range(3)], -1)
        for n, shift in ((int(number) - 1, 3), (int(number), 0)):
            write_png(folder / f"{city}_{sequence}_{n:06d}_leftImg8bit.png", np.roll(image, shift, 1))
    return tmp_path / "data"


def label(root: Path, ids: tuple[int, ...]) -> list[Path]:
    """Write labels that hold these ids; returns the files."""
    generator = np.random.default_rng(1)
    files = []
    for frame in FRAMES:
        folder = root / "Cityscapes" / "gtFine" / "val" / frame.split("_")[0]
        files.append(folder / f"{frame}_gtFine_labelIds.png")
        write_png(files[-1], blocks(ids, generator))
    return files


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A random network that predicts many classes and looks at both frames."""
    torch.manual_seed(3)
    options = NetworkOptions(DeepLabV2(18, 4, (1, 2)))
    network = build_network(options)
    with torch.no_grad():
        network.segmenter.classifier.conv2d_list[0].weight.normal_()  # type: ignore[union-attr, index]
        network.score_fusion.weight.normal_()
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    path = tmp_path / "some.ckpt"
    torch.save({"state_dict": state, "stpl": weights.description(options, INPUT, step=0)}, path)
    return path


def arguments(root: Path, checkpoint: Path) -> list[str]:
    size = f"--data.init_args.target_size=[{INPUT[0]},{INPUT[1]}]"
    return ["--bench=viper", f"--network={checkpoint}", f"--data.init_args.root={root}", size,
            "--data.init_args.loading.num_workers=0"]  # fmt: skip


def ours(root: Path, checkpoint: Path, *extra: str) -> dict[str, Any]:
    """What `stpl test` finds, to the last digit."""
    cli = build_evaluation(Request.parse([*arguments(root, checkpoint), *extra]))
    cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    found: dict[str, Any] = cli.model.evaluation()
    return found


def theirs(out: Path, labels: list[Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the official evaluator finds, in percent by its class names; it looks for the predictions itself."""
    for name, value in {
        "predictionPath": str(out), "predictionWalk": None, "evalInstLevelScore": False, "JSONOutput": False,
        "quiet": True,
    }.items():  # fmt: skip
        monkeypatch.setattr(official.args, name, value)
    truths = [str(path) for path in labels]
    found = official.evaluateImgLists([official.getPrediction(official.args, p) for p in truths], truths, official.args)
    return {name: 100 * iou for name, iou in found["classScores"].items()}


@pytest.mark.parametrize("with_rider", [False, True])
def test_the_official_evaluator_agrees(
    with_rider: bool, cityscapes: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per-class IoU is equal where both protocols ask the same.

    The labels hold no wall, pole or train, which we ignore and the official evaluation counts. Rider is a class of its
    own there and person for us: with riders, the score of person differs, and no other.
    """
    labels = label(cityscapes, (*(i for i in SHARED if with_rider or i != 25), *IGNORED))
    assert main(["predict", *arguments(cityscapes, checkpoint), f"--out={tmp_path / 'out'}"]) == 0
    expected, found = theirs(tmp_path / "out", labels, monkeypatch), ours(cityscapes, checkpoint)["iou"]
    shared = [name for name in VIPER_15.classes if name != "person" or not with_rider]
    assert [found[name] for name in shared] == pytest.approx(
        [expected[OFFICIAL_NAMES.get(name, name)] for name in shared], abs=1e-6
    )
    assert sum(value > 0 for value in found.values()) >= 5  # a network that predicts one class would prove little
    if with_rider:
        assert found["person"] != pytest.approx(expected["person"], abs=1e-6)


def test_the_unified_protocol_ignores_riders(cityscapes: Path, checkpoint: Path) -> None:
    """Labels with riders score as the same labels with those pixels ignored."""
    files = label(cityscapes, (*SHARED, *IGNORED))
    lineage, unified = (
        ours(cityscapes, checkpoint),
        ours(cityscapes, checkpoint, "--network.label_space=viper15-unified"),
    )
    for path in files:
        ids = read_ids(path)
        write_png(path, np.where(ids == 25, 0, ids).astype(np.uint8))
    assert unified["iou"] == ours(cityscapes, checkpoint)["iou"] != lineage["iou"]
    assert (lineage["protocol"], unified["protocol"]) == ("lineage", "unified")


def test_predictions_have_the_label_s_size_and_colours_stay_out_of_the_way(
    cityscapes: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(cityscapes, SHARED)
    out = tmp_path / "new" / "out"
    call = ["predict", *arguments(cityscapes, checkpoint), f"--out={out}"]
    assert main([*call, "--colors=true"]) == 0
    assert {path.name for path in out.glob("*.png")} == {f"{frame}_pred_labelIds.png" for frame in FRAMES}
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    ids, color = read_ids(out / f"{FRAMES[0]}_pred_labelIds.png"), read_rgb(out / "colors" / f"color_{FRAMES[0]}.png")
    assert ids.shape == NATIVE
    assert set(np.unique(ids)) <= set(SHARED) - {25}
    colours = VIPER_15.palette.tolist()
    table = {int(i): tuple(rgb) for i, rgb in zip(label_ids(VIPER_15, CITYSCAPES), colours, strict=True)}
    assert all(tuple(color[y, x]) == table[int(ids[y, x])] for y, x in ((0, 0), (50, 60), (95, 191)))
    assert main(call) == 2
    assert "something here already" in capsys.readouterr().err


def test_a_failure_leaves_no_folder(cityscapes: Path, checkpoint: Path, tmp_path: Path) -> None:
    files = label(cityscapes, SHARED)
    files[-1].write_bytes(files[-1].read_bytes()[:60])
    assert main(["predict", *arguments(cityscapes, checkpoint), f"--out={tmp_path / 'out'}"]) == 2
    assert not (tmp_path / "out").exists()
    label(cityscapes, SHARED)
    assert main(["predict", *arguments(cityscapes, checkpoint), f"--out={tmp_path / 'out'}"]) == 0


def test_colors_must_be_a_switch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--bench=viper", "--network=a", "--out=b", "--colors=blue"]) == 2
    assert "neither true nor false" in capsys.readouterr().err


def test_help_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict"]) == 0
    assert "usage: stpl predict" in capsys.readouterr().out
