"""One training step of STPL against the same step as published code of the field is written, or another row's.

* stpl: the method as it runs, in the hardware's precision; on a GPU recorded once and replayed.
* stpl, launched by Python: the same without the recording, on a GPU.
* stpl, float32: the same in float32; what is left where the hardware has no units for bfloat16.
* plain: float32, tensors in the default memory format, one forward for each view, the contrast in its dense form.

All start from the same weights, take the same clip and evaluate the same four views: current, previous, augmented
current, augmented previous; the previous frames take no gradient. Then they take a step of the optimiser. On the CPU
each form has processes of its own: all but the plain one set the C library's allocator as `stpl fit` does.

Methods are built as the overlays for VIPER say, from random weights. Frames are random, source clips as much larger as
VIPER's are, labels of an earlier stage drawn. Reading is no part of a step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import cuda
from benchmarks.contrast import dense
from benchmarks.measure import Action, Figures, in_processes, interleaved, report, run, table
from stpl.data.clip import Batch, Clip, Wants
from stpl.methods import STPL
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.teacher import Teacher
from stpl.runs.build import build
from stpl.runs.precision import hardware_precision
from stpl.runs.trainer import keep_freed_memory
from stpl.training import Method

FORMS = ("stpl", "stpl, float32", "plain")
_EAGER = "stpl, launched by Python"
_SOURCE = (720 / 512, 1280 / 1024)  # of VIPER's frames to Cityscapes'


def step(
    height: int = 512,
    width: int = 1024,
    network: DeepLabV2 | None = None,
    repeats: int = 3,
    device: str = "cpu",
    experiment: str | None = None,
) -> Figures:
    """Time and memory of a training step of STPL against the same step written plainly, or of another row against it.

    Args:
        height: of the target's frames.
        width: of the target's frames.
        network: the network; ResNet-101 if not given.
        repeats: rounds; on the CPU every form takes an unmeasured and a measured step in a process of its own in each.
        device: cpu or cuda.
        experiment: a row to hold against STPL instead, on the CPU: a name in experiments/tables.yaml.
    """
    place, options = cuda.check_device(device), network or DeepLabV2()
    title = f"one step at {height}×{width}, ResNet-{options.depth} of width {options.width}, {cuda.name(place)}"
    settings = {"height": height, "width": width, "network": options.to_dict()["init_args"]}
    given = {**settings, "device": cuda.name(place), "precision": hardware_precision(place.type)}
    if place.type == "cuda":
        return given | _on_gpu(title, {**settings, "device": device}, repeats)
    names = FORMS if experiment is None else dict.fromkeys(("stpl", experiment))
    cases = {name: {"name": name, **settings} for name in names}
    timings, peaks = in_processes("benchmarks.step:prepare", cases, repeats)
    measured = report(f"{title}, {given['precision']}", timings, "stpl", peaks)
    if experiment is not None:
        method = make(experiment, options)
        needs = f"one clip of {len(method.wants.frames)} frames of the target"
        needs += "" if method.source_wants is None else ", one of the source"
        needs += "" if method.before_wants is None else ", the one of the step before"
        print(f"{experiment}: {needs}")
    return given | measured


def _on_gpu(title: str, settings: dict[str, Any], repeats: int) -> dict[str, object]:
    """All forms in this process, where the time goes, and how near it comes to what the matrix units reach."""
    torch.use_deterministic_algorithms(True)  # as every run does
    rate = cuda.bfloat16_rate()
    actions: dict[str, Action] = {}
    memory: dict[str, float | None] = {}
    for name in ("stpl", _EAGER, "stpl, float32", "plain"):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        actions[name] = prepare(name, **settings)
        actions[name]()
        memory[name] = (torch.cuda.memory_reserved() - before) / 1e6  # a recording's memory is reserved, not allocated
    timings = interleaved(actions, repeats, warm=2)
    measured = report(title, timings, "stpl", memory)
    parts, work = cuda.largest_parts(actions[_EAGER]), cuda.operations(actions[_EAGER])
    pace = 1 / timings["stpl"].median
    share = work * pace / rate
    print(f"\n{pace:.1f} steps a second; {work / 1e12:.2f} TFLOP a step, {share:.0%} of what a large bfloat16", end="")
    print(f" product reaches here ({rate / 1e12:.0f} TFLOP/s)")
    print("\n" + table("where the GPU's time goes", ["", "share"], [[n, f"{s:.0%}"] for n, s in parts.items()]))
    found = {"steps_per_second": pace, "operations": work, "bfloat16_rate": rate, "share_of_rate": share}
    return {**measured, **found, "parts": parts}


def make(experiment: str, network: DeepLabV2) -> Method:
    """The method of an experiment on VIPER, from random weights, attached to a trainer that does not run."""
    options = [f"--network.architecture.{name}={value}" for name, value in network.to_dict()["init_args"].items()]
    fresh = ["--start_from=null", "--model.init_args.checkpoint=null", "--trainer.accelerator=cpu"]
    cli, _ = build(["--bench=viper", f"--experiment={experiment}", *fresh, *options])
    method: Method = cli.model
    method.trainer = cli.trainer
    return method


def prepare(name: str, height: int, width: int, network: dict[str, Any], device: str = "cpu") -> Action:
    """The step of a form of STPL or of an experiment, its network built and its clips drawn."""
    torch.manual_seed(0)
    if name != "plain":
        keep_freed_memory()
    method = make("stpl" if name in (*FORMS, _EAGER) else name, DeepLabV2(**network)).train()
    method.prepare = lambda batch: batch  # type: ignore[method-assign]  # labels of a stage are in the batch
    if name == "plain":
        _write_plainly(method)
    place = torch.device(device)
    batch = _draw_batch(method, height, width).map(lambda tensor: tensor.to(place))
    method.to(place)
    if place.type == "cuda" and name in ("stpl", "stpl, float32"):
        method.record_step()
    optimizer: torch.optim.Optimizer = method.configure_optimizers()["optimizer"]
    half = name not in ("stpl, float32", "plain") and hardware_precision(place.type) == "bf16-mixed"
    return partial(_run, method, optimizer, batch, torch.autocast(place.type, torch.bfloat16, enabled=half))


def _write_plainly(method: Method) -> None:
    """Bring tensors into the default memory format, and the contrast into its dense form, clip by clip."""

    def contrast(queries: Tensor, keys: Tensor, classes: Tensor) -> Tensor:
        return torch.stack([dense(*clip) for clip in zip(queries, keys, classes, strict=True)]).mean()

    def contiguous(normalize: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda frames: normalize(frames).contiguous()

    assert isinstance(method, STPL)
    method._contrast = contrast  # type: ignore[method-assign]
    method.network.to(memory_format=torch.contiguous_format)
    segmenter = method.network.segmenter
    segmenter.normalize = contiguous(segmenter.normalize)


def _draw_batch(method: Method, height: int, width: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    target = draw(height, width, method.wants, generator)
    with torch.no_grad():
        grid = method.network(target).shape[-2:]
    labels = torch.randint(0, method.network.num_classes, (1, *grid), generator=generator)
    source = None
    if method.source_wants is not None:
        source = draw(round(height * _SOURCE[0]), round(width * _SOURCE[1]), method.source_wants, generator)
    before = None if method.before_wants is None else draw(height, width, method.before_wants, generator)
    soft = torch.rand(1, method.network.num_classes, *grid, generator=generator).softmax(1)
    prepared = {"labels": labels, "soft": soft, "source_weight": torch.full((), 0.5)}
    return Batch(target, source, before, prepared)


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


def _run(method: Method, optimizer: torch.optim.Optimizer, batch: Batch, context: torch.autocast) -> Tensor:
    for teacher in (module for module in method.modules() if isinstance(module, Teacher)):
        teacher.follow(method.network, 1)
    optimizer.zero_grad()
    with context:
        output = method.step(batch)
    loss: Tensor = torch.zeros(()) if output is None else output["loss"]
    if loss.requires_grad:
        torch.autograd.backward(loss)
        optimizer.step()
    return loss.detach()


if __name__ == "__main__":
    run(step)
