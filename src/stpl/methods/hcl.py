"""HCL: historical contrastive learning for model adaptation without source data (Huang et al., NeurIPS 2021)."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from stpl.data.clip import IGNORE, Batch
from stpl.losses.entropy import entropy_map
from stpl.losses.instance_contrast import PositiveKind, instance_contrast
from stpl.nn.accel import clip_flow
from stpl.nn.segmenter import Segmentation, grid_of, on_grid
from stpl.nn.teacher import Teacher, TeacherOptions
from stpl.training.base import check_settings
from stpl.training.evaluation import nearest
from stpl.training.ranks import pixel_weight
from stpl.training.supervision import OnlinePseudoLabels

Agreement = Literal["distance", "divergence"]
"""How much two predictions agree: 1 - sigmoid(‖p - p'‖₁), in (0, ½] (paper), or exp(-KL(p'‖p)), in (0, 1] (code)."""

_HISTORY = TeacherOptions(decay=0.0, warmup=False, period=300)


class HCL(OnlinePseudoLabels):
    """Contrast with, and pseudo-labels weighted by, an earlier state of the network.

    The historical network is a copy of the network from up to `history.period` steps ago. Instance level: each pixel's
    feature is to be that which the historical network gives it, among those of all pixels of the clip. Category level:
    cross-entropy with the network's own pseudo-labels, weighted by how much both networks agree.

    Args:
        history: how the historical network follows: the same network every 300 steps, with statistics of its own.
        positives: what a pixel is drawn to: itself, or the others of its class.
        agreement: how much two predictions agree.
        contrast_weight: of the instance level (0.5, as in the released code).
        temperature: τ (0.07).
        confident_proportion: share of pixels whose pseudo-label is used; all (1), as in the released code.
    """

    def __init__(
        self,
        *,
        history: TeacherOptions = _HISTORY,
        positives: PositiveKind = "instance",
        agreement: Agreement = "distance",
        contrast_weight: float = 0.5,
        temperature: float = 0.07,
        confident_proportion: float = 1.0,
        **shared: Any,
    ) -> None:
        check_settings(contrast_weight=contrast_weight)
        check_settings(1e-4, temperature=temperature)
        super().__init__(confident_proportion=confident_proportion, **shared)
        self.history = Teacher(self.network, history)
        self.positives, self.agreement = positives, agreement
        self.contrast_weight, self.temperature = contrast_weight, temperature

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The category level, and the instance level with its weight."""
        clip, then = batch.target, self.history.network
        with torch.no_grad():
            before, earlier = (model.segment(clip.frame(-1)).logits for model in (self.network, then))
            past = then.segment(clip.frame())
        now = self.network.segment(clip.frame())
        flow = clip_flow(clip, grid_of(now.logits))
        fused = self.network.fuse(now.logits, before, flow)
        with torch.no_grad():
            remembered = then.fuse(past.logits, earlier, flow)
        labels, confident = self.pseudo_labels(fused, clip)
        return {
            "self_training": self._weighted(fused, remembered, torch.where(confident, labels, IGNORE)),
            "contrast": self.contrast_weight * self._contrast(now, past, remembered, labels),
        }

    def _weighted(self, logits: Tensor, remembered: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the labelled pixels, each weighted by the agreement of both predictions."""
        agree = agreement_of(logits.detach(), remembered, self.agreement)
        each = cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
        return pixel_weight(labels) * (agree * each).sum() / (labels != IGNORE).sum().clamp(min=1)

    def _contrast(self, now: Segmentation, past: Segmentation, remembered: Tensor, labels: Tensor) -> Tensor:
        """Mean over clips."""
        size = grid_of(now.features)
        reliability = (1.1 - entropy_map(on_grid(remembered, size))).clamp(0.9, 1.1).flatten(1)
        queries, keys = (normalize(features.float().flatten(2).mT, dim=2) for features in (now.features, past.features))
        by_class = self.positives == "class"
        classes = nearest(labels, size).flatten(1) if by_class else [None] * len(queries)
        clips = zip(queries, keys, reliability.to(queries.dtype), classes, strict=True)
        return torch.stack([instance_contrast(*clip, temperature=self.temperature) for clip in clips]).mean()


def agreement_of(logits: Tensor, remembered: Tensor, kind: Agreement = "distance") -> Tensor:
    """How much two predictions `[B,K,h,w]` agree at each pixel, `[B,h,w]`; see `Agreement`."""
    log_p, log_q = (x.float().log_softmax(1) for x in (logits, remembered))
    if kind == "distance":
        return 1 - (log_p.exp() - log_q.exp()).abs().sum(1).sigmoid()
    return (-(log_q.exp() * (log_q - log_p)).sum(1)).exp()
