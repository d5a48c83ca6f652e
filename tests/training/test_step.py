"""The training step: nothing is read back from the device, and gathering or batching changes no result."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

import contrast_rank
from random_clips import clips as random_clips
from repository import SUPPORT
from stpl.data.clip import BACKWARD, Batch, Clip, collate
from stpl.losses.pixel_contrast import pixel_contrast
from stpl.methods import STPL, Contrast, SelfTraining
from stpl.methods.stpl import View
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.nn.warp import resize_flow
from stpl.testing import ReadBackError, no_read_back
from stpl.training import OptimizerOptions
from stpl.training.ranks import gather_ranks
from waiting import PATIENCE

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2)))


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the contrast take the engine of devices on a CPU too."""
    monkeypatch.setattr(import_module("stpl.losses.pixel_contrast"), "_best", lambda queries: "masked")


def clip(batch: int = 2) -> Clip:
    generator = torch.Generator().manual_seed(5)
    frames, augmented = torch.randint(0, 256, (2, batch, 2, 3, 40, 56), dtype=torch.uint8, generator=generator)
    return Clip(frames, flows={BACKWARD: torch.randn(batch, 2, 40, 56, generator=generator)}, augmented=augmented)


def stpl(*pairs: tuple[View, View], policy: Any = "statistics", **options: Any) -> STPL:
    torch.manual_seed(0)
    contrasts = [Contrast(query, key) for query, key in pairs] or None
    return STPL(
        network=SMALL, optimizer=OptimizerOptions(), contrasts=contrasts, batchnorm=BatchNormOptions(policy), **options
    ).train()


def test_the_guard_sees_what_waits() -> None:
    """The counter-check of the tests below."""
    x = torch.arange(4.0)
    waits: dict[str, Callable[[], object]] = {
        "item": lambda: x[0].item(),
        "if": lambda: bool(x[0] > 0),
        "mask": lambda: x[x > 1],
        "nonzero": lambda: x.nonzero(),
        "where": lambda: torch.where(x > 0),
        "unique": lambda: torch.unique_consecutive(x),
        "write by mask": lambda: x.index_put_((x > 1,), torch.zeros(())),
        "list": lambda: x.tolist(),
        "from the host": lambda: torch.tensor([1.0]),
    }
    for name, wait in waits.items():
        seen = False
        with no_read_back():
            try:
                wait()
            except ReadBackError:
                seen = True
        assert seen, name


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("scope", ["global", "class"])
@pytest.mark.parametrize("key_scope", ["clip", "batch"])
def test_a_step_reads_nothing_back(scope: Any, key_scope: Any) -> None:
    """From the batch to updated weights."""
    for model in (stpl(confident_scope=scope, key_scope=key_scope), stpl(("current", "previous-warped"))):
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
        batch = clip()
        with no_read_back():
            output = model.step(Batch(batch))
            assert output is not None
            output["loss"].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert output["loss"].isfinite().item()


@pytest.fixture
def found_in_cycles() -> Iterator[Callable[[], list[Any]]]:
    """Collect, and return the tensors and nodes of autograd that only the collector could free.

    A process makes other garbage whenever a library initialises itself, so that the number of objects says nothing.
    """

    def found() -> list[Any]:
        gc.collect()
        return [thing for thing in gc.garbage if isinstance(thing, (torch.Tensor, torch.autograd.graph.Node))]

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("pair", [("fused", "augmented fused"), ("current", "previous-warped")])
def test_a_step_leaves_nothing_to_the_collector(
    found_in_cycles: Callable[[], list[Any]], pair: tuple[View, View]
) -> None:
    """A tensor in a cycle of references would keep its memory through the steps that follow."""
    model, batch = stpl(pair), clip()
    output = model.step(Batch(batch))
    assert output is not None
    output["loss"].backward()  # type: ignore[no-untyped-call]
    del output
    assert found_in_cycles() == []


def test_a_cycle_is_found(found_in_cycles: Callable[[], list[Any]]) -> None:
    model = stpl(("fused", "augmented fused"))
    output = model.step(Batch(clip()))
    cycle: list[Any] = [output]
    cycle.append(cycle)
    del output, cycle
    assert found_in_cycles()


@pytest.mark.parametrize("scope", ["global", "class"])
def test_self_training_reads_nothing_back(scope: Any) -> None:
    model = SelfTraining(network=SMALL, optimizer=OptimizerOptions(), confident_scope=scope).train()
    with no_read_back():
        output = model.step(Batch(clip()))
        assert output is not None
        output["loss"].backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("scope", ["global", "class"])
@pytest.mark.parametrize("key_scope", ["clip", "batch", "ranks"])
def test_engines_give_the_same_step(scope: Any, key_scope: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of the first layer, by the CPU's engine and by the devices'."""
    found = []
    for _ in range(2):
        model = stpl(confident_scope=scope, key_scope=key_scope)
        total = torch.stack(list(model.losses(Batch(clip())).values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        found.append((total.item(), model.network.segmenter.backbone.conv1.weight.grad))
        monkeypatch.setattr(import_module("stpl.losses.pixel_contrast"), "_best", lambda queries: "masked")
    (loss, grad), (other_loss, other_grad) = found
    assert loss == pytest.approx(other_loss, rel=1e-5)
    torch.testing.assert_close(grad, other_grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scope", ["global", "class"])
def test_the_step_keeps_exactly_the_confident_pixels(scope: Any) -> None:
    """The gathered pixels, with their filling, give what boolean masks give."""
    model = stpl(confident_scope=scope, confident_proportion=0.4)
    generator = torch.Generator().manual_seed(1)
    assert model.fusion is not None
    dim = model.fusion.out_dim
    queries, keys = (torch.randn(2, dim, 5, 7, generator=generator) for _ in range(2))
    labels = torch.randint(0, 4, (2, 35), generator=generator)
    confident = torch.zeros(2, 35, dtype=torch.bool)
    confident[:, torch.randperm(35, generator=generator)[:14]] = True
    expected = []
    for i in range(2):
        q, k = (model.projection(x[i].flatten(1).T[confident[i]]) for x in (queries, keys))
        expected.append(pixel_contrast(q, k, labels[i][confident[i]], labels[i][confident[i]]))
    places, classes = model._kept(labels, confident)
    found = model._contrast(model._embed(queries, places), model._embed(keys, places), classes)
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
    assert places.shape[1] == 14 + (15 if scope == "class" else 0)


def test_flow_is_resized_by_its_own_axes() -> None:
    flow = torch.ones(1, 2, 9, 17)
    small = resize_flow(flow, (5, 5))
    torch.testing.assert_close(small[:, 0], torch.full((1, 5, 5), 4 / 16))
    torch.testing.assert_close(small[:, 1], torch.full((1, 5, 5), 4 / 8))


@pytest.mark.long
def test_keys_of_all_ranks_equal_one_process_with_all_pixels(tmp_path: Path) -> None:
    """Loss and gradient, averaged over two processes as DDP does, against the same pixels in this one."""
    command = [sys.executable, str(SUPPORT / "contrast_rank.py"), str(tmp_path / "meeting")]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    found = [json.loads(process.communicate(timeout=PATIENCE)[0]) for process in ranks]
    queries, keys, labels = contrast_rank.pixels()
    weight = torch.eye(8, requires_grad=True)
    loss = pixel_contrast(normalize(queries @ weight, dim=1), normalize(keys @ weight, dim=1), labels, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert sum(rank["loss"] for rank in found) / 2 == pytest.approx(loss.item(), rel=1e-5)
    for rank in found:
        torch.testing.assert_close(torch.tensor(rank["gradient"]), weight.grad, rtol=1e-4, atol=1e-6)


def test_a_part_of_the_clips_is_evaluated_as_if_it_were_all(tmp_path: Path) -> None:
    """In anybody's Trainer: the clips before those of one process are another's only where there is another."""
    clips: Any = [random_clips(seed).map(lambda tensor: tensor[0]) for seed in range(6)]
    loader = DataLoader(clips, sampler=range(4, 6), collate_fn=collate)
    method = stpl(policy="frozen")
    Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path).validate(
        method, loader, verbose=False
    )
    assert set(method.evaluator.feature_space.sample()[2].tolist()) == {0, 1}


def test_one_process_gathers_nothing() -> None:
    keys = torch.zeros(2, 3)
    assert gather_ranks(keys) is keys
