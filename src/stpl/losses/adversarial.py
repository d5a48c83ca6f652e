"""Losses between a network and a discriminator of domains (Goodfellow et al., 2014; Mao et al., LSGAN, 2017).

Source has label 0 and target 1 (ADVENT, DA-VSN; AdaptSegNet has it so too).
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Domain = Literal["source", "target"]
Kind = Literal["bce", "lsgan"]
"""`bce`: binary cross-entropy of the scores as logits. `lsgan`: squared distance of the scores to the label."""


def domain_loss(scores: Tensor, domain: Domain, kind: Kind = "bce") -> Tensor:
    """Loss of a discriminator's scores for the label of `domain`, mean over all of them.

    A network that is to look like the source minimises it for `source` on its maps of the target; the discriminator
    minimises it for the true domain of each. Scores may have any shape and value.

    Raises:
        ValueError: for another domain or kind.

    Examples:
        >>> domain_loss(torch.zeros(1, 1, 2, 2), "target", "lsgan").item()
        1.0
    """
    for value, known in ((domain, get_args(Domain)), (kind, get_args(Kind))):
        if value not in known:
            raise ValueError(f"'{value}' is unknown, choose one of: {', '.join(known)}")
    label = torch.full_like(scores, 1.0 if domain == "target" else 0.0, dtype=torch.float32)
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(scores.float(), label)
    return F.mse_loss(scores.float(), label)


def reversed_gradient(values: Tensor) -> Tensor:
    """The same values, with the sign of their gradient turned (Ganin and Lempitsky, ICML 2015).

    Examples:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> (2 * reversed_gradient(x)).backward()
        >>> x.grad.item()
        -2.0
    """
    return 2 * values.detach() - values
