"""Every method is one file here and one YAML in `experiments/method/`. Importing this makes their names short.

Begin with `base`: a method says what it minimises, everything else is written there. Methods of other packages are
found by the entry point `stpl.methods`, or named by their import path.
"""

import importlib
import pkgutil

from stpl.methods.base import Method
from stpl.methods.batchnorm_statistics import BatchNormStatistics
from stpl.methods.contrast import Contrast, PixelContrast
from stpl.methods.optimization import OptimizerOptions
from stpl.methods.self_training import SelfTraining
from stpl.methods.source_only import SourceOnly
from stpl.methods.supervised import Supervised
from stpl.methods.true_labels import TrueLabelContrast, TrueLabelSelfTraining

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")

__all__ = [
    "BatchNormStatistics",
    "Contrast",
    "Method",
    "OptimizerOptions",
    "PixelContrast",
    "SelfTraining",
    "SourceOnly",
    "Supervised",
    "TrueLabelContrast",
    "TrueLabelSelfTraining",
]
