"""VAT-VST: unsupervised domain adaptation for video semantic segmentation (Shin et al., 2021): phases 1 and 2."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stpl.data.clip import BACKWARD, IGNORE, Batch, Clip, Wants
from stpl.losses.adversarial import Kind
from stpl.losses.tube import tube_matching
from stpl.methods.iast import IAST, Form, sure
from stpl.metrics.temporal import photometric_occlusion, stretches
from stpl.nn.accel import FrameScores
from stpl.nn.discriminator import Discriminator, DiscriminatorOptions
from stpl.nn.segmenter import grid_of, upsample
from stpl.nn.warp import inside, resize_flow, warp
from stpl.training.base import Method, check_choice, check_settings
from stpl.training.evaluation import check_output, nearest
from stpl.training.offline_pseudo_labels import Predictions
from stpl.training.supervision import LABELLED, adversarial_losses, pseudo_label_loss, supervision

Dice = Literal["tube", "frame", "none"]
"""Which pixels a Dice compares: those of both frames of a clip (Eq. 6), of each by itself, or none (Table 3)."""

Adversary = Literal["sequence", "image"]
"""What a discriminator judges: both frames of a clip together (Eq. 8), or each by itself, as image methods do."""

_OF_BOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "sequence": lambda tubes: tubes.flatten(1, 2),
    "image": lambda tubes: tubes.flatten(0, 1),
}
"""What discriminators see of probabilities `[B,2,K,H,W]`: `[B,2K,H,W]` or `[2B,K,H,W]`."""

Scope = Literal["clip", "image", "split"]
"""Which pixels share thresholds: those of a video (Eq. 11), of a frame (as in IAST), or of the whole split."""

Refinement = Literal["cut-out", "fill-in", "none"]
"""What the warped labels of the frame before do. `cut-out`: a pixel keeps its label where they are the same (Eq. 12).
`fill-in`: a visible pixel without a label takes theirs (Eq. 14, which the paper found worse)."""


class VAT(Method):
    """Phase 1: supervision and tube matching on the source, and a discriminator of the probabilities of both frames.

    Args:
        dice: which pixels the tube matching loss compares at once.
        adversarial_weight: λ_V (0.001, that of the image discriminators it replaces; the paper states none).
        adversary: what the discriminator judges.
        kind: of the adversarial loss.
        previous_gradient: whether the previous frames learn, too, supervised by their own labels. ACCEL's released code
            lets no gradient through them, and with both the step takes twice the memory.
        discriminator: its options.
    """

    trains_classifiers = True
    recordable = True

    def __init__(
        self,
        *,
        dice: Dice = "tube",
        adversarial_weight: float = 0.001,
        adversary: Adversary = "sequence",
        kind: Kind = "bce",
        previous_gradient: bool = False,
        discriminator: DiscriminatorOptions | None = None,
        **shared: Any,
    ) -> None:
        check_settings(adversarial_weight=adversarial_weight)
        check_choice(Dice, dice=dice)
        check_choice(Adversary, adversary=adversary)
        super().__init__(**shared)
        self.source_wants: Wants | None = replace(LABELLED, labels=(-1, 0))
        self.adversarial_weight, self.kind = adversarial_weight, kind
        self.previous_gradient = previous_gradient
        self._frames, self._dice = {"tube": (2, 1.0), "frame": (1, 1.0), "none": (1, 0.0)}[dice]  # of a tube; weight
        self._seen = _OF_BOTH[adversary]
        # A 3-D convolution of temporal stride 2 over two frames is a 2-D one over the channels of both.
        channels = (2 if adversary == "sequence" else 1) * self.network.num_classes
        self.discriminator = Discriminator(channels, discriminator)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Supervision, tubes of the source, and the losses of both adversaries."""
        source, target = batch.source, batch.target
        assert source is not None  # wanted
        theirs = self.network.frame_scores(source, self.previous_gradient)
        ours = self.network.frame_scores(target, self.previous_gradient)
        fused = self.network.fuse_scores(theirs, source)
        found = supervision(self.network, source, fused=fused)
        here = self.network.fuse_scores(ours[:1], target)
        tubes = {"source": _tube(theirs, fused, source), "target": _tube(ours, here, target)}
        labels = torch.stack([source.labels[-1], source.labels[0]], 1)
        spans = [x.reshape(-1, self._frames, *x.shape[2:]) for x in (tubes["source"], labels)]
        found["tube"] = self._dice * tube_matching(*spans)
        if self.previous_gradient:
            logits = upsample(theirs[0][1], grid_of(labels))
            found["previous cross_entropy"] = pseudo_label_loss(logits, source.labels[-1])
        maps = {domain: self._seen(tube) for domain, tube in tubes.items()}
        loss, own = adversarial_losses(self.discriminator, maps["source"], maps["target"], self.kind)
        return found | {"adversarial": self.adversarial_weight * loss, "discriminator": own}


def _tube(scores: FrameScores, fused: Sequence[Tensor], clip: Clip) -> Tensor:
    """Probabilities of both frames at their size, oldest first, `[B,2,K,H,W]`."""
    return torch.stack([upsample(logits, clip.size).softmax(1) for logits in (scores[0][1], fused[0])], 1)


class VST(IAST):
    """Phase 2: IAST with labels that several frames agree on and thresholds that follow each video.

    A clip's prediction is the mean with those of the frames before and after it, brought along the flow where they show
    the same. The moving average of the thresholds runs over the videos (Eq. 11). Labels that the frame before does not
    share are cut out.

    Args:
        scope: which pixels share thresholds; with `split`, `memory: 0` and `difficulty: 0` they are CBST's.
        aggregate: take the mean with the neighbours' predictions (Eq. 10).
        refinement: what the labels of the frame before do.
    """

    GROWTH = 0.0  # the paper names one α
    ENTROPY_FORM: ClassVar[Form] = "released"
    RATES: ClassVar[tuple[float, ...]] = (1.0,)

    labelling_wants = Wants(frames=(-1, 0, 1), flows=(BACKWARD, (0, 1)))

    def __init__(
        self,
        *,
        scope: Scope = "clip",
        aggregate: bool = True,
        refinement: Refinement = "cut-out",
        **shared: Any,
    ) -> None:
        check_choice(Refinement, refinement=refinement)
        check_choice(Scope, scope=scope)
        super().__init__(**shared)
        self.scope, self.aggregate, self.refinement = scope, aggregate, refinement
        self._groups: dict[str, str] = {}

    def predictions(self, clip: Clip) -> Predictions:
        """The fused prediction, aggregated with those of the neighbours by themselves."""
        observed = self.evaluated.observe(clip)
        check_output(observed.logits, clip)
        size = grid_of(observed.logits)
        after, after_visible, _ = _brought(self.evaluated.segment(clip.frame(1)).logits, clip, 1, size)
        previous, visible, within = _brought(observed.previous, clip, -1, size)
        mean = observed.logits.double().softmax(1)
        if self.aggregate:
            mean = aggregated(mean, [previous, after], [visible, after_visible])
        known = torch.where(within[:, None], previous, 0.0)  # beyond the image nothing is sure
        return Predictions((1 - mean).half().double(), (1 - known).half().double(), visible)

    def on_fit_start(self) -> None:
        """Find which clips share thresholds."""
        super().on_fit_start()
        reader = self._data.reader("train", "target")
        self._groups = groups([reader.key(index) for index in range(len(reader))], self.scope)

    def group(self, key: str) -> str:
        """The frames that share thresholds with a clip's."""
        return self._groups[key]

    def label(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        """The sure pixels, refined by the labels of the frame before."""
        labels = sure(predictions.doubts, thresholds)
        if self.refinement == "none":
            return labels
        assert predictions.previous is not None
        assert predictions.visible is not None
        earlier = sure(predictions.previous, thresholds)
        if self.refinement == "cut-out":
            return torch.where(labels == earlier, labels, IGNORE)
        return torch.where((labels == IGNORE) & predictions.visible, earlier, labels)


def groups(keys: Sequence[str], scope: Scope) -> dict[str, str]:
    """Names of the groups of clips that share thresholds. A video's frames lie at most 5 apart (`stretches`)."""
    found = {"clip": map(str, stretches(keys)), "image": keys, "split": [""] * len(keys)}[scope]
    return dict(zip(keys, found, strict=True))


def _brought(logits: Tensor, clip: Clip, offset: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """A neighbour on the current frame's grid: probabilities, where it shows the same, where it shows anything."""
    flow = clip.flows[0, offset]
    warped = warp(clip.frame(offset).float(), flow)
    visible = ~photometric_occlusion(clip.frame(), warped) & inside(flow)
    probability = warp(logits.double().softmax(1), resize_flow(flow, size).double())
    return probability, nearest(visible, size), nearest(inside(flow), size)


def aggregated(probability: Tensor, neighbours: list[Tensor], visible: list[Tensor]) -> Tensor:
    """(P + Σ_j I_j·P_j) / (1 + Σ_j I_j), Eq. 10: of probabilities `[B,K,h,w]`, neighbours' where visible `[B,h,w]`."""
    shown = [mask[:, None].to(probability.dtype) for mask in visible]
    total = probability + torch.stack([mask * other for mask, other in zip(shown, neighbours, strict=True)]).sum(0)
    return total / (1 + torch.stack(shown).sum(0))
