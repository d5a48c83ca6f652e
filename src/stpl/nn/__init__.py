"""Torch modules without Lightning: networks, video segmentation, fusion, warping, weights.

Begin with `segmenter` (what a network looks like from outside) and `weights` (the one door for checkpoints).

What other programs use most can be imported from here. `stpl.nn.warp` is the function, whatever was imported before;
`from stpl.nn.warp import …` reads its module.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpl.nn.batchnorm import renew
    from stpl.nn.fusion import STAM, Add, Concat, Conv1x1, ProjectionHead
    from stpl.nn.warp import inside, resize_flow, warp

__all__ = ["STAM", "Add", "Concat", "Conv1x1", "ProjectionHead", "inside", "renew", "resize_flow", "warp"]

_MODULES = dict.fromkeys(__all__, "fusion") | {"renew": "batchnorm"}
_MODULES |= dict.fromkeys(("inside", "resize_flow", "warp"), "warp")


class _Room(ModuleType):
    """This package, which some modules enter without torch: what needs torch is imported when it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Python binds each module to its package when it is imported; of `warp` the function is bound."""
        super().__setattr__(name, getattr(value, name) if name == "warp" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Room
