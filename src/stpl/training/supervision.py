"""Losses of labels, true and false, that methods share, and source clips in the style of the target."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import BACKWARD, IGNORE, Clip, Wants
from stpl.errors import ConfigError
from stpl.losses.adversarial import Kind, domain_loss
from stpl.losses.confidence import Scope, confident_pixels
from stpl.losses.cross_entropy import cross_entropy
from stpl.nn.accel import Accel
from stpl.nn.discriminator import Discriminator
from stpl.nn.segmenter import grid_of, upsample
from stpl.nn.style import Window, transfer_amplitude
from stpl.training.base import Method
from stpl.training.ranks import pixel_weight

LABELLED = Wants(flows=(BACKWARD,), labels=(0,))
"""What such methods want of the source."""

AUXILIARY_WEIGHT = 0.1
"""Of the auxiliary classifier's losses, if there is one: that of AdaptSegNet, ADVENT, DA-VSN and TPS."""


def supervision(
    network: Accel, clip: Clip, auxiliary_weight: float = AUXILIARY_WEIGHT, fused: Sequence[Tensor] | None = None
) -> dict[str, Tensor]:
    """Cross-entropy of each classifier's fused prediction with the clips' label, at its resolution, weighted.

    Give `fused`, `network.fused_scores` of the clips, if they were computed before.
    """
    label = clip.labels[0]
    known = pixel_weight(label)
    weights = {"cross_entropy": 1.0, "auxiliary": auxiliary_weight}
    return {
        name: known * weight * cross_entropy(upsample(logits, grid_of(label)), label)
        for (name, weight), logits in zip(weights.items(), fused or network.fused_scores(clip), strict=False)
    }


def pseudo_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits `[B,K,h,w]` with labels `[B,h,w]`, 255 = none; pixels of all processes weigh the same."""
    return pixel_weight(labels) * cross_entropy(logits, labels)


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of `[B,h,w]` over the chosen pixels; 0 with no gradient where there is none."""
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)


def smoothing_loss(log_p: Tensor, labels: Tensor) -> Tensor:
    """Mean of -mean_k log p_k over pixels with a label, which keeps them from certainty (CRST's MRKLD, IAST, VST).

    Of logarithms of probabilities `[B,K,h,w]` and labels `[B,h,w]`, 255 = none; pixels of all processes weigh the same.
    """
    return pixel_weight(labels) * mean_where(-log_p.mean(1), labels != IGNORE)


class OnlinePseudoLabels(Method):
    """Base of methods that learn from the confident pixels of a prediction that is made in the step itself.

    Args:
        confident_proportion: k, the share of pixels whose pseudo-label is used, in (0, 1].
        confident_scope: whether pixels compete within the frame ("global") or within their class ("class").
    """

    def __init__(self, *, confident_proportion: float = 0.7, confident_scope: Scope = "global", **shared: Any) -> None:
        if not 0 < confident_proportion <= 1:
            fault, mend = f"{confident_proportion} is outside (0, 1]", "choose a share like 0.7"
            raise ConfigError(fault, where="model.confident_proportion", mend=mend)
        super().__init__(**shared)
        self.confident_proportion, self.confident_scope = confident_proportion, confident_scope

    def pseudo_labels(self, logits: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
        """Classes int64 `[B,h,w]` by a prediction `[B,K,h,w]`, and which of them are confident, bool `[B,h,w]`."""
        return confident_pixels(logits, self.confident_proportion, self.confident_scope)

    def self_training(self, logits: Tensor, prediction: Tensor, clip: Clip) -> Tensor:
        """Cross-entropy of logits with the confident pseudo-labels of a prediction, both `[B,K,h,w]`."""
        labels, confident = self.pseudo_labels(prediction, clip)
        return pseudo_label_loss(logits, torch.where(confident, labels, IGNORE))


def adversarial_losses(
    discriminator: Discriminator, source: Tensor, target: Tensor, kind: Kind = "bce"
) -> tuple[Tensor, Tensor]:
    """The network's loss on its maps `[B,C,h,w]` of the target, and the discriminator's on those of both domains."""
    own = domain_loss(discriminator.detached(source), "source", kind)
    own = own + domain_loss(discriminator.detached(target), "target", kind)
    return domain_loss(discriminator.frozen(target), "source", kind), 0.5 * own


def beside(values: Tensor, count: int) -> Tensor:
    """The rows of `values` that stand beside those of a batch of `count`: they come again where there are fewer."""
    return torch.cat([values] * -(-count // len(values)))[:count]


def transferred(clip: Clip, style: Clip, beta: float, window: Window = "paper") -> Clip:
    """Clips in the style of other clips at low frequencies (`transfer_amplitude`).

    Both frames of a clip take the style of one frame, the current one of the clip beside it: a transform of images must
    be the same for both. Where there are fewer other clips, they come again.
    """
    reference = beside(style.frame(), len(clip.frames))
    frames = [transfer_amplitude(frame, reference, beta, window) for frame in clip.frames.unbind(1)]
    return replace(clip, frames=torch.stack(frames, 1))
