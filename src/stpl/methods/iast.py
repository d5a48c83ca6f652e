"""IAST: instance adaptive self-training (Mei et al., ECCV 2020), on the fused prediction of clips."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stpl.data.clip import IGNORE, Batch
from stpl.errors import note
from stpl.training.base import check_choice, check_settings
from stpl.training.offline_pseudo_labels import (
    Histograms,
    OfflinePseudoLabels,
    Predictions,
    confidence_at,
    doubt_of,
    own_threshold,
)
from stpl.training.ranks import is_first, pixel_weight
from stpl.training.supervision import mean_where, smoothing_loss

CONFIDENCE_CAP = 0.999  # of thresholds, as in the released code: at 1 no pixel would be sure enough

_HALVINGS, _NEAR = 10, 0.01  # of the interval in which α is sought; how near the share must come

Form = Literal["paper", "released"]
"""Where the two differ. Of thresholds: the released code interpolates between confidences, among which it puts the last
threshold. Of the entropy: it is the mean over classes instead of the sum, and so weighs 1/K."""


class IAST(OfflinePseudoLabels):
    """Cross-entropy with labels of the surest pixels of each clip; elsewhere entropy is lowered.

    Of each class the sure pixels are labelled: its threshold is a moving average, over the clips in their order, of the
    confidence at a rank that falls with the threshold. Labelled pixels are kept from certainty.

    Args:
        proportion: α, the share of a class's pixels whose least confidence counts, at a threshold of 1 (0.2).
        growth: what α grows by each round (0.05; of VST 0).
        share: of all pixels that are to be sure; α is sought for it in each round, up to 1 (none: α as above).
        difficulty: γ of α·θ^γ: how much less of a class that is rarely sure (8).
        memory: β, the part of the clips so far in the moving average (0.9).
        initial: the threshold before the first clip (0.9).
        entropy_weight: of the entropy of pixels without a label (3).
        smoothing_weight: of the distance to equal probabilities of pixels with one (0.1).
        threshold_form: of the thresholds.
        entropy_form: of the entropy (the paper's; of VST the released one).
        rates: of the rounds, relative to the run's; the last one serves later rounds, too (1, 5/6, 2/3; of VST 1).
    """

    GROWTH = 0.05
    ENTROPY_FORM: ClassVar[Form] = "paper"
    RATES: ClassVar[tuple[float, ...]] = (1, 5 / 6, 2 / 3)

    recordable = True

    def __init__(
        self,
        *,
        proportion: float = 0.2,
        growth: float | None = None,
        share: float | None = None,
        difficulty: float = 8.0,
        memory: float = 0.9,
        initial: float = 0.9,
        entropy_weight: float = 3.0,
        smoothing_weight: float = 0.1,
        threshold_form: Form = "paper",
        entropy_form: Form | None = None,
        rates: list[float] | None = None,
        **shared: Any,
    ) -> None:
        self.rates = list(self.RATES) if rates is None else rates
        growth = self.GROWTH if growth is None else growth
        entropy_form = self.ENTROPY_FORM if entropy_form is None else entropy_form
        check_choice(Form, threshold_form=threshold_form, entropy_form=entropy_form)
        check_settings(0, 1, proportion=proportion, growth=growth, memory=memory, initial=initial, share=share or 0)
        check_settings(difficulty=difficulty, entropy_weight=entropy_weight, smoothing_weight=smoothing_weight)
        check_settings(rates=min(self.rates, default=-1))
        super().__init__(**shared)
        self.proportion, self.growth, self.share, self.difficulty = proportion, growth, share, difficulty
        self._sought: float | None = None
        self.memory, self.initial = memory, initial
        self.entropy_weight, self.smoothing_weight = entropy_weight, smoothing_weight
        self.threshold_form: Form = threshold_form
        self.entropy_form: Form = entropy_form
        self.rate_factor = self._rate_of_round

    def _rate_of_round(self, step: int) -> float:
        round_ = step * self.rounds // max(1, self.trainer.max_steps)
        return self.rates[min(round_, len(self.rates) - 1)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the round's labels; entropy where there is none, smoothing where there is one."""
        labels = batch.prepared["labels"]
        logits = self.network(batch.target)
        log_p = logits.float().log_softmax(1)
        terms = -(log_p.exp() * log_p)
        without = torch.where(labels == IGNORE, 0, IGNORE)
        entropy = mean_where(terms.sum(1) if self.entropy_form == "paper" else terms.mean(1), labels == IGNORE)
        return self.self_training(logits, batch) | {
            "entropy": pixel_weight(without) * self.entropy_weight * entropy,
            "smoothing": self.smoothing_weight * smoothing_loss(log_p, labels),
        }

    def group(self, key: str) -> str:
        """Every clip has thresholds of its own."""
        return key

    def all_thresholds(self, groups: Callable[[], Histograms], round_: int) -> dict[int, Tensor]:
        """Those of each group; where a share of sure pixels is wanted, with the α that comes closest to it."""
        if self.share is None:
            return super().all_thresholds(groups, round_)
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            self._sought = (low + high) / 2
            found = super().all_thresholds(groups, round_)
            reached = sure_share(groups(), found)
            low, high = (self._sought, high) if reached < self.share else (low, self._sought)
        self._sought = None
        if abs(reached - self.share) > _NEAR and is_first():
            what = f"no α makes the share of {self.share:g}; the nearest is {reached:.2f}"
            note(f"{what}: the first clips' thresholds hardly depend on it", where="model.share")
        return found

    def thresholds(self, histogram: Tensor, before: Tensor | None, round_: int) -> Tensor:
        """θ of each class for a group of clips, from that of the group before."""
        last = torch.full((len(histogram),), self.initial, dtype=torch.float64) if before is None else before
        count = histogram.sum(1)
        alpha = self._sought if self._sought is not None else min(1.0, self.proportion + round_ * self.growth)
        share = alpha * last**self.difficulty
        if self.threshold_form == "paper":
            found = confidence_at(histogram, (share * count).floor() + 1)
        else:
            place = share * count
            high, low = (_with(histogram, last, at.long()) for at in (place.floor(), place.ceil()))
            found = high + (place - place.floor()) * (low - high)
        moved = self.memory * last + (1 - self.memory) * found
        cap = CONFIDENCE_CAP if self._sought is None else 1.0  # a small share may need more
        return torch.where(count > 0, moved, last).clamp(max=cap)

    def label(self, predictions: Predictions, thresholds: Tensor) -> Tensor:
        """The sure pixels."""
        return sure(predictions.doubts, thresholds)


def sure_share(groups: Histograms, thresholds: dict[int, Tensor]) -> float:
    """The share of all pixels, counted in histograms by group, that are surer than their class's threshold."""
    counts = torch.zeros(2, dtype=torch.float64)
    for group, histogram in groups:
        surer = 1 - doubt_of(torch.arange(histogram.shape[1])) > thresholds[group][:, None]
        counts += torch.stack([(histogram * surer).sum(), histogram.sum()])
    return float(counts[0] / counts[1])


def _with(histogram: Tensor, more: Tensor, place: Tensor) -> Tensor:
    """The confidence at a place `[K]`, from 0 at the surest, among each class's pixels and one `more` `[K]`."""
    surer = 1 - doubt_of(torch.arange(histogram.shape[1])) > more[:, None]
    above = (histogram * surer).sum(1)
    found = confidence_at(histogram, torch.where(place < above, place + 1, place))
    return torch.where(place == above, more, found)


def sure(doubts: Tensor, thresholds: Tensor) -> Tensor:
    """The likeliest class int64 `[B,h,w]` where it is likelier than its threshold `[B,K]`, else 255."""
    classes, confidence, threshold = own_threshold(doubts, thresholds)
    return torch.where(confidence > threshold, classes, IGNORE)
