"""The moving average of a network: what it is after each step, what of BatchNorm it keeps, and what it is not."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stpl.data.clip import BACKWARD, Batch, Clip
from stpl.errors import ConfigError
from stpl.methods.self_training import SelfTraining
from stpl.nn import weights
from stpl.nn.accel import Accel
from stpl.nn.batchnorm import BatchNormOptions, batchnorm_layers, statistics_of
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.nn.teacher import Teacher, TeacherOptions
from stpl.training.base import Method
from stpl.training.optimization import OptimizerOptions

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))


def student(value: float | None = None) -> Accel:
    network = Accel(DeepLabV2(18, 4, (1,)).build(3))
    if value is not None:
        for tensor in (*network.parameters(), *statistics_of(batchnorm_layers(network))):
            nn.init.constant_(tensor, value)
    return network


def value_of(network: Accel) -> float:
    return network.score_fusion.weight.flatten()[0].item()


def test_the_warm_up_is_the_mean_of_all_students_so_far() -> None:
    teacher, values = Teacher(student(0.0), TeacherOptions(decay=0.9)), [4.0, 8.0, 0.0, 2.0]
    for step, value in enumerate(values):
        teacher.follow(student(value), step)
        assert value_of(teacher.network) == pytest.approx(sum(values[: step + 1]) / (step + 1))
    teacher.follow(student(1.0), 1000)
    assert value_of(teacher.network) == pytest.approx(0.9 * 3.5 + 0.1 * 1.0)


def test_without_warm_up() -> None:
    teacher = Teacher(student(1.0), TeacherOptions(decay=0.75, warmup=False))
    teacher.follow(student(3.0), 0)
    assert value_of(teacher.network) == pytest.approx(1.5)


@pytest.mark.parametrize(("kept", "mean"), [("own", 1.0), ("average", 1.5), ("student", 3.0), ("start", 1.0)])
def test_what_it_keeps_of_batchnorm(kept: str, mean: float) -> None:
    options = TeacherOptions(decay=0.75, warmup=False, statistics=kept)  # type: ignore[arg-type]
    teacher = Teacher(student(1.0), options)
    teacher.follow(student(3.0), 0)
    teacher.train()
    teacher.apply_batchnorm(BatchNormOptions("train"))
    layers = batchnorm_layers(teacher.network)
    assert layers[0].running_mean is not None
    assert layers[0].running_mean[0].item() == pytest.approx(mean)
    assert {layer.training for layer in layers} == {kept == "own"}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    frozen = Teacher(student(1.0), options).train()
    frozen.apply_batchnorm(BatchNormOptions("frozen"))
    assert not any(layer.training for layer in batchnorm_layers(frozen.network))


def test_nothing_is_dropped_out_of_it() -> None:
    network = student()
    network.segmenter.add_module("drop", nn.Dropout(0.5))
    teacher = Teacher(network)
    teacher.train()
    teacher.apply_batchnorm(BatchNormOptions())
    assert not teacher.network.segmenter.get_submodule("drop").training


def test_a_decay_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.decay"):
        TeacherOptions(decay=1.5)


def test_following_makes_no_copy() -> None:
    """Every tensor stays where it is, and none of a network's size is left behind."""
    teacher, follower = Teacher(student(0.0)), student(1.0)
    places = [tensor.data_ptr() for tensor in teacher.state_dict().values()]
    gc.collect()
    before = sum(tensor.numel() for tensor in gc.get_objects() if type(tensor) is Tensor)
    teacher.follow(follower, 3)
    after = sum(tensor.numel() for tensor in gc.get_objects() if type(tensor) is Tensor)
    assert [tensor.data_ptr() for tensor in teacher.state_dict().values()] == places
    assert after <= before


class Taught(SelfTraining):
    """Self-training that is evaluated by its teacher, for tests of what the base does with one."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self.teacher = Teacher(self.network)

    @property
    def evaluated(self) -> Accel:
        return self.teacher.network


def clip() -> Clip:
    generator = torch.Generator().manual_seed(5)
    frames = torch.randint(0, 256, (2, 2, 3, 40, 56), dtype=torch.uint8, generator=generator)
    return Clip(frames, flows={BACKWARD: torch.zeros(2, 2, 40, 56)}, key=("a", "b"))


def test_it_is_in_no_group_of_the_optimiser() -> None:
    method = Taught(network=SMALL, optimizer=OptimizerOptions())
    grouped = {id(p) for group in method.parameter_groups() for p in group["params"]}
    assert grouped == {id(p) for p in method.network.parameters()}
    sum(method.losses(Batch(clip())).values()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


def test_the_evaluated_network_is_the_one_that_a_checkpoint_gives(tmp_path: Path) -> None:
    method = Taught(network=SMALL, optimizer=OptimizerOptions())
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter += 1.0
    content = {"state_dict": method.state_dict()}
    Method.on_save_checkpoint(method, content)
    torch.save(content, tmp_path / "taught.ckpt")
    loaded = build_network(SMALL)
    weights.load(tmp_path / "taught.ckpt", loaded, options=SMALL)
    for (name, a), b in zip(loaded.state_dict().items(), method.teacher.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with torch.no_grad():
        expected = method.eval().teacher.network.observe(clip()).logits
        assert torch.equal(method.predict_step(clip(), 0), expected_classes(expected))


def expected_classes(logits: Tensor) -> Tensor:
    from stpl.nn.segmenter import upsample

    return upsample(logits, (40, 56)).argmax(1)
