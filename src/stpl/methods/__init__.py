"""Every method is one file here, one YAML in `experiments/method/` and one page of `docs/methods/`.

Begin with `self_training`: a method defines its losses, `stpl.training` does the rest. Methods of other packages
are found by the entry point `stpl.methods`, or named by their import path.
"""

import importlib
import pkgutil

from stpl.methods.adaptsegnet import AdaptSegNet, AdvEnt, MinEnt
from stpl.methods.affine_teacher import AffineTeacher
from stpl.methods.batchnorm_statistics import BatchNormStatistics
from stpl.methods.cbst import CBST
from stpl.methods.cotta import CoTTA
from stpl.methods.crst import LRENT, MRKLD
from stpl.methods.da_vsn import DAVSN
from stpl.methods.dacs import DACS, MIC
from stpl.methods.fda import FDA, FDASelfTraining
from stpl.methods.hcl import HCL
from stpl.methods.iast import IAST
from stpl.methods.mean_teacher import MeanTeacher
from stpl.methods.pixmatch import PixMatch
from stpl.methods.rda import RDA
from stpl.methods.self_training import SelfTraining
from stpl.methods.source_only import SourceOnly
from stpl.methods.stpl import STPL, Contrast
from stpl.methods.supervised import Supervised
from stpl.methods.tent import TENT
from stpl.methods.tps import TPS
from stpl.methods.true_labels import TrueLabelSelfTraining, TrueLabelSTPL
from stpl.methods.ur import UR
from stpl.methods.vat_vst import VAT, VST

for _found in pkgutil.iter_modules(__path__):  # a new file needs no line here
    importlib.import_module(f"{__name__}.{_found.name}")

__all__ = [
    "CBST",
    "DACS",
    "DAVSN",
    "FDA",
    "HCL",
    "IAST",
    "LRENT",
    "MIC",
    "MRKLD",
    "RDA",
    "STPL",
    "TENT",
    "TPS",
    "UR",
    "VAT",
    "VST",
    "AdaptSegNet",
    "AdvEnt",
    "AffineTeacher",
    "BatchNormStatistics",
    "CoTTA",
    "Contrast",
    "FDASelfTraining",
    "MeanTeacher",
    "MinEnt",
    "PixMatch",
    "SelfTraining",
    "SourceOnly",
    "Supervised",
    "TrueLabelSTPL",
    "TrueLabelSelfTraining",
]
