"""Warping on the paper's grid against a Python loop over its pixels, which published code uses."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import Figures, interleaved, report, run
from stpl.nn.warp import warp as warp_by_flow


def warp(height: int = 65, width: int = 129, channels: int = 128, repeats: int = 5) -> Figures:
    """Time of a warp against a per-pixel loop; both must agree.

    Args:
        height: of the feature grid.
        width: of the feature grid.
        channels: of the features; with many, memory bounds both, and the loop's cost per pixel counts less.
        repeats: rounds that are measured; both take part in each.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, channels, height, width, generator=generator).to(memory_format=torch.channels_last)
    flow = 3 * torch.randn(1, 2, height, width, generator=generator)
    actions = {"stpl": partial(warp_by_flow, features, flow), "loop": partial(loop, features, flow)}
    title = f"warp at {height}×{width}, {channels} channels, {torch.get_num_threads()} threads"
    measured = report(title, interleaved(actions, repeats), "stpl")
    difference, integral = (
        float((warp_by_flow(features, by) - loop(features, by)).abs().max()) for by in (flow, flow.round())
    )
    print(f"\nlargest difference: {difference:.1e}; where the flow is integral: {integral:.1e}")
    sizes = {"height": height, "width": width, "channels": channels}
    return {**sizes, **measured, "difference": difference, "difference_integral": integral}


def loop(features: Tensor, flow: Tensor) -> Tensor:
    """The same as `stpl.nn.warp.warp`, one pixel at a time."""
    (_, _, height, width), out = features.shape, torch.empty_like(features)
    for i, (image, (dx, dy)) in enumerate(zip(features, flow.tolist(), strict=True)):
        for y in range(height):
            for x in range(width):
                at_x, at_y = min(max(x + dx[y][x], 0), width - 1), min(max(y + dy[y][x], 0), height - 1)
                left, top = int(at_x), int(at_y)
                right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
                a, b = at_x - left, at_y - top
                upper = image[:, top, left] * (1 - a) + image[:, top, right] * a
                lower = image[:, bottom, left] * (1 - a) + image[:, bottom, right] * a
                out[i, :, y, x] = upper * (1 - b) + lower * b
    return out


if __name__ == "__main__":
    run(warp)
