"""Layers of a network whose output may be the features that methods look at: found, proposed, listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stpl.errors import ConfigError, did_you_mean
from stpl.nn.foreign import output_of

_SHOWN = 8
_LEAST_CHANNELS = 8  # of features
_FINEST = 4  # pixels a feature, for a layer to be proposed


class FeatureLayer(NamedTuple):
    """A layer whose output may be features.

    Attributes:
        name: as `named_modules` has it.
        channels: D.
        stride: pixels a feature.
    """

    name: str
    channels: int
    stride: int

    def __str__(self) -> str:
        return f"{self.name} ({self.channels} channels, 1/{self.stride})"


def candidates(net: nn.Module, frame_size: tuple[int, int]) -> list[FeatureLayer]:
    """Layers of a network whose output may be features, in the order in which they are called.

    Args:
        net: takes normalised frames `[B,3,H,W]`.
        frame_size: height and width of frames it can take.
    """
    found: dict[str, FeatureLayer] = {}

    def catch(name: str, output: Any) -> None:
        """Note a layer whose output may be features."""
        grid = output[0] if isinstance(output, tuple | list) and output else output
        fits = (
            isinstance(grid, Tensor) and grid.ndim == 4 and grid.shape[-2] < frame_size[0] and min(grid.shape[-2:]) > 1
        )
        if fits and grid.shape[1] >= _LEAST_CHANNELS:
            found.pop(name, None)
            found[name] = FeatureLayer(name, grid.shape[1], max(1, round(frame_size[0] / grid.shape[-2])))

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: catch(name, output))
        for name, layer in nn.Module.named_modules(net)
        if name
    ]
    try:
        output_of(net, torch.zeros(1, 3, *frame_size))
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())


def proposed(found: Sequence[FeatureLayer], num_classes: int) -> FeatureLayer | None:
    """The layer to take where none is named: what the classifier reads, if it is not too fine a grid.

    That is the last one called whose output is no logits, of those at 1/4 of the frames or coarser; where all are
    finer, the last one of the coarsest.
    """
    fit = [layer for layer in found if layer.channels != num_classes]
    stride = min(_FINEST, max((layer.stride for layer in fit), default=1))
    return next((layer for layer in reversed(fit) if layer.stride >= stride), None)


def no_such_layer(name: str, found: Sequence[FeatureLayer], layers: Mapping[str, Any]) -> ConfigError:
    """The error for a layer that is not there, or is not named, with those that could be meant."""
    best = sorted(found, key=lambda layer: -layer.channels)[:_SHOWN]
    shown = ", ".join(map(str, best)) or "(none gives a grid of features)"
    return ConfigError(
        f"the network has no layer '{name}'" if name else "no layer is named whose output the features are",
        where="network.architecture.features",
        mend=f"{did_you_mean(name, layers)}name one such as {shown}",
    )
