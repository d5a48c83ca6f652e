"""Which of several networks to return, without a label: the guard of `stpl adapt`.

Two numbers decide, both of frames that nobody labelled. The score is the mutual information between pixel and predicted
class: it is low for a network that a new camera has made blind, and falls when training goes wrong. It need not rise
while training goes well, and a method that minimises something of the kind drives it up for ever; so it does not choose
among trained networks. The choice is the last one that has lost next to nothing of the score and still says of most
pixels what renewed statistics alone say of them. How often that is right is measured by `stpl adapt guard`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stpl.data.clip import Clip
from stpl.metrics.selection import InformationMaximization
from stpl.nn.accel import Accel
from stpl.nn.segmenter import upsample

TRUSTED = 80.0
"""Percent of the pixels on which a trained network must agree with the reference."""

KEPT = 98.5
"""Percent of the reference's score that a trained network must have; and it may not fall below the start's."""


@dataclass(frozen=True)
class Candidate:
    """A network that could be returned, and what the guard sees of it.

    Attributes:
        title: what it is, in words.
        checkpoint: the network.
        step: training step it is of; 0 where nothing was trained.
        score: mutual information between pixel and predicted class, in nats; higher is better.
        agreement: percent of the pixels where it predicts what the reference does.
    """

    title: str
    checkpoint: Path
    step: int = 0
    score: float = nan
    agreement: float = nan


@dataclass(frozen=True)
class Verdict:
    """What the guard decided.

    Attributes:
        chosen: what is returned.
        scored: all that it chose from; the start comes first, the reference second if there is one.
        reason: why, in a sentence.
        doubted: trained networks that cannot be trusted.
    """

    chosen: Candidate
    scored: tuple[Candidate, ...]
    reason: str
    doubted: tuple[Candidate, ...] = ()

    @property
    def reference(self) -> Candidate:
        """What the agreement is with: the start with renewed statistics, or the start where a network has none."""
        return [one for one in self.scored if not one.step][-1]

    @property
    def adapted(self) -> bool:
        """Whether it is another network than the start."""
        return self.chosen is not self.scored[0]


class Seen(NamedTuple):
    """What a network makes of clips."""

    score: float  # see `Candidate`
    labels: Tensor  # classes uint8 `[N,H,W]` at the frames' size


@torch.no_grad()
def see(network: Accel, clips: Sequence[Clip]) -> Seen:
    """What a network, in evaluation mode, makes of batches of clips with flow."""
    score = InformationMaximization(network.num_classes)
    found = []
    device = next(network.parameters()).device
    for clip in clips:
        logits = network(clip.to(device))
        score.update(logits.cpu())
        found.append(upsample(logits, clip.size).argmax(1).byte().cpu())
    return Seen(float(score.compute()), torch.cat(found))


def agreement(one: Tensor, other: Tensor) -> float:
    """Percent of the pixels on which two label maps of one shape agree."""
    return 100 * float((one == other).double().mean())


def judged(candidates: Sequence[Candidate], seen: Sequence[Seen]) -> list[Candidate]:
    """Candidates with their score, and how far each agrees with the reference (`Verdict.reference`)."""
    pairs = list(zip(candidates, seen, strict=True))
    reference = [labels for candidate, (_, labels) in pairs if not candidate.step][-1]
    return [replace(one, score=score, agreement=agreement(labels, reference)) for one, (score, labels) in pairs]


def choose(scored: Sequence[Candidate]) -> Verdict:
    """The last of the trained networks that can be trusted; if there is none, the better one of start and reference.

    Args:
        scored: the start first, then the same with renewed statistics if it has any, both of step 0; behind them those
            that were trained, in the order of their steps.
    """
    untrained, trained = [[one for one in scored if bool(one.step) == kind] for kind in (False, True)]
    start, base = untrained[0], untrained[-1]
    least = max(start.score, KEPT / 100 * base.score)
    trusted = [one for one in trained if one.agreement >= TRUSTED and one.score >= least]
    doubted = tuple(one for one in trained if one not in trusted)
    best = trusted[-1] if trusted else max(untrained, key=lambda one: one.score)
    gain = f"score {start.score:.3f} before, {best.score:.3f} after"
    if best is start:
        reason = "Nothing is better than the start by any score without labels: it is returned as it was."
    elif best is base:
        reason = f"Renewed statistics alone are returned ({gain}): training made nothing better of them."
    else:
        title, like = best.title, "the start" if base is start else "renewed statistics"
        reason = f"The adapted network ({title}) is returned: {gain}; it agrees with {like}"
        reason += f" on {best.agreement:.0f} % of the pixels."
    if doubted:
        reason += f" {len(doubted)} trained network(s) could not be trusted."
    return Verdict(best, tuple(scored), reason, doubted)
