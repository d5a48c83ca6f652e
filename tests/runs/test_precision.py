"""A precision that nobody asked for is used only where the network at hand comes out right in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stpl
from stpl.nn.accel import Accel
from stpl.runs.fit import fit
from stpl.runs.precision import computes_right, hardware_precision, has_grouped_convolutions

SIZE = (64, 96)
Arguments = Callable[..., list[str]]


def network(tmp_path: Path, name: str) -> Accel:
    (tmp_path / "classes.yaml").write_text("classes: [road, car, tree, sky, other]\n")
    loaded = stpl.load(f"own_networks:{name}", size=SIZE, classes=str(tmp_path / "classes.yaml"))
    return loaded.accel.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def frames() -> Tensor:
    return torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)


def test_a_check_leaves_no_trace(tmp_path: Path) -> None:
    """Dropout draws, BatchNorm counts: both as if nothing had been asked."""
    accel, seen = network(tmp_path, "Depthwise"), frames()
    before = {name: value.clone() for name, value in accel.state_dict().items()}
    drawn: list[Any] = [torch.get_rng_state(), random.getstate(), np.random.get_state()]
    assert computes_right(accel, seen, nullcontext)
    assert accel.training
    assert all(torch.equal(before[name], value) for name, value in accel.state_dict().items())
    assert all(parameter.grad is None for parameter in accel.parameters())
    assert torch.equal(drawn[0], torch.get_rng_state())
    assert drawn[1] == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(drawn[2], list(np.random.get_state()), strict=True))


class Unwritten(torch.autograd.Function):
    """Multiplies; in bfloat16 its gradient reads memory that nobody wrote."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        read = torch.empty(200_000, dtype=torch.float32).mean() if gradient.dtype == torch.bfloat16 else 0
        return gradient * weight, (gradient * x).sum().float() + read


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return Unwritten.apply(x, self.weight)  # type: ignore[no-any-return, no-untyped-call]


def test_a_kernel_that_reads_what_nobody_wrote_is_found(tmp_path: Path) -> None:
    accel = network(tmp_path, "Dictionary")
    low = partial(torch.autocast, "cpu", torch.bfloat16)
    assert computes_right(accel, frames(), low)
    layers: Any = accel.segmenter.net
    layers.backbone.append(Scale())
    assert not computes_right(accel, frames(), low)
    assert computes_right(accel, frames(), nullcontext)


def test_what_a_network_refuses_is_left_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accel = network(tmp_path, "Dictionary")
    monkeypatch.setattr(F, "interpolate", lambda *_, **__: 1 / 0)
    assert computes_right(accel, frames(), nullcontext)


def test_networks_of_grouped_convolutions_are_known(tmp_path: Path) -> None:
    assert has_grouped_convolutions(network(tmp_path, "Depthwise"))
    assert not has_grouped_convolutions(network(tmp_path, "Dictionary"))


def chosen(tiny_run: Arguments, *more: str) -> list[str]:
    arguments = tiny_run("self_training", "--start_from=null", steps=2)
    return [*(argument for argument in arguments if not argument.startswith("--trainer.precision")), *more]


@pytest.fixture(autouse=True)
def _hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpl.runs.build.hardware_precision", lambda _: "bf16-mixed")


@pytest.mark.slow
def test_a_run_falls_back_once_and_keeps_it(
    tiny_run: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stpl.runs.fit.computes_right", lambda *_: False)
    directory = fit(chosen(tiny_run))
    assert capsys.readouterr().err.count("note: trainer.precision: bfloat16 gives this network wrong") == 1
    assert "precision: 32-true" in (directory / "config.yaml").read_text()
    weights = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    monkeypatch.setattr(
        "stpl.runs.fit.computes_right", pytest.fail
    )  # neither in a next session, nor if it is asked for
    (directory / "result.json").unlink()
    fit(chosen(tiny_run))
    asked = fit(chosen(tiny_run, "--trainer.precision=32-true", "--run.experiment=asked"))
    same = torch.load(asked / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, same[name]) for name, value in weights.items())


@pytest.mark.slow
def test_a_network_that_passes_is_trained_as_if_nobody_had_looked(
    tiny_run: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = fit(chosen(tiny_run))
    assert "precision: bf16-mixed" in (checked / "config.yaml").read_text()
    other = fit(chosen(tiny_run, "--trainer.precision=bf16-mixed", "--run.experiment=other"))
    one, two = (torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (checked, other))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_torch_that_does_not_name_the_processor_s_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert hardware_precision("cpu") == "32-true"
