"""AdaptSegNet (Tsai et al., CVPR 2018); ADVENT and MinEnt (Vu et al., CVPR 2019), on the fused prediction of clips."""

from typing import Any

from torch import Tensor, nn

from stpl.data.clip import Batch, Clip
from stpl.losses.adversarial import Kind
from stpl.losses.entropy import entropy_map, probabilities, weighted_entropy
from stpl.nn.discriminator import Discriminator, DiscriminatorOptions
from stpl.nn.segmenter import upsample
from stpl.training.base import Method, check_settings
from stpl.training.supervision import LABELLED, adversarial_losses, supervision


class AdaptSegNet(Method):
    """Supervision on the source, and for each classifier a discriminator of the probabilities of both domains.

    Args:
        adversarial_weight: λ_adv of the predicting classifier (0.001; the released LSGAN of one level has 0.01).
        auxiliary_weight: of the auxiliary classifier (0.0002).
        kind: of adversarial loss.
        discriminator: of each classifier.
    """

    source_wants = LABELLED
    trains_classifiers = True
    recordable = True

    def __init__(
        self,
        *,
        adversarial_weight: float = 0.001,
        auxiliary_weight: float = 0.0002,
        kind: Kind = "bce",
        discriminator: DiscriminatorOptions | None = None,
        **shared: Any,
    ) -> None:
        check_settings(adversarial_weight=adversarial_weight, auxiliary_weight=auxiliary_weight)
        super().__init__(**shared)
        self.adversarial_weights = {"main": adversarial_weight, "auxiliary": auxiliary_weight}
        self.kind: Kind = kind
        self.discriminators = nn.ModuleDict()
        for of in self.network.segmenter.classifiers:
            self.discriminators[of] = Discriminator(self.network.num_classes, discriminator)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy on the source, and the losses of both adversaries."""
        source, target = batch.source, batch.target
        assert source is not None  # wanted
        theirs, ours = self.network.fused_scores(source), self.network.fused_scores(target)
        found = supervision(self.network, source, fused=theirs)
        for of, there, here in zip(self.discriminators, theirs, ours, strict=True):
            found |= self.adversarial(of, self.maps(there, source), self.maps(here, target))
        return found

    def maps(self, logits: Tensor, clip: Clip) -> Tensor:
        """What a discriminator sees of a clip's logits, `[B,K,H,W]` at the frames' size."""
        return probabilities(upsample(logits, clip.size))

    def adversarial(self, of: str, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The weighted loss of a classifier's maps of the target, and its discriminator's."""
        loss, own = adversarial_losses(self.judge(of), source, target, self.kind)
        return {f"adversarial {of}": self.adversarial_weights[of] * loss, f"discriminator {of}": own}

    def judge(self, of: str) -> Discriminator:
        """The discriminator of a classifier."""
        found = self.discriminators[of]
        assert isinstance(found, Discriminator)
        return found


class AdvEnt(AdaptSegNet):
    """AdaptSegNet with discriminators of weighted self-information."""

    def maps(self, logits: Tensor, clip: Clip) -> Tensor:
        """-p·log p / log K of every class."""
        return weighted_entropy(upsample(logits, clip.size))


class MinEnt(Method):
    """Supervision on the source, and the mean entropy of the predictions of the target.

    Args:
        source_free: the entropy alone.
        entropy_weight: λ_ent of the predicting classifier (0.001).
        auxiliary_weight: of the auxiliary classifier (0.0002).
    """

    trains_classifiers = True
    recordable = True

    def __init__(
        self,
        *,
        source_free: bool = False,
        entropy_weight: float = 0.001,
        auxiliary_weight: float = 0.0002,
        **shared: Any,
    ) -> None:
        check_settings(entropy_weight=entropy_weight, auxiliary_weight=auxiliary_weight)
        super().__init__(**shared)
        if not source_free:
            self.source_wants = LABELLED
        self.entropy_weights = {"entropy": entropy_weight, "auxiliary entropy": auxiliary_weight}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy on the source unless it is left out, and each classifier's entropy at the frames' size."""
        found = {} if batch.source is None else supervision(self.network, batch.source)
        scores = self.network.fused_scores(batch.target)
        for (name, weight), logits in zip(self.entropy_weights.items(), scores, strict=False):
            found[name] = weight * entropy_map(upsample(logits, batch.target.size)).mean()
        return found
