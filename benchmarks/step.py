"""One training step of STPL against the same step as published code of the field is written.

On a GPU see `benchmarks.step_cuda`. On the CPU:

* stpl: the method as it runs, in the hardware's precision.
* stpl, float32: the same in float32; what is left where the hardware has no units for bfloat16.
* plain: float32, tensors in the default memory format, one forward for each view, the contrast in its dense form.

All three start from the same weights, take the same clip and evaluate the same four views: current, previous, augmented
current, augmented previous; the previous frames take no gradient. Each form has processes of its own: the first two set
the C library's allocator as `stpl fit` does, the third leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import contrast
from benchmarks.measure import Action, Figures, in_processes, run, times_table
from stpl.data.clip import BACKWARD, Batch, Clip
from stpl.methods import STPL
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.runs.trainer import keep_freed_memory
from stpl.training import OptimizerOptions

FORMS = ("stpl", "stpl, float32", "plain")


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
        height: of the frames.
        width: of the frames.
        network: the network; ResNet-101 if not given.
        repeats: rounds; in each, every form takes an unmeasured and a measured step in a process of its own.
        device: cpu or cuda.
        experiment: a row to hold against STPL instead, on the CPU: a name in experiments/tables.yaml.
    """
    if experiment is not None:
        from benchmarks.row import row

        return row(experiment, height, width, network or DeepLabV2(), repeats)
    if device != "cpu":
        from benchmarks.step_cuda import step as on_a_gpu

        return on_a_gpu(height, width, network or DeepLabV2(), repeats, device)
    options = (network or DeepLabV2()).to_dict()["init_args"]
    settings: dict[str, Any] = {"height": height, "width": width, "network": options}
    cases = {form: {"form": form, **settings} for form in FORMS}
    timings, peaks = in_processes("benchmarks.step:prepare", cases, repeats)
    title = (
        f"one STPL step at {height}×{width}, ResNet-{options['depth']} of width {options['width']},"
        f" {torch.get_num_threads()} threads, {_precision()}"
    )
    print(times_table(title, timings, "stpl", peaks))
    return {
        "height": height,
        "width": width,
        "network": options,
        "threads": torch.get_num_threads(),
        "precision": _precision(),
        "seconds": {form: timing.median for form, timing in timings.items()},
        "spread": {form: timing.spread for form, timing in timings.items()},
        "peak_mb": peaks,
    }


def prepare(form: str, height: int, width: int, network: dict[str, Any]) -> Action:
    """The step in one of the `FORMS`, its network built and its clip drawn."""
    torch.manual_seed(0)
    if form != "plain":
        keep_freed_memory()
    kind = Plain if form == "plain" else STPL
    method = kind(network=NetworkOptions(DeepLabV2(**network)), optimizer=OptimizerOptions()).train()
    optimizer = torch.optim.SGD(method.parameter_groups(), momentum=0.9)
    precision = torch.bfloat16 if form == "stpl" and _precision() == "bf16-mixed" else None
    return partial(_run, method, optimizer, draw_clip(height, width), precision)


def draw_clip(height: int, width: int) -> Clip:
    """A clip of two random frames, their augmentation and a small flow."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1, 2, 3, height // 8, width // 8)
    frames, augmented = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).repeat(1, 1, 1, 1, 8, 8)
    return Clip(frames, {BACKWARD: torch.randn(1, 2, height, width, generator=generator)}, augmented=augmented)


def _run(method: STPL, optimizer: torch.optim.Optimizer, clip: Clip, precision: torch.dtype | None) -> float:
    optimizer.zero_grad()
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        output = method.training_step(Batch(clip), 0)
    assert output is not None
    output["loss"].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(output["loss"].detach())


def _precision() -> str:
    from stpl.runs.precision import hardware_precision

    return hardware_precision("cpu")


class Plain(STPL):
    """STPL with its tensors in the default memory format and the contrast in its dense form."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self.network.to(memory_format=torch.contiguous_format)
        segmenter = self.network.segmenter
        segmenter.normalize = _contiguous(segmenter.normalize)

    def _contrast(self, queries: Tensor, keys: Tensor, classes: Tensor) -> Tensor:
        """Clip by clip."""
        return torch.stack([contrast.dense(*clip) for clip in zip(queries, keys, classes, strict=True)]).mean()


def _contiguous(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda frames: function(frames).contiguous()


if __name__ == "__main__":
    run(step)
