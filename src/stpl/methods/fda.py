"""FDA: Fourier domain adaptation (Yang and Soatto, CVPR 2020), on both frames of a clip."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Batch, Clip
from stpl.errors import ConfigError
from stpl.losses.entropy import robust_entropy
from stpl.nn import weights
from stpl.nn.accel import Accel
from stpl.nn.style import Window
from stpl.training.base import Method, check_settings
from stpl.training.evaluation import check_output
from stpl.training.offline_pseudo_labels import OfflinePseudoLabels, Predictions, confidence_at, own_threshold
from stpl.training.supervision import AUXILIARY_WEIGHT, LABELLED, supervision, transferred


class FDA(Method):
    """Supervision on source clips in the style of target clips, and robust entropy on the target (Eq. 6).

    Both frames of a source clip take the low frequencies' amplitudes of one target frame, the current one of the
    target clip beside it: a transform of images must be the same for both frames. One network with one β;
    `FDASelfTraining` learns from the ensemble of several.

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
        check_settings(0, 0.5, beta=beta)
        check_settings(entropy_weight=entropy_weight, eta=eta)
        super().__init__(**shared)
        self.beta, self.window, self.entropy_weight, self.eta = beta, window, entropy_weight, eta

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy on transferred source clips, entropy of the fused predictions on the target, weighted."""
        assert batch.source is not None  # wanted
        found = supervision(self.network, transferred(batch.source, batch.target, self.beta, self.window))
        weights = {"entropy": 1.0, "auxiliary entropy": AUXILIARY_WEIGHT}
        for (name, weight), logits in zip(weights.items(), self.network.fused_scores(batch.target), strict=False):
            found[name] = self.entropy_weight * weight * robust_entropy(logits, self.eta)
        return found


class FDASelfTraining(FDA, OfflinePseudoLabels):
    """FDA, and cross-entropy with the labels of an ensemble of networks trained with several β (Eq. 7, 8).

    The ensemble's prediction is the mean of its members' probabilities. Of each class the surest share of the pixels
    gets a label, and every pixel that is sure enough.

    Args:
        labels: see `OfflinePseudoLabels`.
        ensemble: checkpoints of the ensemble's members; `--ensemble_from` names experiments instead.
        share: of each class's pixels, in (0, 1] (0.66; the released code means that and keeps 0.34).
        sure: probability above which a pixel has a label in any case (0.9).
    """

    def __init__(
        self,
        *,
        labels: Path | None = None,
        ensemble: list[Path] | None = None,
        share: float = 0.66,
        sure: float = 0.9,
        **shared: Any,
    ) -> None:
        check_settings(0, 1, share=share, sure=sure)
        if not ensemble and labels is None:
            mend = "give checkpoints, or experiments as --ensemble_from"
            raise ConfigError("there is no ensemble", where="model.ensemble", mend=mend)
        super().__init__(rounds=1, labels=labels, **shared)
        self.ensemble, self.share, self.sure = [Path(path) for path in ensemble or []], share, sure
        for path in self.ensemble:
            if not path.is_file():
                raise ConfigError("a member of the ensemble is not there", where=path, mend="train it first")
        self._members: list[Accel] = []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of FDA, and cross-entropy with the ensemble's labels."""
        return super().losses(batch) | self.self_training(self.network(batch.target), batch)

    def predictions(self, clip: Clip) -> Predictions:
        """The mean of the members' probabilities."""
        scores = [member.observe(clip).logits for member in self.labelling_networks()]
        for logits in scores:
            check_output(logits, clip)
        return Predictions((1 - torch.stack([logits.double().softmax(1) for logits in scores]).mean(0)).half().double())

    def labelling_networks(self) -> list[Accel]:
        """The ensemble, read when it is first needed."""
        if not self._members:
            for path in self.ensemble:
                member: Accel = copy.deepcopy(self.network)
                weights.load(path, member, options=self.options)
                self._members.append(member.eval())
        return self._members

    def thresholds(self, histogram: Tensor, before: Tensor | None, round_: int) -> Tensor:
        """The confidence at the rank of the share, or `sure` if that is less."""
        wanted = (histogram.sum(1) * self.share).floor().clamp(min=1)
        return confidence_at(histogram, wanted).clamp(max=self.sure)

    def label(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        """The likeliest class where it is as likely as its threshold."""
        classes, confidence, threshold = own_threshold(predictions.doubts, thresholds)
        return torch.where(confidence >= threshold, classes, IGNORE)
