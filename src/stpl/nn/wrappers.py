"""What programs wrap around a network before they train it: taken off, and put on again around another one."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

_COMPILED = "_orig_mod"  # where `torch.compile` keeps the network
_INSIDE = "module"  # where the others do


def plain(module: nn.Module) -> nn.Module:
    """The network itself, without `torch.compile`, DataParallel, DistributedDataParallel and AveragedModel."""
    inside = _place(module)
    return module if inside is None else plain(module._modules[inside])  # type: ignore[arg-type]


def wrapped_as(wrapper: nn.Module, net: nn.Module) -> nn.Module:
    """A network within copies of the wrappers that another one has; their state dicts have the same names."""
    inside = _place(wrapper)
    if inside is None:
        return net
    within = wrapped_as(wrapper._modules[inside], net)  # type: ignore[arg-type]
    if inside == _COMPILED:
        kind: Any = type(wrapper)
        return kind(within, wrapper.dynamo_ctx)  # type: ignore[no-any-return]
    other = copy.copy(wrapper)
    other._modules = {**wrapper._modules, inside: within}
    other._buffers = {name: None if x is None else x.clone() for name, x in wrapper._buffers.items()}
    return other


def _place(module: nn.Module) -> str | None:
    """Under which name a wrapper keeps the network; `None` for what is no wrapper."""
    if _COMPILED in module._modules and hasattr(module, "dynamo_ctx"):
        return _COMPILED
    return _INSIDE if isinstance(module, nn.DataParallel | DistributedDataParallel | AveragedModel) else None
