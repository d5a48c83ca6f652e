"""Foreign checkpoints: what our network computes with them is what theirs did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from foreign import (
    State,
    accel_forward,
    accel_state,
    advent_state,
    caffe_features,
    classifier_state,
    classify,
    resnet_state,
    torchvision_features,
)
from stpl.cli import main
from stpl.commands.weights import weights_convert as convert
from stpl.data.clip import BACKWARD, Clip
from stpl.errors import CheckpointError, ConfigError
from stpl.methods import SelfTraining, Supervised
from stpl.nn import weights
from stpl.nn.accel import Accel
from stpl.nn.convert import understand
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.training import OptimizerOptions

CLASSES = 15  # viper15


def save(state: State, path: Path) -> Path:
    torch.save(state, path)
    return path


def converted(state: State, folder: Path, **options: object) -> Accel:
    """The state_dict, through `stpl weights convert` and `weights.load`, as a network of ours."""
    convert(save(state, folder / "theirs.pth"), out=folder / "ours.ckpt", **options)  # type: ignore[arg-type]
    made_for = weights.describe(folder / "ours.ckpt")
    network = build_network(made_for)
    weights.load(folder / "ours.ckpt", network, options=made_for, backbone_suffices=True)
    return network.eval()


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal but for float32's rounding in a hundred layers, whose inputs are pixel values up to 255."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def clip(height: int = 41, width: int = 57) -> Clip:
    """Two clips with flow at the size of the features: no rule of scaling takes part."""
    generator = torch.Generator().manual_seed(4)
    frames = torch.randint(0, 256, (2, 2, 3, height, width), dtype=torch.uint8, generator=generator)
    return Clip(frames, flows={BACKWARD: 1.5 * torch.randn(2, 2, height // 8 + 1, width // 8 + 1, generator=generator)})


@pytest.mark.parametrize("counters", [True, False])
@torch.no_grad()
def test_da_vsn_s_layout_gives_the_logits_of_da_vsn_s_network(counters: bool, tmp_path: Path) -> None:
    """The key list of ResNet-101; warp, fusion and the auxiliary classifier included, which no prediction uses."""
    state = accel_state(101, 4, CLASSES, counters=counters)
    assert len(state) == 641 - (0 if counters else 104)  # torch < 0.4.1 did not count a BatchNorm's batches
    network, batch = converted(state, tmp_path), clip()
    expected, auxiliary = accel_forward(state, batch.frames[:, 1], batch.frames[:, 0], batch.flows[BACKWARD])
    assert expected.shape == (2, CLASSES, 6, 8)
    assert_same(network(batch), expected)
    assert_same(network.fused_scores(batch)[1], auxiliary)
    still = Clip(batch.frames, flows={BACKWARD: torch.zeros_like(batch.flows[BACKWARD])})
    assert (network(still) - expected).abs().max() > 0.1  # the flow does matter


@torch.no_grad()
def test_advent_s_layout_predicts_what_the_image_network_did(tmp_path: Path) -> None:
    state, batch = advent_state(50, 4, CLASSES), clip()
    network = converted({f"module.{key}": value for key, value in state.items()}, tmp_path)
    expected = classify(state, "layer6", caffe_features(state, batch.frames[:, 1])[1])
    assert_same(network(batch), expected)


@torch.no_grad()
def test_adaptsegnet_s_unused_dilations_stay_unused(tmp_path: Path) -> None:
    """Single-level: the only classifier is called layer5 and sits on layer4."""
    state = {**resnet_state(50, 4), **classifier_state("layer5", 128, CLASSES)}
    network, batch = converted(state, tmp_path, layout="adaptsegnet"), clip()
    expected = classify(state, "layer5", caffe_features(state, batch.frames[:, 1])[1], branches=2)
    assert_same(network(batch), expected)
    assert weights.describe(tmp_path / "ours.ckpt").architecture.to_dict()["init_args"]["dilations"] == [6, 12]


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_torchvision_s_resnet_computes_what_it_did(depth: int, tmp_path: Path) -> None:
    """Every fourth of our features at stride 8 is the feature of the undilated network at stride 32, to the digit."""
    state = resnet_state(depth, 8)
    fc = {"fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}
    network, frames = converted({**state, **fc}, tmp_path), clip(65, 97).frames[:, 0]
    features = network.encode(frames)
    assert features.shape[-2:] == (9, 13)
    assert_same(features[..., ::4, ::4], torchvision_features(state, frames))


@torch.no_grad()
def test_caffe_s_backbone_starts_source_training_and_nothing_else(tmp_path: Path) -> None:
    backbone, voc = resnet_state(50, 4, counters=False), classifier_state("layer5", 128, 21)
    state = {f"Scale.{key}": value for key, value in {**backbone, **voc}.items()}
    network, frames = converted(state, tmp_path), clip().frames[:, 0]
    assert_same(network.encode(frames), caffe_features(backbone, frames)[1])
    options, ours = weights.describe(tmp_path / "ours.ckpt"), tmp_path / "ours.ckpt"
    assert weights.read(ours)["stpl"]["holds"] == "backbone"
    torch.manual_seed(0)
    fresh = build_network(options).state_dict()
    torch.manual_seed(0)
    source = Supervised(network=options, optimizer=OptimizerOptions(), checkpoint=ours).network.state_dict()
    changed = {key for key in fresh if not torch.equal(fresh[key], source[key])}
    assert changed  # the backbone, but for counters that were and are 0
    assert all(key.startswith("segmenter.backbone.") for key in changed)
    with pytest.raises(CheckpointError, match=r"holds only a backbone.*\n.*train a source model"):
        SelfTraining(network=options, optimizer=OptimizerOptions(), checkpoint=ours)


def test_a_backbone_must_be_complete(tmp_path: Path) -> None:
    """`holds: backbone` excuses the classifiers, and nothing of the backbone."""
    converted(resnet_state(18, 4), tmp_path)
    content = weights.read(tmp_path / "ours.ckpt")
    del content["state_dict"]["network.segmenter.backbone.layer3.0.conv2.weight"]
    torch.save(content, tmp_path / "torn.ckpt")
    options = weights.describe(tmp_path / "torn.ckpt")
    with pytest.raises(CheckpointError, match=r"1 missing \(segmenter.backbone.layer3.0.conv2.weight\)"):
        weights.load(tmp_path / "torn.ckpt", build_network(options), options=options, backbone_suffices=True)


def test_normalisation_and_stride_must_agree(tmp_path: Path) -> None:
    converted(resnet_state(50, 4), tmp_path)
    options = weights.describe(tmp_path / "ours.ckpt")
    caffe = NetworkOptions(DeepLabV2(50, 4, (1,), "caffe"), options.label_space)
    with pytest.raises(CheckpointError, match="was trained with normalization=imagenet, stride_in=second"):
        weights.load(tmp_path / "ours.ckpt", build_network(caffe), options=caffe, backbone_suffices=True)


def test_keys_that_do_not_fit_are_named_as_in_the_file(tmp_path: Path) -> None:
    state = accel_state(50, 4, CLASSES)
    del state["layer6.conv2d_list.2.bias"]
    state["layer4.0.conv9.weight"] = torch.zeros(1)
    expected = r"1 missing \(layer6.conv2d_list.2.bias\); 1 unexpected \(layer4.0.conv9.weight"
    with pytest.raises(CheckpointError, match=expected):
        converted(state, tmp_path)
    assert not (tmp_path / "ours.ckpt").exists()


def test_other_classes_are_refused_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = advent_state(50, 4, 19)
    with pytest.raises(CheckpointError, match=r"predicts 19 classes, 'viper15' has 15\n.*--backbone_only=true"):
        converted(state, tmp_path)
    converted(state, tmp_path, backbone_only=True)
    assert "only the backbone" in capsys.readouterr().out
    assert weights.read(tmp_path / "ours.ckpt")["stpl"]["origin"] == "theirs.pth, layout advent"


def test_what_cannot_be_converted_is_told(tmp_path: Path) -> None:
    wide = {key: value for key, value in resnet_state(50, 4).items() if not key.startswith("layer2.3")}
    for state, message in (
        ({"encoder.weight": torch.zeros(1)}, "its layout is not known; keys such as encoder.weight"),
        (wide, "a ResNet with 3, 3, 6, 3 bottlenecks a stage"),
        ({**resnet_state(18, 4), "layer1.0.se.weight": torch.zeros(1)}, r"1 unexpected \(layer1.0.se.weight"),
    ):
        with pytest.raises(CheckpointError, match=message):
            converted(state, tmp_path)
    with pytest.raises(CheckpointError, match=r"not of layout accel\n.*--layout=torchvision or caffe"):
        understand(save(resnet_state(18, 4), tmp_path / "theirs.pth"), "accel")
    converted(resnet_state(18, 4), tmp_path)
    with pytest.raises(ConfigError, match="exists already"):
        converted(resnet_state(18, 4), tmp_path)
    with pytest.raises(CheckpointError, match="one of ours already"):
        understand(tmp_path / "ours.ckpt")


class Evil:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_nothing_but_tensors_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"conv1.weight": torch.zeros(1), "args": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="never unpickled here"):
        understand(tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""


def test_inspect_says_what_a_file_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {**accel_state(101, 4, CLASSES, counters=False), "layer7.weight": torch.zeros(1)}
    assert main(["weights", "inspect", str(save(state, tmp_path / "davsn.pth"))]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("left out", "left-out").splitlines())
    assert said["layout"].startswith("accel: ACCEL of DA-VSN")
    assert said["network"] == "ResNet-101, width 4"
    assert said["classes"] == "15 (label spaces of that size: viper15, vps15, viper15-unified)"
    assert said["classifiers"] == "of layer4 and layer3 (multi-level), 4 dilations each, score fusion"
    assert said["normalisation"] == "caffe: BGR, mean only"
    assert said["tensors"] == "538: 521 backbone, 8 layer5, 8 layer6, 1 sf_layer"
    assert (said["missing"], said["unknown"], said["left-out"]) == ("nothing", "layer7.weight", "nothing")


def test_the_command_line_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = save(resnet_state(50, 4), tmp_path / "resnet50.pth"), tmp_path / "new" / "ours.ckpt"
    assert main(["weights", "convert", str(path), f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert (
        "--network.architecture.depth=50 --network.architecture.width=4 --network.architecture.normalization=imagenet "
        "--network.architecture.stride_in=second" in said
    )
    assert list(out.parent.iterdir()) == [out]
    assert main(["weights", "convert", str(path), f"--out={tmp_path / 'b.ckpt'}", "--layout=caffe"]) == 0
    assert weights.describe(tmp_path / "b.ckpt").architecture.to_dict()["init_args"]["normalization"] == "caffe"
    assert main(["weights", "convert", str(path), f"--out={out}"]) == 2
    assert main(["weights", "inspect", str(out)]) == 0
    said = capsys.readouterr().out
    assert "holds          backbone" in said
    assert "resnet50.pth, layout torchvision" in said
