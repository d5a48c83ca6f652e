"""STPL: source-free domain adaptation of video semantic segmentation (Lo et al., CVPR 2023).

From Python, `load` takes a network and `adapt` adapts it to a video; the rest is the command line's (`stpl --help`).
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpl.apply.adapt import Adaptation
    from stpl.apply.library import adapt, load
    from stpl.apply.stages import Stage

__version__ = "0.1.0"
_PLACES = {"Adaptation": "adapt", "Stage": "stages", "adapt": "library", "load": "library"}
__all__ = ["Adaptation", "Stage", "__version__", "adapt", "load"]

# albumentations asks the package index for a newer version at import unless this is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def __getattr__(name: str) -> Any:
    """Import the library when it is first asked for: torch takes seconds, and help must answer at once."""
    if name in _PLACES:
        return getattr(import_module(f"stpl.apply.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'stpl' has no attribute '{name}'")
