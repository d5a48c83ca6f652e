"""Does a piece of code ask a device for values? On a CPU nothing waits, so it is seen by what is called."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "_unique2", "is_nonzero", "equal"}
"""Operators whose result, or its shape, the host has to wait for."""

# Methods of tensors and functions of torch; a copy from the host waits too.
_METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "new_tensor")
_FUNCTIONS = ("tensor", "as_tensor")


class ReadBackError(Exception):
    """A tensor's value was asked for."""


class _NoReadBack(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operators that make the host wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)
            for a in args
            if isinstance(a, list)
            for i in a
        )
        if name in WAITING or masks:
            raise ReadBackError(name)
        return func(*args, **(kwargs or {}))


def _refuse(name: str) -> Callable[..., None]:
    def refused(*args: object, **kwargs: object) -> None:
        raise ReadBackError(name)

    return refused


@contextmanager
def no_read_back() -> Iterator[None]:
    """Raise `ReadBackError` where the block would have a GPU's host wait: for a value, a shape, a copy to the GPU."""
    refused: list[tuple[Any, str]] = [(Tensor, name) for name in _METHODS] + [(torch, name) for name in _FUNCTIONS]
    with ExitStack() as stack:
        for owner, name in refused:
            stack.enter_context(mock.patch.object(owner, name, _refuse(name)))
        with _NoReadBack():  # type: ignore[no-untyped-call]
            yield
