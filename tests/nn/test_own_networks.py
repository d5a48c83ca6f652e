"""A network of the user's own, from its callable to weights that its own code loads."""

from __future__ import annotations

import copy
import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import own_networks
import stpl
from own_networks import CLASSES, Dictionary, PoolingIndices, WithoutBatchNorm
from repository import REPOSITORY
from segformer import save_segformer
from stpl.apply import adapt as adaptation
from stpl.apply.guard import Verdict
from stpl.apply.loaded import open_network
from stpl.apply.origin import NetworkOrigin, read_classes
from stpl.cli import main
from stpl.data.clip import BACKWARD, Clip
from stpl.errors import CheckpointError, ConfigError
from stpl.nn import weights
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.huggingface import SemanticMaps
from stpl.nn.network import NetworkOptions, build_network
from stpl.nn.outputs import FeatureLayer, candidates, grid_in, logits_in, proposal, proposed
from stpl.nn.own import OwnNetwork

SIZE = (64, 96)
NAMES = "classes: [road, car, tree, sky, other]\n"


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that hands back what was trained last, whatever it is worth."""
    monkeypatch.setattr(
        adaptation, "choose", lambda scored, take: Verdict(scored[-1], tuple(scored), "the last one", scored[-1])
    )


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.yaml"
    path.write_text(NAMES)
    return path


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    ("name", "layer", "experiment"),
    [("Dictionary", "backbone.2", "stpl"), ("PoolingIndices", "second", "mean_teacher"),
     ("WithoutBatchNorm", "mix", "stpl")],
)  # fmt: skip
def test_adapted_weights_come_back_as_they_went(
    name: str,
    layer: str,
    experiment: str,
    drive: Path,
    classes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(1)
    net: nn.Module = getattr(own_networks, name)()
    torch.save({"model": net.state_dict(), "epoch": 3}, tmp_path / "mine.pth")
    out = tmp_path / "out"
    args = ["adapt", f"--network=own_networks:{name}", f"--weights={tmp_path / 'mine.pth'}", f"--features={layer}",
            f"--classes={classes}", f"--video={drive}", "--size=64,96", "--steps=2", "--batch_size=2", "--lr=1e-3",
            f"--output={out}", f"--experiment={experiment}", "--film=true"]  # fmt: skip
    assert main(args) == 0
    adapted = torch.load(out / "adapted.pt", weights_only=True)
    again = copy.deepcopy(net)
    again.load_state_dict(adapted)
    assert adapted.keys() == net.state_dict().keys()
    moved = [key for key, value in net.state_dict().items() if not torch.equal(value, adapted[key])]
    assert any("weight" in key for key in moved)
    start = {
        name.removeprefix("segmenter.net."): value
        for name, value in weights.of_file(out / "start.ckpt").items()
        if name.startswith("segmenter.net.")
    }
    assert all(torch.equal(start[key], value) for key, value in net.state_dict().items())
    assert (out / "side_by_side.webm").stat().st_size > 0
    # What ACCEL says of the adapted network is what the network says by itself.
    network = build_network(weights.describe(out / "adapted.ckpt", f"own_networks:{name}")).eval()
    weights.load(out / "adapted.ckpt", network)
    frames = torch.randint(0, 256, (1, 2, 3, *SIZE), dtype=torch.uint8)
    with torch.no_grad():
        ours = network(Clip(frames, {BACKWARD: torch.zeros(1, 2, *SIZE)}))
        theirs = logits_in(again.eval()(network.segmenter.normalize(frames[:, 1])), "")
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert main(args) == 0  # called again: nothing is left to do
    torch.save(getattr(own_networks, name)().state_dict(), tmp_path / "mine.pth")
    assert main(args) == 2
    assert "began with other weights" in capsys.readouterr().err


def named(layer: FeatureLayer | None) -> tuple[str, int, int] | None:
    return None if layer is None else layer[:3]


def test_a_layer_is_proposed() -> None:
    found = candidates(Dictionary(), SIZE)
    assert named(proposed(found, CLASSES)) == ("backbone", 32, 8)
    assert [layer.stride for layer in found if layer.name in ("backbone.0", "backbone.1")] == [2, 4]
    assert candidates(nn.Conv2d(3, 2, 1), SIZE) == []
    assert proposed([], 3) is None
    fine = proposed(candidates(PoolingIndices(), SIZE), CLASSES)
    assert named(fine) == ("second", 16, 2)  # the decoder's grid is that of the frames
    assert named(proposed(found, 32)) == ("backbone.1", 16, 4)


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("unet", ("down.4", 192, 16)),  # not the decoder, which it called last
        ("segnet", ("bottom", 64, 16)),
        ("pyramid", ("encoder", 128, 8)),  # not the pyramid's grids, which are coarser, nor its classifier
        ("transformer", ("stages.2", 128, 16)),  # not the grids that attention reads, nor the end of the head
    ],
)
@pytest.mark.parametrize("size", [(128, 256), (128, 128)])
def test_the_deepest_map_is_proposed(
    kind: str, layer: tuple[str, int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    net = getattr(importlib.import_module("other_networks"), kind)()
    found = candidates(net, size)
    chosen = proposed(found, 15)
    assert named(chosen) == layer
    assert chosen is not None
    line = proposal(chosen, found, 15)
    assert line.startswith(f"{layer[0]} ({layer[1]} channels, 1/{layer[2]}), the deepest map")
    assert "(15 channels" not in line  # logits
    assert line.count("channels, 1/") > 1


def test_a_grid_of_tokens_on_the_way_does_not_make_the_patches_the_features() -> None:
    """The patches' grid has the most channels, and nearly all weights come after it."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.layer = nn.Conv2d(3, 32, 16, 16), nn.Linear(32, 32)
            self.layers = nn.Sequential(*(nn.Linear(32, 32) for _ in range(40)))
            self.neck, self.head = nn.Conv2d(32, 16, 1), nn.Conv2d(16, CLASSES, 1)

        def forward(self, x: Tensor) -> Tensor:
            grid = self.patches(x)
            return self.head(self.neck(self.layers(grid.flatten(2).mT).mT.reshape(grid.shape)))  # type: ignore[no-any-return]

    assert named(proposed(candidates(Tokens(), SIZE), CLASSES)) == ("neck", 16, 16)


def test_a_dictionary_of_maps_is_known_by_its_first() -> None:
    maps = {"out": torch.zeros(1, 8, 2, 3), "aux": torch.zeros(1, 4, 4, 6)}
    assert grid_in(maps) is maps["out"]
    assert grid_in((maps["aux"], 1)) is maps["aux"]


def test_logits_are_found_where_they_stand(classes: Path) -> None:
    model = open_network(NetworkOrigin(network="own_networks:pair", size=SIZE, logits="1", classes=str(classes)))
    assert model.network is not None
    assert model.network.segmenter(torch.zeros(1, 3, *SIZE)).logits.shape == (1, CLASSES, *SIZE)
    tensor = torch.zeros(1, 2, 3, 4)
    for output, path in ((tensor, ""), ({"out": tensor}, ""), ((tensor, 1), ""), ({"a": [None, tensor]}, "a.1")):
        assert logits_in(output, path) is tensor
    assert logits_in(SimpleNamespace(logits=tensor, loss=1), "") is tensor


def opened(build: str, size: tuple[int, int] | None = SIZE, **settings: object) -> None:
    open_network(NetworkOrigin(network=build, size=size, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "settings", "said"),
    [
        ("own_networks:Dictionary", {"features": "backbon"}, "no layer 'backbon'.*did you mean 'backbone'.*1/8"),
        ("own_networks:Dictionary", {}, "predicts 5 classes, 19 are named"),
        ("own_networks:Dictionary", {"logits": "seg"}, "no 'seg', but out, aux"),
        ("own_networks:Dictionary", {"arguments": {"depth": 3}}, "fails: .*depth"),
        ("own_networks:FixedSize", {"size": (32, 32)}, "does not take 1 frame.s. of 32×32 pixels: expected 64x96"),
        ("own_networks:broken", {}, "fails: no such backbone"),
        ("own_networks:number", {}, "gives a int, no nn.Module"),
        ("own_networks:scripted", {}, "gives a RecursiveScriptModule, no nn.Module of Python"),
        ("own_networks:Probabilities", {}, "gives probabilities, not logits"),
        ("own_networks:nothing", {}, "nothing"),
        ("no_such_package:net", {}, "No module named"),
        ("own_networks:WithoutBatchNorm", {"features": "tokens", "classes": 5}, r"\[1, 384, 16\], not features"),
        ("own_networks:Dictionary", {"size": None}, "size is not known"),
        ("own_networks:Dictionary", {"channels": "hsv"}, "'hsv' is no order"),
        ("own_networks:Dictionary", {"std": (0.0, 1.0, 1.0)}, "std above 0"),
    ],
)  # fmt: skip
def test_hostile_networks_get_one_clear_line(build: str, settings: dict[str, object], said: str, classes: Path) -> None:
    if settings.get("classes") == CLASSES:
        settings = settings | {"classes": str(classes)}
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        opened(build, **({"size": SIZE} | settings))  # type: ignore[arg-type]


def test_weights_that_do_not_fit(tmp_path: Path, classes: Path) -> None:
    torch.save(Dictionary(width=4).state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(CheckpointError, match="another shape"):
        opened("own_networks:Dictionary", weights=tmp_path / "narrow.pth", classes=str(classes))
    torch.save(own_networks.poisoned().state_dict(), tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match="diverged"):
        opened("own_networks:Dictionary", weights=tmp_path / "nan.pth", classes=str(classes))
    wrapped = {f"module.{key}": value for key, value in Dictionary().state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "wrapped.pth")
    opened("own_networks:Dictionary", weights=tmp_path / "wrapped.pth", classes=str(classes))


@pytest.mark.parametrize(
    ("name", "said"),
    [("WithoutGradient", "its logits take no gradient"), ("OneFrame", r"does not take \d+ frame\(s\).*one at a time"),
     ("Holding", "cannot be copied: .*lock"), ("Nothing", "output is not finite")],
)  # fmt: skip
def test_what_shows_only_in_training(
    name: str, said: str, drive: Path, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and what would mend it; no result."""
    out = tmp_path / "out"
    code = main(["adapt", f"--network=own_networks:{name}", f"--classes={classes}", f"--video={drive}", "--size=64,96",
                 "--steps=1", "--batch_size=2", f"--output={out}"])  # fmt: skip
    told = capsys.readouterr().err
    assert code in (2, 4)
    assert re.search(rf"stpl adapt: .*{said}.*\n +→", told)
    assert "Traceback" not in told
    assert not (out / "adapted.ckpt").exists()


@pytest.mark.slow
def test_what_needs_two_clips_a_step(drive: Path, classes: Path, tmp_path: Path) -> None:
    net = stpl.load("own_networks:Pooled", size=SIZE, classes=str(classes))
    with pytest.raises(ConfigError, match="--batch_size=2"):
        stpl.adapt(net, drive, tmp_path / "one", steps=1, batch_size=1)
    scored = stpl.adapt(net, drive, tmp_path / "two", steps=2, batch_size=2).verdict.scored
    assert [one.name for one in scored] == ["start", "original", "augmented", "step1", "step2"]


@pytest.mark.slow
def test_half_precision_and_frozen_parameters(drive: Path, tmp_path: Path, classes: Path) -> None:
    """Neither is in the way; what the network's own code froze may learn here."""
    mine = Dictionary().half().requires_grad_(False)
    net = stpl.load(mine, size=SIZE, classes=str(classes))
    result = stpl.adapt(net, drive, tmp_path / "out", steps=1, batch_size=1)
    assert result.weights is not None
    mine.load_state_dict(torch.load(result.weights, weights_only=True))
    assert next(mine.parameters()).dtype == torch.float16


def test_no_file_has_a_function_called(tmp_path: Path, classes: Path) -> None:
    model = open_network(NetworkOrigin(network="own_networks:Dictionary", size=SIZE, classes=str(classes)))
    model.save(tmp_path / "mine.ckpt")
    with pytest.raises(CheckpointError, match=r"nothing that a file names is called(.|\n)*--builder=own_networks"):
        weights.describe(tmp_path / "mine.ckpt")
    assert weights.describe(tmp_path / "mine.ckpt", "own_networks:Dictionary") == model.options
    with pytest.raises(CheckpointError, match="is of the network own_networks:Dictionary, not of DeepLabV2"):
        weights.load(
            tmp_path / "mine.ckpt",
            build_network(NetworkOptions(DeepLabV2(18, 4))),
            options=NetworkOptions(DeepLabV2(18, 4)),
        )


def test_classes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(NAMES + "palette: [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0], [255, 255, 255]]\n")
    space = read_classes(str(path))
    assert space.classes == ("road", "car", "tree", "sky", "other")
    assert space.palette[1].tolist() == [4, 5, 6]
    path.write_text(NAMES)
    plain = read_classes(str(path)).palette
    assert plain[0].tolist() == [128, 64, 128]  # Cityscapes' road
    assert len({tuple(colour) for colour in plain.tolist()}) == 5
    wrong = {
        "names: [a]\n": "unknown key 'names'",
        "classes: [a, a]\n": "1 of them different",
        "classes: [a]\npalette: [[1, 2]]\n": "1 colours for 1 classes",
        "classes: 3\n": "lacks a list",
    }
    for text, said in wrong.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_classes(str(path))
    assert read_classes("cityscapes19").num_classes == 19


def test_adapt_asks_for_one_network(capsys: pytest.CaptureFixture[str], drive: Path) -> None:
    assert main(["adapt", f"--video={drive}"]) == 2
    assert "--network: give a network" in capsys.readouterr().err
    assert main(["adapt", "--network=own_networks:Dictionary"]) == 2
    assert "video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "settings", "option"),
    [
        ("streets", {"features": "layer4"}, "--features"),
        ("streets", {"weights": Path("w.pth")}, "--weights"),
        ("hf:folder", {"arguments": {"a": 1}}, "--arguments"),
        ("hf:folder", {"weights": Path("w.pth")}, "--weights"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(model: str, settings: dict[str, object], option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: this does nothing here"):
        opened(model, **settings)  # type: ignore[arg-type]


def test_options_go_through_plain_types() -> None:
    own = OwnNetwork("a.b:c", {"x": [1]}, "layer", "out")
    options = NetworkOptions(own, classes=("a", "b"), palette=((1, 2, 3), (4, 5, 6)))
    assert NetworkOptions.from_dict(options.to_dict()) == options
    assert "classes" not in NetworkOptions().to_dict()
    assert WithoutBatchNorm().state_dict().keys() != PoolingIndices().state_dict().keys()


# --- Hugging Face -----------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.usefixtures("trusting")
def test_a_segformer_comes_back_as_one(tmp_path: Path, drive: Path) -> None:
    from transformers import AutoModelForSemanticSegmentation

    save_segformer(tmp_path / "mine")
    out = tmp_path / "out"
    assert main(["adapt", f"--network=hf:{tmp_path / 'mine'}", f"--video={drive}", "--size=64,96", "--steps=2",
                 "--batch_size=2", "--lr=1e-3", f"--output={out}"]) == 0  # fmt: skip
    before, after = (AutoModelForSemanticSegmentation.from_pretrained(x) for x in (tmp_path / "mine", out / "adapted"))
    assert after.config.id2label == {0: "road", 1: "car", 2: "sky"}
    assert (out / "adapted" / "preprocessor_config.json").is_file()
    pairs = zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)
    options = weights.describe(out / "adapted.ckpt", "hf:whatever")
    own = options.architecture
    assert isinstance(own, OwnNetwork)
    assert own.mean == (127.5, 63.75, 31.875)
    assert options.space.classes == ("road", "car", "sky")
    assert own.features == "segformer"
    footage = [f"--video={drive}", "--size=64,96"]
    assert main(["predict", f"--network=hf:{out / 'adapted'}", *footage, f"--out={tmp_path / 'labels'}"]) == 0
    assert json.loads((tmp_path / "labels" / "classes.json").read_text())[2]["name"] == "sky"
    for kind in ("onnx", "pt"):
        command = ["export", f"--network={out / 'adapted.ckpt'}", "--builder=hf:", f"--out={tmp_path / f'net.{kind}'}"]
        assert main(command) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("trusting")
def test_a_segformer_from_python(tmp_path: Path, drive: Path) -> None:
    """By its folder, and as it is held: its classes are those of its configuration."""
    from transformers import SegformerForSemanticSegmentation

    save_segformer(tmp_path / "mine")
    mine = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "mine")
    nets: list[str | nn.Module] = [f"hf:{tmp_path / 'mine'}", mine]
    for place, net in enumerate(nets):
        loaded = stpl.load(net, size=SIZE)
        assert loaded.classes == ("road", "car", "sky")
        result = stpl.adapt(loaded, drive, tmp_path / f"out{place}", steps=1, batch_size=2)
        assert isinstance(result.module, SegformerForSemanticSegmentation)
        frames = np.zeros((2, 30, 50, 3), np.uint8)
        assert [labels.shape for labels in result.network.predict(iter(frames))] == [(30, 50)] * 2
        result.module.save_pretrained(tmp_path / f"again{place}")
        assert result.weights is not None
        assert (result.weights.suffix == ".pt") == (place == 1)


def test_masks_become_semantic_logits() -> None:
    class Masks(nn.Module):
        def forward(self, frames: torch.Tensor) -> SimpleNamespace:
            classes = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])  # two masks, two classes, and none
            masks = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
            return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)

    logits = SemanticMaps(Masks())(torch.zeros(1, 3, 1, 2))
    assert logits.argmax(1).flatten().tolist() == [0, 1]
    sure = torch.tensor([4.0, 0.0, 0.0]).softmax(0)[0] * torch.tensor(9.0).sigmoid()
    assert logits[0, 0, 0, 0].exp().item() == pytest.approx(sure.item(), rel=1e-2)


def test_what_is_no_network_of_hugging_face(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="give a folder with config"):
        opened(f"hf:{tmp_path}")
