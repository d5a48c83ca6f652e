"""What networks of users give and hold: heads of training, odd outputs, names of weights, wrappers, threads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stpl
from stpl.apply.loaded import LoadedNetwork
from stpl.data.clip import BACKWARD, Batch, Clip
from stpl.data.image import write_png
from stpl.errors import CheckpointError, ConfigError, DataError, StplError
from stpl.methods.ur import UR
from stpl.nn import weights
from stpl.nn.batchnorm import batchnorm_layers, renew
from stpl.nn.foreign import plain, wrapped_as
from stpl.nn.network import build_network
from stpl.nn.own import OwnSegmenter, holding
from stpl.nn.state import of_network
from stpl.nn.weights import own_weights
from stpl.training.optimization import OptimizerOptions

SIZE = (64, 96)
Forward = Callable[["Two", Tensor], Any]


class Two(nn.Module):
    """Two classifiers; `how` says what of them is returned."""

    def __init__(self, how: Forward | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.aux, self.main = nn.Conv2d(8, 5, 1), nn.Conv2d(12, 5, 1)
        self.how = how

    def heads(self, x: Tensor, drop: float = 0.0) -> tuple[Tensor, Tensor]:
        early = self.stem(x)
        return self.aux(early), self.main(F.dropout(self.body(early), drop, self.training))

    def forward(self, x: Tensor) -> Any:
        return self.heads(x)[1] if self.how is None else self.how(self, x)


class Named(nn.Module):
    """A part of its own is called `module`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.module = nn.Conv2d(3, 8, 3, 4, 1), nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.module(self.first(x))  # type: ignore[no-any-return]


@pytest.fixture
def five(tmp_path: Path) -> str:
    path = tmp_path / "five.yaml"
    path.write_text("classes: [a, b, c, d, e]\n")
    return str(path)


def segmenter(net: nn.Module, classes: str, **settings: Any) -> OwnSegmenter:
    return held(stpl.load(net, size=SIZE, classes=classes, **settings))


def held(model: LoadedNetwork) -> OwnSegmenter:
    found = model.accel.segmenter
    assert isinstance(found, OwnSegmenter)
    return found


def up(logits: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(logits, x.shape[-2:], mode="bilinear")


# --- Which output the logits are --------------------------------------------------------------------------------------

HEADS: dict[str, tuple[Forward, str]] = {
    "a list in training": (lambda s, x: list(s.heads(x)) if s.training else s.heads(x)[1], "1"),
    "a dictionary in training": (
        lambda s, x: dict(zip("am", s.heads(x), strict=True)) if s.training else s.heads(x)[1], "m"
    ),
    "another order": (lambda s, x: s.heads(x)[:: 1 if s.training else -1], "1"),
    "one within another": (lambda s, x: [s.heads(x)[0], list(s.heads(x))] if s.training else s.heads(x)[1], "1.1"),
    "a usual name for the other": (
        lambda s, x: dict(zip(("out", "b"), s.heads(x), strict=True)) if s.training else {"out": s.heads(x)[1]}, "b"
    ),
    "upsampled in evaluation": (lambda s, x: s.heads(x) if s.training else up(s.heads(x)[1], x), "1"),
    "a function that drops": (lambda s, x: s.heads(x, 0.1) if s.training else s.heads(x)[1], "1"),
    "the same in both": (lambda s, x: {"aux": s.heads(x, 0.9)[0], "out": s.heads(x, 0.9)[1]}, "out"),
}  # fmt: skip


@pytest.mark.parametrize("title", HEADS)
def test_training_looks_at_the_classifier_that_predicts(title: str, five: str) -> None:
    how, path = HEADS[title]
    net = Two(how)
    for head in (net.aux, net.main):
        nn.init.zeros_(head.weight)  # so that both say the same
    before = copy.deepcopy(net.state_dict())
    found = segmenter(net, five)
    assert found.training_path == path
    assert all(torch.equal(value, before[name]) for name, value in found.net.state_dict().items())
    found.train()
    found(torch.zeros(2, 3, *SIZE)).logits.sum().backward()  # type: ignore[no-untyped-call]
    heads: Any = found.net
    assert heads.main.bias.grad is not None


def test_what_cannot_be_settled_names_the_option(five: str) -> None:
    def how(net: Two, x: Tensor) -> Any:
        return list(net.heads(x, 0.97)) if net.training else net.heads(x, 0.97)[1]

    with pytest.raises(ConfigError, match=r"none of them is what it predicts(.|\n)*--logits="):
        segmenter(Two(how), five).check_trainable()
    said = segmenter(Two(how), five, logits="1")
    said.check_trainable()
    assert (said.training_path, said.path) == ("1", "1")
    with pytest.raises(ConfigError, match="no 'seg', but 0, 1"):
        segmenter(Two(how), five, logits="seg")
    with pytest.raises(ConfigError, match="its logits alone, and nothing at 'seg'"):
        segmenter(Two(), five, logits="seg")


@pytest.mark.slow
def test_a_network_that_cannot_train_still_predicts(five: str, tmp_path: Path) -> None:
    def how(net: Two, x: Tensor) -> Any:
        if net.training:
            raise ValueError("give labels")
        return net.heads(x)[1]

    model = stpl.load(Two(how), size=SIZE, classes=five)
    assert [labels.shape for labels in model.predict([np.zeros((8, 9, 3), np.uint8)])] == [(8, 9)]
    for name in ("0.png", "1.png"):
        write_png(tmp_path / "drive" / name, np.full((*SIZE, 3), 90, np.uint8))
    with pytest.raises(ConfigError, match=r"in training the network does not take .*give labels"):
        stpl.adapt(model, tmp_path / "drive", tmp_path / "out")


ODD: dict[str, tuple[Forward, str]] = {
    "ids": (lambda s, x: s.heads(x)[1].argmax(1), r"\[1, 8, 12\](.|\n)*leave out its argmax"),
    "ids of a channel": (lambda s, x: s.heads(x)[1].argmax(1, keepdim=True), "int64(.|\n)*leave out its argmax"),
    "one logit": (lambda s, x: s.heads(x)[1][:, :1], "one logit a pixel, for one class; two or more are needed"),
    "no number": (lambda s, x: s.heads(x)[1] * float("nan"), "output is not finite"),
    "one of the images": (lambda s, x: s.heads(x)[1][:1], r"logits of 1 image\(s\) for 2 frames"),
    "other classes": (lambda s, x: s.heads(x)[1][:, :3], "predicts 3 classes, 5 are named"),
    "an empty list": (lambda s, x: (s.heads(x), [])[1], "what the network returns is list"),
}


@pytest.mark.parametrize("title", ODD)
def test_odd_outputs_are_refused_when_the_network_is_loaded(title: str, five: str) -> None:
    how, said = ODD[title]
    with pytest.raises(ConfigError, match=said):
        segmenter(Two(how), five)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, five: str) -> None:
    seen = segmenter(Two(lambda s, x: s.heads(x)[1].to(dtype)), five)(torch.zeros(1, 3, *SIZE))
    assert seen.logits.dtype == seen.features.dtype == torch.float32


def test_one_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("classes: [road]\n")
    with pytest.raises(ConfigError, match="one class"):
        stpl.load(Two(), size=SIZE, classes=str(tmp_path / "one.yaml"))


# --- Weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Two, Named])
@pytest.mark.parametrize("start", ["", "module.", "_orig_mod.module.", "model.", "net.", "task.student.", "a.b.c."])
def test_what_stands_before_the_names_is_taken_off(start: str, kind: type[nn.Module]) -> None:
    state = kind().state_dict()
    beside = {"loss.weight": torch.ones(19), "metric.module.count": torch.ones(1)} if start else {}
    named = {f"{start}{name}": value for name, value in state.items()} | beside
    found = of_network(named, kind().state_dict())
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_wrappers_within_names_do_not_count_unless_they_are_the_network_s() -> None:
    state = Named().state_dict()
    compiled = {name.replace("first.", "first._orig_mod."): value for name, value in state.items()}
    assert of_network({f"module.{name}": value for name, value in compiled.items()}, state).keys() == state.keys()
    assert of_network(compiled, {}) == compiled
    bare = {name.replace("module.", ""): value for name, value in state.items()}
    assert of_network(bare, state).keys() == state.keys()  # of a network that is built within a wrapper
    with pytest.raises(CheckpointError, match="1 missing"):
        own_weights(Named(), {name: value for name, value in state.items() if name != "module.1.bias"}, Path("a.pth"))


def test_of_two_networks_in_a_file_one_is_chosen(tmp_path: Path) -> None:
    student, teacher = Two().state_dict(), {name: value + 1 for name, value in Two().state_dict().items()}
    both = {
        f"{who}.{name}": x for who, state in (("student", student), ("teacher", teacher)) for name, x in state.items()
    }
    path = tmp_path / "task.ckpt"
    torch.save({"state_dict": both}, path)
    with pytest.raises(CheckpointError, match=r"2 networks that fit: student, teacher\n.*--key=student"):
        own_weights(Two(), weights.of_file(path), path)
    for key in ("teacher", "state_dict.teacher"):
        net = Two()
        own_weights(net, weights.of_file(path, key), path)
        assert all(torch.equal(value, teacher[name]) for name, value in net.state_dict().items())
    twice = {f"{who}.{name}": x for who in ("net", "metric.net") for name, x in student.items()}
    assert of_network(twice, student).keys() == student.keys()  # the same network, listed twice


def test_counters_of_batches_may_be_missing_or_left_over() -> None:
    state = Two().state_dict()
    own_weights(Two(), {name: value for name, value in state.items() if "num_batches" not in name}, Path("old.pth"))
    own_weights(Two(), {**state, "body.2.num_batches_tracked": torch.zeros(())}, Path("new.pth"))
    with pytest.raises(CheckpointError, match=r"1 missing \(main.bias"):
        own_weights(Two(), {name: value for name, value in state.items() if name != "main.bias"}, Path("a.pth"))


class Uncounted(Two):
    """Its BatchNorm does not count; a part of it takes its channels from what it is given first."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.LazyConv2d(5, 1)
        for layer in batchnorm_layers(self):
            layer.num_batches_tracked = None


def test_a_network_that_is_not_complete_before_it_is_called(five: str, tmp_path: Path) -> None:
    model = stpl.load(Uncounted(), size=SIZE, classes=five)
    model.save(tmp_path / "start.ckpt")
    assert model.adapted(tmp_path / "start.ckpt").is_in(tmp_path / "start.ckpt")
    net = Two()
    net.main.weight.data.fill_(float("inf"))
    with pytest.raises(ConfigError, match=r"weights are of no use: main\.weight holds infinity"):
        stpl.load(net, size=SIZE, classes=five)


class Extra(Two):
    """Keeps what is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = {"a": 1}

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


def test_extra_state_goes_with_the_weights(five: str, tmp_path: Path) -> None:
    net = Extra()
    net.kept = {"a": 2}
    model = stpl.load(net, size=SIZE, classes=five)
    model.save(tmp_path / "start.ckpt")
    assert model.is_in(tmp_path / "start.ckpt")
    with holding(Extra()):
        again = build_network(model.options)
    weights.load(tmp_path / "start.ckpt", again)
    assert again.segmenter.net.kept == {"a": 2}  # type: ignore[union-attr]
    net.kept = object()
    with pytest.raises(ConfigError, match="'_extra_state' is a object, which no checkpoint may hold"):
        segmenter(net, five).check_trainable()


def test_a_checkpoint_of_a_network_with_a_part_called_module(five: str, tmp_path: Path) -> None:
    model = stpl.load(Named(), size=SIZE, classes=five)
    model.save(tmp_path / "start.ckpt")
    assert model.is_in(tmp_path / "start.ckpt")
    with model.buildable():
        network = build_network(model.options)
    weights.load(tmp_path / "start.ckpt", network, options=model.options)
    bare = Named()
    own_weights(bare, weights.of_file(tmp_path / "start.ckpt"), tmp_path / "start.ckpt")
    assert all(torch.equal(value, held(model).net.state_dict()[name]) for name, value in bare.state_dict().items())


# --- Networks that Python code holds ----------------------------------------------------------------------------------

WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "compile": lambda net: torch.compile(net, backend="eager"),
    "data parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "several": lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
    "compiled in place": lambda net: (net.compile(backend="eager"), net)[1],  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("title", WRAPPED)
def test_wrappers_are_taken_off_and_put_on_again(title: str, five: str) -> None:
    mine = WRAPPED[title](Two())
    model = stpl.load(mine, size=SIZE, classes=five)
    assert model.name == "Two"
    assert held(model).net.state_dict().keys() == Two().state_dict().keys()
    given = model.module
    assert type(given) is type(mine)
    mine.load_state_dict(given.state_dict())
    assert plain(given) is held(model).net
    assert given.eval()(torch.zeros(1, 3, *SIZE)).shape == (1, 5, 8, 12)
    assert plain(wrapped_as(mine, Two())) is not plain(mine)


def test_synchronised_statistics_become_those_of_the_process(five: str) -> None:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(Two())  # type: ignore[no-untyped-call]
    found = segmenter(net, five)
    assert found.net.state_dict().keys() == Two().state_dict().keys()
    frames = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    renew(found, [lambda: found(frames)])
    assert float(batchnorm_layers(found)[0].running_mean.abs().sum()) > 0  # type: ignore[union-attr]
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in net.modules())


def test_one_network_predicts_in_several_threads(five: str) -> None:
    model = stpl.load(Two(), size=SIZE, classes=five)
    frames = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    expected = np.stack(list(model.predict(frames)))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: np.stack(list(model.predict(frames))), range(12)))
    assert all(np.array_equal(one, expected) for one in found)
    again = copy.deepcopy(model.accel)
    assert torch.equal(again.encode(torch.zeros(1, 3, *SIZE)), model.accel.encode(torch.zeros(1, 3, *SIZE)))


FRAME = np.zeros((8, 9, 3), np.uint8)


@pytest.mark.parametrize(
    "frame",
    [FRAME.astype(np.float32), FRAME.astype(bool), FRAME.astype(np.uint16), FRAME[..., 0], np.dstack([FRAME, FRAME]),
     FRAME.transpose(2, 0, 1), torch.from_numpy(FRAME), FRAME.tolist(), "drive.mp4", None, FRAME[:0]],
)  # fmt: skip
def test_frames_that_are_none_are_refused(frame: Any, five: str) -> None:
    model = stpl.load(Two(), size=SIZE, classes=five)
    with pytest.raises(DataError, match=r"frame 1 is a (.|\n)*uint8 \[H,W,3\]"):
        list(model.predict([FRAME[..., ::-1], frame]))
    with pytest.raises(DataError, match="this is a NoneType"):
        list(model.predict(None))  # type: ignore[arg-type]


@pytest.mark.slow
def test_logits_finer_than_features_in_uncertainty_reduction(five: str) -> None:
    model = stpl.load(Two(lambda s, x: up(s.heads(x)[1], x)), size=SIZE, classes=five, features="body")
    with model.buildable():
        method = UR(network=model.options, optimizer=OptimizerOptions())
    frames = torch.randint(0, 256, (1, 2, 3, *SIZE), dtype=torch.uint8)
    labels = torch.zeros(1, *SIZE, dtype=torch.int64)
    losses = method.losses(Batch(Clip(frames, {BACKWARD: torch.zeros(1, 2, *SIZE)}), prepared={"labels": labels}))
    sum(losses.values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
    assert all(value.isfinite() for value in losses.values())


def test_a_normalisation_that_nobody_says_is_said_to_be_assumed(capsys: pytest.CaptureFixture[str], five: str) -> None:
    net: Any = Two()
    net.config = SimpleNamespace(_name_or_path="")
    stpl.load(net, size=SIZE, classes=five)
    assert "assumed: mean 123.675,116.28,103.53" in capsys.readouterr().err
    stpl.load(net, size=SIZE, classes=five, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    assert capsys.readouterr().err == ""
    with pytest.raises(StplError, match="--channels: this does nothing here"):
        stpl.load("streets", channels="bgr")


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: x.bool(),
        lambda x: x.to(torch.int8),
        lambda x: x.to(torch.complex64),
        lambda x: x.to("meta"),
        Tensor.to_sparse,
    ],
)
def test_weights_of_a_kind_that_no_network_has(kind: Callable[[Tensor], Tensor], five: str, tmp_path: Path) -> None:
    net = Two()
    state = net.state_dict()
    name = next(name for name in state if name.endswith("weight"))
    with pytest.raises(CheckpointError, match=rf"holds what no such network has: {name} \("):
        own_weights(net, {**state, name: kind(state[name])}, tmp_path / "w.pth")
