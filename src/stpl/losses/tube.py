"""Tube matching: the overlap of predicted and true tubes of each class through a clip."""

import torch
from torch import Tensor

from stpl.data.clip import IGNORE


def tube_matching(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Sum over classes of 1 - Dice of predicted and true tube (Shin et al., VAT-VST, Eq. 6, 7), mean over clips.

    Dice = 2·Σpq / (Σp² + Σq²) of probabilities `[B,T,K,H,W]` and labels int64 `[B,T,H,W]`, summed over all frames and
    pixels of a clip whose label is not 255. A class that the labels of a clip do not show has a Dice of 0 with no
    gradient; it is left out. The sum lies in [0, K].

    Raises:
        ValueError: for shapes that do not fit.

    Examples:
        >>> labels = torch.tensor([0, 1]).view(1, 1, 1, 2)
        >>> right = torch.eye(2).view(1, 1, 2, 1, 2)
        >>> tube_matching(right, labels).item(), tube_matching(1 - right, labels).item()
        (0.0, 2.0)
    """
    if probabilities.ndim != 5 or labels.shape != (*probabilities.shape[:2], *probabilities.shape[3:]):
        shapes = f"{list(probabilities.shape)} and labels {list(labels.shape)}"
        raise ValueError(f"probabilities {shapes} do not fit: give [B,T,K,H,W] and [B,T,H,W]")
    known = labels != IGNORE
    truth = labels[:, :, None] == torch.arange(probabilities.shape[2], device=labels.device)[:, None, None]
    predicted = probabilities * known[:, :, None]
    shared, mine, theirs = (
        x.sum((1, 3, 4)) for x in (predicted * truth, predicted.square(), truth.to(predicted.dtype))
    )
    there = theirs > 0
    dice = 2 * shared / (mine + theirs).clamp(min=1e-12)
    return torch.where(there, 1 - dice, 0.0).sum(1).mean()
