"""DA-VSN: domain adaptive video segmentation via temporal consistency regularisation (Guan et al., ICCV 2021)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, softmax

from stpl.data.clip import Batch, Clip
from stpl.losses.entropy import certain_consistency, probabilities
from stpl.nn.accel import FrameScores, clip_flow
from stpl.nn.discriminator import Discriminator, DiscriminatorOptions
from stpl.nn.segmenter import grid_of, upsample
from stpl.nn.warp import inside, warp
from stpl.training.base import Method, check_settings
from stpl.training.supervision import LABELLED, adversarial_losses, supervision

_AUXILIARY = 0.2  # of the adversarial terms of the auxiliary classifier: 0.0002/0.001 in the released code


class DAVSN(Method):
    """Supervision on the source, discriminators of sequences and of frames, consistency over time on the target.

    Two discriminators score a clip's logits: those of both frames together, and those of the current frame twice. They
    are kept different by a penalty on the similarity of their weights. Within the target, a frame's prediction is
    drawn to the propagated one of the frame before, where that one is surer (`certain_consistency`).

    Args:
        source_free: leave out every loss that needs source clips: the row DA-VSN* of Lo et al.
        weight: λu of all losses but the supervision (0.001).
        image_weight: λsa of the discriminator of single frames, relative to that of sequences (1).
        divergence_weight: λwd of the similarity of the two discriminators' weights (1).
        discriminator: of both.
    """

    trains_classifiers = True

    def __init__(
        self,
        *,
        source_free: bool = False,
        weight: float = 0.001,
        image_weight: float = 1.0,
        divergence_weight: float = 1.0,
        discriminator: DiscriminatorOptions | None = None,
        **shared: Any,
    ) -> None:
        check_settings(weight=weight, image_weight=image_weight, divergence_weight=divergence_weight)
        super().__init__(**shared)
        self.weight, self.image_weight, self.divergence_weight = weight, image_weight, divergence_weight
        self.discriminators = nn.ModuleDict()
        if source_free:
            self.recordable = True
            return
        self.source_wants = LABELLED
        channels = 2 * self.network.num_classes
        for of in self.network.segmenter.classifiers:
            for kind in ("sequence", "image"):
                self.discriminators[f"{kind}_{of}"] = Discriminator(channels, discriminator)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of all terms, each with its weight in it."""
        target = self.network.frame_scores(batch.target)
        found = self._consistency(target, batch.target)
        if self.source_wants is None:
            return found
        assert batch.source is not None  # wanted
        source = self.network.frame_scores(batch.source)
        found |= supervision(self.network, batch.source, fused=self.network.fuse_scores(source, batch.source))
        shares = {"main": 1.0, "auxiliary": _AUXILIARY}
        for (of, share), ours, theirs in zip(shares.items(), target, source, strict=False):
            maps = _maps(ours, batch.target), _maps(theirs, batch.source)
            found |= self._adversarial(of, self.weight * share, *maps)
        return found

    def _adversarial(
        self, of: str, weight: float, target: dict[str, Tensor], source: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The adversarial losses of a classifier's maps, and the similarity of its two discriminators."""
        found = {}
        for kind, part in (("sequence", weight), ("image", weight * self.image_weight)):
            discriminator = self.discriminators[f"{kind}_{of}"]
            assert isinstance(discriminator, Discriminator)
            loss, own = adversarial_losses(discriminator, source[kind], target[kind])
            found[f"adversarial {kind} {of}"] = part * loss
            found[f"discriminator {kind} {of}"] = own
        similarity = _similarity(self.discriminators[f"sequence_{of}"], self.discriminators[f"image_{of}"])
        return found | {f"divergence {of}": self.weight * self.divergence_weight * similarity}

    def _consistency(self, scores: FrameScores, clip: Clip) -> dict[str, Tensor]:
        flow = clip_flow(clip, grid_of(scores[0][0]))
        there = inside(flow)
        return {
            name: self.weight * certain_consistency(now, warp(probabilities(before), flow), there)
            for name, (now, before) in zip(("consistency", "auxiliary consistency"), scores, strict=False)
        }


def _maps(pair: tuple[Tensor, Tensor], clip: Clip) -> dict[str, Tensor]:
    """The discriminators' input, at the frames' size: a softmax over the channels `[B,2K,H,W]` of both frames."""
    now, before = (upsample(logits, clip.size) for logits in pair)
    return {"sequence": softmax(torch.cat([now, before], 1), 1), "image": softmax(torch.cat([now, now], 1), 1)}


def _similarity(one: nn.Module, other: nn.Module) -> Tensor:
    """Mean over weight tensors of 1 + the cosine of the angle between them: 0 where they are opposed, 2 where equal."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return torch.stack([cosine_similarity(a.flatten(), b.flatten(), dim=0) + 1 for a, b in pairs]).mean()
