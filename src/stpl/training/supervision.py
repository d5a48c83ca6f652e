"""Losses of labels that methods share, and source clips in the style of the target."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stpl.data.clip import BACKWARD, Clip, Wants
from stpl.losses.adversarial import Kind, domain_loss
from stpl.losses.cross_entropy import cross_entropy
from stpl.nn.accel import Accel, FrameScores
from stpl.nn.discriminator import Discriminator
from stpl.nn.fourier import Window, transfer_amplitude
from stpl.nn.segmenter import grid_of, upsample
from stpl.training.ranks import pixel_weight

LABELLED = Wants(flows=(BACKWARD,), labels=(0,))
"""What such methods want of the source."""

AUXILIARY_WEIGHT = 0.1
"""Of the auxiliary classifier's losses, if there is one: that of AdaptSegNet, ADVENT, DA-VSN and TPS."""


def supervision(
    network: Accel, clip: Clip, auxiliary_weight: float = AUXILIARY_WEIGHT, scores: FrameScores | None = None
) -> dict[str, Tensor]:
    """Cross-entropy of each classifier's fused prediction with the clip's label, at its resolution, weighted.

    Args:
        network: that learns.
        clip: labelled clips.
        auxiliary_weight: of the auxiliary classifier.
        scores: `network.frame_scores` of the clips, if they were computed before.
    """
    label = clip.labels[0]
    known = pixel_weight(label)
    fused = network.fused_scores(clip) if scores is None else network.fuse_scores(scores, clip)
    weights = {"cross_entropy": 1.0, "auxiliary": auxiliary_weight}
    return {
        name: known * weight * cross_entropy(upsample(logits, grid_of(label)), label)
        for (name, weight), logits in zip(weights.items(), fused, strict=False)
    }


def pseudo_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits `[B,K,h,w]` with labels `[B,h,w]`, 255 = none; pixels of all processes weigh the same."""
    return pixel_weight(labels) * cross_entropy(logits, labels)


def adversarial_losses(
    discriminator: Discriminator, source: Tensor, target: Tensor, kind: Kind = "bce"
) -> tuple[Tensor, Tensor]:
    """The network's loss on its maps of the target, and the discriminator's on the maps of both domains.

    Args:
        discriminator: of domains.
        source: maps of source clips `[B,C,h,w]`.
        target: maps of target clips `[B,C,h,w]`.
        kind: of the adversarial loss.
    """
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
