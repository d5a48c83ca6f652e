"""Networks that somebody else wrote: called, copied, without their wrappers; what they raise becomes one line."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from stpl.errors import ConfigError, StplError, first_line

M = TypeVar("M", bound=nn.Module)

_WHERE = "network.architecture"
_COMPILED = "_orig_mod"  # where `torch.compile` keeps the network


def output_of(net: nn.Module, frames: Tensor, training: Callable[[nn.Module], bool] | None = None) -> Any:
    """What a network returns, without learning; operations without a deterministic form will do.

    Args:
        net: is left as it was, and so are torch's generators.
        frames: `[B,3,H,W]`.
        training: which of its layers are in training mode; none if not given.

    Raises:
        ConfigError: it does not take such frames.
    """
    modes = [(layer, layer.training) for layer in nn.Module.modules(net)]
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    if strict:  # the switch is the process's: what another thread computes meanwhile stays deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for layer, _ in modes:
            layer.training = training is not None and training(layer)
        with torch.no_grad(), torch.random.fork_rng([frames.device] if frames.is_cuda else []):
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


def refused(shape: Sequence[int], error: Exception) -> ConfigError:
    """The error for a network that fails on frames of that shape `[B,3,H,W]`."""
    images, _, height, width = shape
    mend = f"it is called with one tensor {list(shape)}; give a size that it takes (--size=HEIGHT,WIDTH), or wrap it"
    if torch.are_deterministic_algorithms_enabled() and "deterministic" in str(error):
        mend = "let it: --trainer.deterministic=warn"
    if "more than 1 value per channel" in str(error):
        mend = "a BatchNorm of it sees one value a channel: give two clips a step or more (--batch_size=2)"
    what = f"the network does not take {images} frame(s) of {height}×{width} pixels: {first_line(error)}"
    return ConfigError(what, where=_WHERE, mend=mend)


def copied(module: M) -> M:
    """A copy of a network; raises `ConfigError` for one with a part that cannot be copied."""
    try:
        return copy.deepcopy(module)
    except (TypeError, RuntimeError) as error:
        mend = "let it hold no open file, lock or generator, and no tensor that its forward pass computed"
        raise ConfigError(f"the network cannot be copied: {first_line(error)}", where=_WHERE, mend=mend) from error


def plain(module: nn.Module) -> nn.Module:
    """The network itself, without `torch.compile`, DataParallel, DistributedDataParallel and AveragedModel."""
    inside = _place(module)
    return module if inside is None else plain(module.get_submodule(inside))


def wrapped_as(wrapper: nn.Module, net: nn.Module) -> nn.Module:
    """A network within copies of the wrappers that another one has; their state dicts have the same names."""
    inside = _place(wrapper)
    if inside is None:
        return net
    within = wrapped_as(wrapper.get_submodule(inside), net)
    if inside == _COMPILED:
        kind: Any = type(wrapper)
        other: nn.Module = kind(within, wrapper.dynamo_ctx)
        return other
    other = copy.copy(wrapper)
    other._modules = {**wrapper._modules, inside: within}
    other._buffers = {name: None if x is None else x.clone() for name, x in wrapper._buffers.items()}
    return other


def _place(module: nn.Module) -> str | None:
    """Under which name a wrapper keeps the network; `None` for what is no wrapper."""
    if _COMPILED in module._modules and hasattr(module, "dynamo_ctx"):
        return _COMPILED
    return "module" if isinstance(module, nn.DataParallel | DistributedDataParallel | AveragedModel) else None
