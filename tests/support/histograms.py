"""Histograms of predictions, as pseudo-labels are chosen by."""

from __future__ import annotations

import torch
from torch import Tensor

from stpl.training.offline_pseudo_labels import BINS, add_to, doubts_of


def histogram_of(confidences: list[float]) -> Tensor:
    """The histogram of pixels of class 0 with these confidences."""
    rest = torch.tensor([[(1 - c) / 14] * 14 for c in confidences])
    p = torch.cat([torch.tensor(confidences)[:, None], rest], 1)
    histogram = torch.zeros(15, BINS, dtype=torch.int64)
    add_to(histogram, doubts_of(p.log().T[None, :, None]))
    return histogram
