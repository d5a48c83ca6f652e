"""FDA: Fourier domain adaptation (Yang and Soatto, CVPR 2020), on both frames of a clip."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Batch, Clip
from stpl.errors import ConfigError, check_range
from stpl.losses.cross_entropy import cross_entropy
from stpl.losses.entropy import robust_entropy
from stpl.nn import weights
from stpl.nn.accel import Accel
from stpl.nn.fourier import Window
from stpl.training.base import Method, check_output
from stpl.training.ranks import pixel_weight
from stpl.training.rounds import Judgement, Rounds, doubt_of
from stpl.training.supervision import AUXILIARY_WEIGHT, LABELLED, supervision, transferred


class FDA(Method):
    """Supervision on source clips in the style of target clips, and robust entropy on the target (Eq. 6).

    Both frames of a source clip take the low frequencies' amplitudes of one target frame, the current one of the
    target clip beside it: a transform of images must be the same for both frames. One network with one β; what
    a committee of several says is learned by `FDASelfTraining`.

    Args:
        beta: β, the window's half width relative to the image, in [0, 0.15] in the paper (0.01).
        window: shape of the window.
        entropy_weight: λ_ent of the entropy (0.005).
        eta: η of the entropy's penalty (2).
    """

    source_wants = LABELLED
    trains_classifiers = True
    recordable = True

    def __init__(
        self,
        *,
        beta: float = 0.01,
        window: Window = "paper",
        entropy_weight: float = 0.005,
        eta: float = 2.0,
        **shared: Any,
    ) -> None:
        check_range("model.beta", beta, 0, 0.5)
        check_range("model.entropy_weight", entropy_weight)
        check_range("model.eta", eta)
        super().__init__(**shared)
        self.beta, self.window, self.entropy_weight, self.eta = beta, window, entropy_weight, eta

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy on transferred source clips, entropy of the fused predictions on the target."""
        return fourier_losses(self.network, batch, self.beta, self.window, self.entropy_weight, self.eta)


def fourier_losses(
    network: Accel, batch: Batch, beta: float, window: Window, entropy_weight: float, eta: float
) -> dict[str, Tensor]:
    """Cross-entropy on source clips in the target's style, and robust entropy on the target, weighted (Eq. 6)."""
    assert batch.source is not None  # wanted
    found = supervision(network, transferred(batch.source, batch.target, beta, window))
    for weight, logits in zip((1.0, AUXILIARY_WEIGHT), network.fused_scores(batch.target), strict=False):
        name = "entropy" if weight == 1.0 else "auxiliary entropy"
        found[name] = entropy_weight * weight * robust_entropy(logits, eta)
    return found


class FDASelfTraining(Rounds):
    """FDA, and cross-entropy with what a committee of networks trained with several β says of the target (Eq. 7, 8).

    The committee's prediction is the mean of its members' probabilities. Of each class the surest share of the pixels
    gets a label, and every pixel that is sure enough.

    Args:
        labels: see `Rounds`.
        committee: checkpoints of its members; `--committee_from` names experiments instead.
        share: of each class's pixels, in (0, 1] (0.66; the released code means that and keeps 0.34).
        sure: probability above which a pixel has a label in any case (0.9).
        beta: see `FDA`, and so are the others.
        window: shape of the window.
        entropy_weight: λ_ent of the entropy.
        eta: η of the entropy's penalty.
    """

    source_wants = LABELLED
    trains_classifiers = True
    recordable = True

    def __init__(
        self,
        *,
        labels: Path | None = None,
        committee: list[Path] | None = None,
        share: float = 0.66,
        sure: float = 0.9,
        beta: float = 0.01,
        window: Window = "paper",
        entropy_weight: float = 0.005,
        eta: float = 2.0,
        **shared: Any,
    ) -> None:
        check_range("model.share", share, 0, 1)
        check_range("model.sure", sure, 0, 1)
        check_range("model.beta", beta, 0, 0.5)
        check_range("model.entropy_weight", entropy_weight)
        check_range("model.eta", eta)
        if not committee and labels is None:
            mend = "give checkpoints, or experiments as --committee_from"
            raise ConfigError("there is no committee", where="model.committee", mend=mend)
        super().__init__(rounds=1, labels=labels, **shared)
        self.committee, self.share, self.sure = [Path(path) for path in committee or []], share, sure
        self.beta, self.window, self.entropy_weight, self.eta = beta, window, entropy_weight, eta
        for path in self.committee:
            if not path.is_file():
                raise ConfigError("a member of the committee is not there", where=path, mend="train it first")
        self._members: list[Accel] = []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of FDA, and cross-entropy with the committee's labels."""
        labels = batch.target.pseudo_label
        assert labels is not None  # `prepare`
        found = fourier_losses(self.network, batch, self.beta, self.window, self.entropy_weight, self.eta)
        logits = self.network(batch.target)
        return found | {"self_training": pixel_weight(labels) * cross_entropy(logits, labels)}

    def judge(self, clip: Clip) -> Judgement:
        """The mean of the members' probabilities."""
        said = [member.observe(clip).logits for member in self.labellers()]
        for logits in said:
            check_output(logits, clip)
        return Judgement((1 - torch.stack([logits.double().softmax(1) for logits in said]).mean(0)).half().double())

    def labellers(self) -> list[Accel]:
        """The committee, read when it is first needed."""
        if not self._members:
            for path in self.committee:
                member: Accel = copy.deepcopy(self.network)
                weights.load(path, member, options=self.options)
                self._members.append(member.eval())
        return self._members

    def thresholds(self, histogram: Tensor, before: Tensor | None, round_: int) -> Tensor:
        """The confidence at the rank of the share, or what is sure enough if that is less."""
        wanted = (histogram.sum(1) * self.share).floor().clamp(min=1)
        found = 1 - doubt_of((histogram.cumsum(1) >= wanted[:, None]).long().argmax(1))
        return found.clamp(max=self.sure)

    def label(self, judged: Judgement, thresholds: Tensor) -> Tensor:
        """The likeliest class where it is as likely as its threshold."""
        least, classes = judged.doubts.min(1)
        mine = thresholds.gather(1, classes.flatten(1)).view_as(least)
        return torch.where(1 - least >= mine, classes, IGNORE)
