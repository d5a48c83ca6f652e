"""Which of several networks to return, without a label: the guard of `stpl adapt`. Rule and measurement: docs/guard.md.

All numbers are of frames that nobody labelled. Those that refuse a network depend on its predicted classes alone, which
no temperature changes: a network may be as sure of itself as it likes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stpl.data.clip import BACKWARD, Clip
from stpl.errors import unknown
from stpl.metrics.segmentation import confusion_matrix, intersection_over_union
from stpl.metrics.selection import InformationMaximization
from stpl.metrics.temporal import propagate
from stpl.nn.accel import Accel
from stpl.nn.batchnorm import batchnorm_layers, renew, statistics_of
from stpl.nn.segmenter import upsample

PRESENT = 0.1
"""Percent of the pixels that a class must cover to count."""

CHANGED, LOST, GROWS = 5.0, 2, 1.0
"""A class is lost where its share is below that under both kinds of statistics by a factor of `CHANGED`; `LOST` such
classes refuse a network. It has grown where its share exceeds both by that factor, and `GROWS` percent by it."""

NEAR = 80.0
"""Percent of the agreement between the two kinds of statistics that a network must have with one of them."""

WAVERS = 3.0
"""Percent of the pixels by which it may be less consistent than they are."""

KNOWS = 0.3
"""Score in nats below which a network with any statistics says nothing of a video."""

KINDS = ("original", "augmented")
"""Kinds of renewed statistics, in the order of the candidates: of original frames; of these and augmented ones."""


@dataclass(frozen=True)
class Candidate:
    """A network that could be returned, and what the guard sees of it.

    Attributes:
        title: what it is, in words.
        checkpoint: the network.
        step: training step it is of; 0 where nothing was trained.
        score: mutual information between pixel and predicted class, in nats.
        agreement: mean IoU in percent of its classes with those of the kind of statistics that is nearer to it.
        consistency: percent of pixels whose class is that of the same point in the frame before, along the flow.
        shares: of each class in the predicted pixels, in percent.
        refusals: why it cannot be trusted, each in words.
    """

    title: str
    checkpoint: Path
    step: int = 0
    score: float = nan
    agreement: float = nan
    consistency: float = nan
    shares: tuple[float, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What `--take` calls it: start, original, augmented, step40."""
        return self.title.removesuffix(" statistics").replace(" ", "")


class Sight(NamedTuple):
    """What a network makes of clips."""

    labels: Tensor  # classes uint8 `[N,H,W]` of the current frames, at their size
    score: float  # see `Candidate`
    consistency: float  # see `Candidate`


class Looked(NamedTuple):
    """What the guard saw."""

    places: Sequence[int]  # of the clips among those of the footage
    clips: Sequence[Clip]  # in batches
    sights: Sequence[Sight]  # of each candidate


@torch.no_grad()
def look(network: Accel, clips: Sequence[Clip]) -> Sight:
    """What a network, in evaluation mode, makes of batches of clips with flow: one pass over each frame."""
    score, found, same, known = InformationMaximization(network.num_classes), [], 0, 0
    device = next(network.parameters()).device
    for clip in clips:
        observed = network.observe(clip.to(device))
        score.update(observed.logits.cpu())
        labels, before = (upsample(one, clip.size).argmax(1).cpu() for one in (observed.logits, observed.previous))
        brought = propagate(before, clip.flows[BACKWARD])
        same, known = same + int((brought == labels).sum()), known + int((brought < network.num_classes).sum())
        found.append(labels.byte())
    return Sight(torch.cat(found), float(score.compute()), 100 * same / max(1, known))


@torch.no_grad()
def renewed(network: Accel, clips: Sequence[Clip]) -> Iterator[str]:
    """Renew the statistics of a network in place, to the one and then the other of `KINDS`; yields each once it holds.

    The clips have augmented views.
    """
    buffers, device = statistics_of(batchnorm_layers(network)), next(network.parameters()).device

    def renew_from(views: Sequence[Tensor | None]) -> None:
        frames = [view[:, place].to(device) for view in views if view is not None for place in (-2, -1)]
        renew(network, [partial(network.encode, frame) for frame in frames])

    renew_from([clip.frames for clip in clips])
    original = [buffer.clone() for buffer in buffers]
    yield KINDS[0]
    renew_from([clip.augmented for clip in clips])
    for buffer, other in zip(buffers, original, strict=True):
        buffer.lerp_(other, 0.5)  # as many passes of either view
    yield KINDS[1]


@dataclass(frozen=True)
class Verdict:
    """What the guard decided.

    Attributes:
        chosen: what is returned.
        scored: all that it chose from: the start, the start with renewed statistics of both kinds if it has any, and
            those that were trained, in the order of their steps.
        reason: why, in a sentence.
        preferred: what the guard would return by itself; another than `chosen` only where `--take` says so.
        knows: whether the start, with some statistics, says anything of the video at all.
    """

    chosen: Candidate
    scored: tuple[Candidate, ...]
    reason: str
    preferred: Candidate
    knows: bool = True

    @property
    def adapted(self) -> bool:
        """Whether it is another network than the start."""
        return self.chosen is not self.scored[0]

    @property
    def other(self) -> Candidate | None:
        """The best that is not returned: the next in the guard's own order."""
        others = [one for one in ranked(self.scored) if one is not self.chosen]
        return others[0] if others else None


def agreement(one: Tensor, other: Tensor, num_classes: int) -> float:
    """Mean IoU in percent of two label maps of one shape, over the classes that cover `PRESENT` of either."""
    counts = confusion_matrix(one.long(), other.long(), num_classes)
    present = torch.maximum(counts.sum(0), counts.sum(1)) >= PRESENT / 100 * counts.sum()
    return float(intersection_over_union(counts)[present].mean())


def _shares(labels: Tensor, num_classes: int) -> tuple[float, ...]:
    """Percent of the pixels of each class."""
    return tuple((torch.bincount(labels.flatten(), minlength=num_classes) * (100 / labels.numel())).tolist())


def _nearest(sight: Sight, bases: Sequence[Sight], num_classes: int) -> float:
    """The agreement with the nearest of the bases beside itself."""
    others = [one for one in bases if one is not sight] or bases
    return max(agreement(sight.labels, one.labels, num_classes) for one in others)


def judged(candidates: Sequence[Candidate], sights: Sequence[Sight], classes: Sequence[str]) -> list[Candidate]:
    """Candidates with what the guard sees of them, and why it refuses them."""
    count = len(classes)
    bases = [sight for candidate, sight in zip(candidates, sights, strict=True) if not candidate.step]
    bases = bases[1:] or bases  # the start alone, where a network has no statistics to renew
    found = [
        replace(
            candidate,
            score=sight.score,
            agreement=_nearest(sight, bases, count),
            consistency=sight.consistency,
            shares=_shares(sight.labels, count),
        )
        for candidate, sight in zip(candidates, sights, strict=True)
    ]
    between = agreement(bases[0].labels, bases[-1].labels, count)
    references = [one for one in found if not one.step][1:] or found[:1]
    return [replace(one, refusals=tuple(_refusals(one, references, between, classes))) for one in found]


def _refusals(one: Candidate, references: Sequence[Candidate], between: float, classes: Sequence[str]) -> Iterator[str]:
    """Why a candidate cannot be trusted; nothing is said of the references themselves."""
    if one in references:
        return
    shares = [[reference.shares[k] for reference in references] for k in range(len(classes))]
    lost = [k for k, known in enumerate(shares) if min(known) >= PRESENT and one.shares[k] < min(known) / CHANGED]
    grown = [k for k, known in enumerate(shares) if one.shares[k] > CHANGED * max(*known, GROWS)]
    if len(lost) >= LOST:
        yield f"loses {', '.join(classes[k] for k in lost)}"
    if grown:
        yield f"paints {', '.join(classes[k] for k in grown)}"
    if one.agreement < NEAR / 100 * between:
        yield f"agrees with neither kind of statistics ({one.agreement:.0f} %)"
    steady = min(reference.consistency for reference in references)
    if one.consistency < steady - WAVERS:
        yield f"wavers from frame to frame ({one.consistency:.1f} %)"


def ranked(scored: Sequence[Candidate]) -> list[Candidate]:
    """Candidates in the guard's order: trained ones from the last to the first, the start, statistics, refused ones."""
    trusted = [one for one in scored if not one.refusals]
    trained = [one for one in reversed(trusted) if one.step]
    start = [one for one in trusted if one is scored[0]]
    statistics = [one for one in reversed(trusted) if not one.step and one is not scored[0]]
    refused = sorted((one for one in scored if one.refusals), key=lambda one: -one.agreement)
    return [*trained, *start, *statistics, *refused]


def choose(scored: Sequence[Candidate], take: str | None = None) -> Verdict:
    """The first of `ranked`, or what `take` names (see `AdaptationSettings`).

    Args:
        scored: see `Verdict`.
        take: the name of a candidate, or "statistics" for the kind that the guard prefers.

    Raises:
        ConfigError: there is no such candidate.
    """
    knows = max(one.score for one in scored if not one.step) >= KNOWS
    order = ranked(scored) if knows else list(scored)
    named = [one for one in order if take in (None, one.name) or (take == "statistics" and one.name in KINDS)]
    if not named:
        raise unknown("network", str(take), [one.name for one in scored], "take")
    best, preferred, start = named[0], order[0], scored[0]
    refused = [f"{one.title} {' and '.join(one.refusals)}" for one in scored if one.refusals]
    if best is not preferred:
        reason = f"{_capital(best.title)} is returned as asked for; the guard would return {preferred.title}."
    elif not knows:
        reason = f"This network knows nothing of this video: its classes carry {best.score:.2f} nats of information."
        reason += " It is returned as it was, and nothing that is made of it can be trusted."
    elif best is start:
        reason = "The start is returned as it was: no trained network can be trusted."
    elif not best.step:
        reason = f"The start with {best.title} is returned: no trained network can be trusted."
    else:
        like = "the start" if not scored[1:] or scored[1].step else "renewed statistics"
        reason = f"The adapted network ({best.title}) is returned: it agrees with {like} to {best.agreement:.0f} %."
    if refused:
        reason += f" Refused: {'; '.join(refused)}."
    return Verdict(best, tuple(scored), reason, preferred, knows)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
