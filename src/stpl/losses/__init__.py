"""Losses as functions on tensors, each after one paper's equation.

Begin with `pixel_contrast`: Eq. 3 and 4 of STPL, and the engines that compute them.

The functions can be imported from here. Three of them have the name of their module: `stpl.losses.pixel_contrast` is
the function whatever was imported before, and `from stpl.losses.pixel_contrast import …` reads the module.
"""

from stpl.losses.adversarial import domain_loss, reversed_gradient
from stpl.losses.confidence import confident_pixels
from stpl.losses.cross_entropy import cross_entropy
from stpl.losses.dense_contrast import dense_pixel_contrast
from stpl.losses.entropy import certain_consistency, entropy_map, robust_entropy, weighted_entropy
from stpl.losses.instance_contrast import instance_contrast
from stpl.losses.pixel_contrast import pixel_contrast
from stpl.losses.tube import tube_matching

__all__ = [
    "certain_consistency",
    "confident_pixels",
    "cross_entropy",
    "dense_pixel_contrast",
    "domain_loss",
    "entropy_map",
    "instance_contrast",
    "pixel_contrast",
    "reversed_gradient",
    "robust_entropy",
    "tube_matching",
    "weighted_entropy",
]
