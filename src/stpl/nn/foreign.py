"""Calling networks that somebody else wrote: what they raise becomes one line, and they are left as they were."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stpl.errors import ConfigError, StplError

M = TypeVar("M", bound=nn.Module)


def _never(layer: nn.Module) -> bool:
    return False


def output_of(net: nn.Module, frames: Tensor, training: Callable[[nn.Module], bool] = _never) -> Any:
    """What a network returns, without learning; operations without a deterministic form will do.

    Args:
        net: is left as it was, and so are torch's generators.
        frames: `[B,3,H,W]`.
        training: which of its layers are in training mode: none, so that it is in evaluation.

    Raises:
        ConfigError: it does not take such frames.
    """
    modes = [(layer, layer.training) for layer in nn.Module.modules(net)]
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    if strict:  # the switch is the process's: what another thread computes meanwhile stays deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for layer, _ in modes:
            layer.training = training(layer)
        with torch.no_grad(), torch.random.fork_rng(_devices(frames)):
            return net(frames)
    except StplError:
        raise
    except Exception as error:  # whatever its author's code raises
        raise refused(frames.shape, error) from error
    finally:
        if strict:
            torch.use_deterministic_algorithms(True)
        for layer, mode in modes:
            layer.training = mode


def _devices(frames: Tensor) -> list[torch.device]:
    return [frames.device] if frames.device.type == "cuda" else []


def refused(shape: Sequence[int], error: Exception) -> ConfigError:
    """The error for a network that fails on frames of that shape `[B,3,H,W]`."""
    images, _, height, width = shape
    mend = f"it is called with one tensor {list(shape)}; give a size that it takes (--size=HEIGHT,WIDTH), or wrap it"
    if torch.are_deterministic_algorithms_enabled() and "deterministic" in str(error):
        mend = "let it: --trainer.deterministic=warn"
    if "more than 1 value per channel" in str(error):
        mend = "a BatchNorm of it sees one value a channel: give two clips a step or more (--batch_size=2)"
    return ConfigError(
        f"the network does not take {images} frame(s) of {height}×{width} pixels: {line(error)}",
        where="network.architecture",
        mend=mend,
    )


def line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def copied(module: M) -> M:
    """A copy of a network; raises `ConfigError` for one that holds what cannot be copied."""
    try:
        return copy.deepcopy(module)
    except (TypeError, RuntimeError) as error:
        mend = "let it hold no open file, lock or generator, and no tensor that its forward pass computed"
        raise ConfigError(
            f"the network cannot be copied: {line(error)}", where="network.architecture", mend=mend
        ) from error
