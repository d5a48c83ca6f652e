"""`python -m benchmarks.step --experiment=NAME`: one training step of a row, against STPL's.

Both take random frames, from random weights, in the hardware's precision, with what their overlays for VIPER say.
Source clips are as much larger as VIPER's are. Labels that a stage would make are drawn. Reading is no part of a step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Action, Figures, in_processes, times_table
from stpl.data.clip import Batch, Clip, Wants
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.teacher import Teacher
from stpl.runs.build import build
from stpl.runs.trainer import keep_freed_memory
from stpl.training import Method

_SOURCE = (720 / 512, 1280 / 1024)  # of VIPER's frames to Cityscapes'


def row(experiment: str, height: int, width: int, network: DeepLabV2, repeats: int) -> Figures:
    """Print seconds and peak memory of a step of an experiment and of STPL, measured in turn.

    Args:
        experiment: a name of the catalogue.
        height: of the target's frames.
        width: of the target's frames.
        network: the network.
        repeats: rounds; in each, both take an unmeasured and a measured step in a process of its own.

    Raises:
        StplError: for an unknown experiment.
    """
    settings = {"height": height, "width": width, "network": network.to_dict()["init_args"]}
    method = make(experiment, network)
    cases = {name: {"experiment": name, **settings} for name in dict.fromkeys(("stpl", experiment))}
    timings, peaks = in_processes("benchmarks.row:prepare", cases, repeats)
    title = f"one step at {height}×{width}, ResNet-{network.depth} of width {network.width}"
    print(times_table(f"{title}, {torch.get_num_threads()} threads", timings, "stpl", peaks))
    needs = f"one clip of {len(method.wants.frames)} frames of the target"
    needs += "" if method.source_wants is None else ", one of the source"
    needs += "" if method.before_wants is None else ", the one of the step before"
    print(f"{experiment}: {needs}")
    seconds = {name: timing.median for name, timing in timings.items()}
    return {"height": height, "width": width, "seconds": seconds, "peak_mb": peaks}


def make(experiment: str, network: DeepLabV2) -> Method:
    """The method of an experiment on VIPER, from random weights, attached to a trainer that does not run."""
    options = [f"--network.architecture.{name}={value}" for name, value in network.to_dict()["init_args"].items()]
    fresh = ["--start_from=null", "--model.init_args.checkpoint=null", "--trainer.accelerator=cpu"]
    cli, _ = build(["--bench=viper", f"--experiment={experiment}", *fresh, *options])
    method: Method = cli.model
    method.trainer = cli.trainer
    return method


def prepare(experiment: str, height: int, width: int, network: dict[str, Any]) -> Action:
    """The step of an experiment, its network built and its clips drawn."""
    torch.manual_seed(0)
    keep_freed_memory()
    method = make(experiment, DeepLabV2(**network)).train()
    method.prepare = lambda batch: batch  # type: ignore[method-assign]  # labels of a stage are in the clip
    generator = torch.Generator().manual_seed(0)
    target = draw(height, width, method.wants, generator)
    with torch.no_grad():
        grid = method.network(target).shape[-2:]
    labels = torch.randint(0, method.network.num_classes, (1, *grid), generator=generator)
    source = None
    if method.source_wants is not None:
        size = (round(height * _SOURCE[0]), round(width * _SOURCE[1]))
        source = draw(*size, method.source_wants, generator)
    before = None if method.before_wants is None else draw(height, width, method.before_wants, generator)
    optimizer: torch.optim.Optimizer = method.configure_optimizers()["optimizer"]
    return partial(_run, method, optimizer, Batch(target, source, before, {"labels": labels}))


def draw(height: int, width: int, wants: Wants, generator: torch.Generator) -> Clip:
    """A batch of one clip of random frames with what is wanted."""
    frames, augmented = (
        torch.randint(0, 256, (1, count, 3, height, width), dtype=torch.uint8, generator=generator)
        for count in (len(wants.frames), 2)
    )
    return Clip(
        frames,
        {pair: torch.randn(1, 2, height, width, generator=generator) for pair in wants.flows},
        {offset: torch.randint(0, 15, (1, height, width), generator=generator) for offset in wants.labels},
        augmented=augmented if wants.augmented else None,
        offsets=wants.frames,
        key=("drawn",),
    )


def _run(method: Method, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    for teacher in (module for module in method.modules() if isinstance(module, Teacher)):
        teacher.follow(method.network, 1)
    optimizer.zero_grad()
    with method.trainer.precision_plugin.train_step_context():
        output = method.training_step(batch, 0)
    loss: Tensor = torch.zeros(()) if output is None else output["loss"]
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float(loss.detach())
