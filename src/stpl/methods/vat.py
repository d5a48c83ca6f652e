"""VAT, phase 1 of VAT-VST: video adversarial training (Shin et al., 2021)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from stpl.data.clip import Batch, Clip, Wants
from stpl.errors import check_range
from stpl.losses.adversarial import Kind, domain_loss
from stpl.losses.segmentation import cross_entropy
from stpl.losses.tube import tube_matching
from stpl.methods.base import Method
from stpl.methods.optimization import OptimizerOptions
from stpl.methods.ranks import pixel_weight
from stpl.methods.with_source import LABELLED, supervision
from stpl.nn.accel import FrameScores
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.discriminator import Discriminator, DiscriminatorOptions
from stpl.nn.network import NetworkOptions
from stpl.nn.segmenter import upsample


class VideoAdversarialTraining(Method):
    """Supervision and tube matching on the source, and an adversary that sees the probabilities of both frames.

    Args:
        network: see `Method`.
        optimizer: see `Method`.
        checkpoint: see `Method`; a converted backbone will do.
        batchnorm: see `Method`.
        tube_weight: of the tube matching loss (1).
        adversarial_weight: λ_V (0.001, that of the image discriminators it replaces; the paper states none).
        kind: of the adversarial loss.
        previous_gradient: whether the previous frames learn, too, supervised by their own labels. ACCEL's released code
            lets no gradient through them, and with both the step takes twice the memory.
        discriminator: of sequences.
    """

    trains_classifiers = True
    recordable = True

    def __init__(
        self,
        network: NetworkOptions,
        optimizer: OptimizerOptions,
        checkpoint: Path | None = None,
        batchnorm: BatchNormOptions | None = None,
        tube_weight: float = 1.0,
        adversarial_weight: float = 0.001,
        kind: Kind = "bce",
        previous_gradient: bool = False,
        discriminator: DiscriminatorOptions | None = None,
    ) -> None:
        check_range("model.tube_weight", tube_weight)
        check_range("model.adversarial_weight", adversarial_weight)
        super().__init__(network, optimizer, checkpoint, batchnorm)
        self.source_wants: Wants | None = replace(LABELLED, previous_label=True)
        self.tube_weight, self.adversarial_weight, self.kind = tube_weight, adversarial_weight, kind
        self.previous_gradient = previous_gradient
        # A 3-D convolution of temporal stride 2 over two frames is a 2-D one over the channels of both.
        self.judge = Discriminator(2 * self.network.num_classes, discriminator)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Supervision, tubes of the source, and both sides of the adversary."""
        source, target = batch.source, batch.target
        assert source is not None  # wanted
        theirs = self.network.frame_scores(source, self.previous_gradient)
        ours = self.network.frame_scores(target, self.previous_gradient)
        found = supervision(self.network, source, scores=theirs)
        tubes = {"source": self._tube(theirs, source), "target": self._tube(ours, target)}
        assert source.label is not None
        assert source.previous_label is not None  # wanted
        labels = torch.stack([source.previous_label, source.label], 1)
        found["tube"] = self.tube_weight * tube_matching(tubes["source"], labels)
        if self.previous_gradient:
            size = (source.previous_label.shape[-2], source.previous_label.shape[-1])
            loss = cross_entropy(upsample(theirs[0][1], size), source.previous_label)
            found["previous cross_entropy"] = pixel_weight(source.previous_label) * loss
        maps = {domain: tube.flatten(1, 2) for domain, tube in tubes.items()}
        learnt = [domain_loss(self.judge.learn(maps[name]), name, self.kind) for name in ("source", "target")]
        found["fooling"] = self.adversarial_weight * domain_loss(self.judge.judge(maps["target"]), "source", self.kind)
        found["telling"] = 0.5 * (learnt[0] + learnt[1])
        return found

    def _tube(self, scores: FrameScores, clip: Clip) -> Tensor:
        """Probabilities of both frames at their size, oldest first, `[B,2,K,H,W]`."""
        fused = self.network.fuse_scores(scores[:1], clip)[0]
        size = (clip.frames.shape[-2], clip.frames.shape[-1])
        return torch.stack([upsample(logits, size).softmax(1) for logits in (scores[0][1], fused)], 1)
