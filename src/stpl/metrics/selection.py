"""Choosing a checkpoint without labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class InformationMaximization(Metric):
    """How sure the predictions are, one by one, and how diverse, taken together: H(mean p) - mean H(p), in nats.

    The mutual information between pixel and predicted class, in [0, ln K]: high when every pixel is decided and all
    classes are used; a collapse onto few classes lowers its first term. Higher is better. Proposed as a criterion for
    unsupervised model selection by Musgrave et al. ("Three New Validators", 2022) after Krause et al. (NeurIPS 2010).

    Args:
        num_classes: number of classes K.
    """

    full_state_update = False
    higher_is_better = True
    mean_probability: Tensor
    entropy: Tensor
    pixels: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("mean_probability", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("entropy", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pixels", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor) -> None:
        """Take logits `[B,K,h,w]`."""
        log_probability = logits.float().log_softmax(1)
        probability = log_probability.exp()
        self.mean_probability += probability.sum((0, 2, 3)).double()
        self.entropy -= (probability * log_probability).sum().double()
        self.pixels += logits.numel() // logits.shape[1]

    def compute(self) -> Tensor:
        """The score, scalar float64; 0 if nothing was seen."""
        pixels = self.pixels.clamp(min=1)
        mean = self.mean_probability / pixels
        score: Tensor = -torch.special.xlogy(mean, mean).sum() - self.entropy / pixels
        return score
