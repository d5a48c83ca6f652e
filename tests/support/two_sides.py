"""Methods that no overlay of the suite has yet: one with source clips and an adversary, as users may write theirs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate, softmax

from stpl.data.clip import BACKWARD, Batch, Wants
from stpl.losses.adversarial import domain_loss
from stpl.losses.cross_entropy import cross_entropy
from stpl.nn.discriminator import Discriminator, DiscriminatorOptions
from stpl.nn.segmenter import upsample
from stpl.training.base import Method
from stpl.training.ranks import pixel_weight


class Adversarial(Method):
    """Cross-entropy on the source, and its prediction of the target is to look like that of the source."""

    source_wants = Wants(flows=(BACKWARD,), labels=(0,))
    trains_classifiers = True

    def __init__(
        self,
        *,
        discriminator: DiscriminatorOptions | None = None,
        weight: float = 0.1,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.weight = weight
        self.discriminator = Discriminator(self.network.num_classes, discriminator or DiscriminatorOptions(width=4))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Supervision, adversarial the discriminator, and what it learns from."""
        assert batch.source is not None
        size = (64, 64)
        known, unknown = (self.network(clip) for clip in (batch.source, batch.target))
        label = batch.source.labels[0]
        maps = [softmax(interpolate(x, size), 1) for x in (known, unknown)]
        supervision = cross_entropy(upsample(known, (label.shape[-2], label.shape[-1])), label)
        return {
            "supervision": pixel_weight(label) * supervision,
            "adversarial": self.weight * domain_loss(self.discriminator.frozen(maps[1]), "source"),
            "discriminator": 0.5 * domain_loss(self.discriminator.detached(maps[0]), "source")
            + 0.5 * domain_loss(self.discriminator.detached(maps[1]), "target"),
        }
