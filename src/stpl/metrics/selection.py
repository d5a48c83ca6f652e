"""Choosing a checkpoint without labels: scores of unlabelled predictions, higher is better."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from stpl.metrics.sampling import PixelSample


class InformationMaximization(Metric):
    """How sure the predictions are, one by one, and how diverse as a whole: H(mean p) - mean H(p), in nats.

    The mutual information between pixel and predicted class, in [0, ln K]: high when every pixel is decided and all
    classes are used; a collapse onto few classes lowers its first term. Higher is better. An objective of
    discriminative clustering (Krause, Perona and Gomes, NeurIPS 2010) and of source-free adaptation (SHOT, Liang et
    al., ICML 2020); it is none of the "Three New Validators" of Musgrave et al. (2022).
    """

    full_state_update = False
    higher_is_better = True
    batches: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        # Summed in the end and not on the way: processes that share the batches then add in the order of one.
        self.add_state("batches", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor) -> None:
        """Take logits `[B,K,h,w]`; raises `ValueError` for another shape."""
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(f"logits are [B,K,h,w] of {self.num_classes} classes, got {list(logits.shape)}")
        log_probability = logits.float().log_softmax(1)
        probability = log_probability.exp()
        entropy = -(probability * log_probability).sum().double()
        pixels = entropy.new_tensor(logits.numel() // logits.shape[1])
        self.batches.append(torch.cat([probability.sum((0, 2, 3)).double(), entropy[None], pixels[None]])[None])

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean probability of each class, float64 `[K]`, and mean entropy in nats; 0 before any update."""
        if not self.batches:
            return torch.zeros(self.num_classes, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        totals = dim_zero_cat(self.batches).sum(0)
        return totals[:-2] / totals[-1], totals[-2] / totals[-1]

    def compute(self) -> Tensor:
        """The score, scalar float64; 0 before any update."""
        probability, entropy = self.means()
        score: Tensor = -torch.special.xlogy(probability, probability).sum() - entropy
        return score


class NegativeEntropy(InformationMaximization):
    """How sure the predictions are, one by one: -mean H(p), in nats, in [-ln K, 0].

    The classic criterion (Morerio et al., ICLR 2018). It cannot distinguish a network that is right from one that has
    collapsed onto a single class; `InformationMaximization` can.
    """

    def compute(self) -> Tensor:
        """The score, scalar float64; 0 before any update."""
        return -self.means()[1]


def soft_neighborhood_density(vectors: Tensor, temperature: float = 0.05) -> Tensor:
    """Mean entropy of the soft neighbourhoods of vectors `[M,C]`, two or more, in nats, in [0, ln(M - 1)].

    The soft neighbourhood of i is the softmax over j ≠ i of cos(v_i, v_j)/τ: an even one means that i lies in a dense
    cluster. Higher is better. The temperature τ is the authors'.

    Raises:
        ValueError: for fewer than two vectors, or what are none.

    Examples:
        >>> round(soft_neighborhood_density(torch.ones(3, 2)).item(), 4)  # each is as near to the two others: log 2
        0.6931
    """
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(f"neighbourhoods are of two vectors or more, [M,C], got {list(vectors.shape)}")
    unit = F.normalize(vectors)
    similarity = (unit @ unit.T) / temperature
    others = similarity.clone().fill_diagonal_(-torch.inf)
    return (others.logsumexp(1) - (others.softmax(1) * similarity).sum(1)).mean()


class SoftNeighborhoodDensity(PixelSample):
    """Soft neighbourhood density of predictions (Saito et al., "Tune it the Right Way", ICCV 2021), in nats.

    As the authors do, neighbourhoods are those of softmax outputs, not of features. They are formed within an even
    sample of all pixels, which is drawn without any label; its size, `pixels`, is part of the number.
    """

    higher_is_better = True

    def __init__(self, pixels: int = 2000, seed: int = 0) -> None:
        super().__init__(pixels, seed)

    def update(self, logits: Tensor) -> None:  # type: ignore[override]
        """Take logits `[B,K,h,w]`."""
        super().update(logits.float().softmax(1), torch.zeros_like(logits[:, 0], dtype=torch.int64))

    def compute(self) -> Tensor:
        """The score, scalar float64; 0 for fewer than two pixels."""
        vectors = self.sample().vectors
        return soft_neighborhood_density(vectors) if len(vectors) > 1 else torch.zeros((), dtype=torch.float64)


def validators(num_classes: int) -> dict[str, Metric]:
    """Every label-free score by its name; all take `update(logits [B,K,h,w])` and compute one scalar."""
    return {
        "information_maximization": InformationMaximization(num_classes),
        "soft_neighborhood_density": SoftNeighborhoodDensity(),
        "negative_entropy": NegativeEntropy(num_classes),
    }
