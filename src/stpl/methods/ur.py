"""UR: uncertainty reduction for model adaptation in semantic segmentation (Teja S and Fleuret, CVPR 2021)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout2d

from stpl.data.clip import Batch
from stpl.losses.entropy import entropy_map
from stpl.methods.cbst import CBST
from stpl.nn.accel import clip_flow
from stpl.nn.segmenter import grid_of, on_grid
from stpl.training.base import check_settings


class UR(CBST):
    """Class-balanced pseudo-labels, low entropy, and classifiers that agree though features are dropped.

    Auxiliary classifiers read the current frame's features with a share of the channels dropped, another draw for
    each; their probabilities are to be those of the main classifier on all of them, which learns nothing from that.

    Args:
        rounds: see `OfflinePseudoLabels`; the released code labels once.
        entropy_weight: of the mean entropy of the fused prediction, over all pixels (1).
        uncertainty_weight: of the squared difference of probabilities, summed over the classifiers (0.1).
        decoders: number of auxiliary classifiers (4).
        dropout: share of the features' channels that is dropped (0.5).
        freeze_classifier: keep the source model's classifier and score fusion as they are, as in the paper. The
            released code means to and does not.
    """

    recordable = False  # it draws numbers

    def __init__(
        self,
        *,
        rounds: int = 1,
        entropy_weight: float = 1.0,
        uncertainty_weight: float = 0.1,
        decoders: int = 4,
        dropout: float = 0.5,
        freeze_classifier: bool = True,
        **shared: Any,
    ) -> None:
        check_settings(entropy_weight=entropy_weight, uncertainty_weight=uncertainty_weight)
        check_settings(1, decoders=decoders)
        check_settings(0, 1, dropout=dropout)
        super().__init__(rounds=rounds, source_free=True, **shared)
        self.entropy_weight, self.uncertainty_weight, self.dropout = entropy_weight, uncertainty_weight, dropout
        self.decoders = nn.ModuleList(self.network.segmenter.further_classifier() for _ in range(decoders))
        self.freeze_classifier = freeze_classifier
        if freeze_classifier:
            encoder = {id(parameter) for parameter in self.network.segmenter.encoder.parameters()}
            for parameter in self.network.parameters():
                if id(parameter) not in encoder:
                    parameter.requires_grad_(False)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the round's labels, entropy, and disagreement of the auxiliary classifiers."""
        clip = batch.target
        with torch.no_grad():
            before = self.network.segment(clip.frame(-1)).logits
        features, now = self.network.segment(clip.frame())
        fused = self.network.fuse(now, before, clip_flow(clip, grid_of(now)))
        return self.self_training(fused, batch) | {
            "entropy": self.entropy_weight * entropy_map(fused).mean(),
            "uncertainty": self.uncertainty_weight * self._disagreement(features, now),
        }

    def _disagreement(self, features: Tensor, logits: Tensor) -> Tensor:
        """Mean squared difference of probabilities to those of `logits`, summed over the auxiliary classifiers.

        It is of the features' grid, on which these classifiers predict.
        """
        aim = on_grid(logits.detach().float(), grid_of(features)).softmax(1)
        dropped = (decoder(dropout2d(features, self.dropout)) for decoder in self.decoders)
        return torch.stack([(found.float().softmax(1) - aim).square().mean() for found in dropped]).sum()
