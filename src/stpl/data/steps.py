"""Randomness as a function, not a state: which clips form a step, and the loader that can start at any step.

Nothing here depends on a generator's history, so a run that is killed at step s and resumed sees exactly the batches it
would have seen, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import Clip, ClipReader, Wants, clip_seed
from stpl.errors import ConfigError, DataError

_ORDER = -1  # no clip stands at this position, so the order of an epoch shares its seed with no augmentation


class Ticket(NamedTuple):
    """One place in one step: which clip stands there, and where that is."""

    clip: int
    step: int
    position: int


def ticket(seed: int, step: int, position: int, batch_size: int, length: int) -> Ticket:
    """The clip at `position` of `step`: epochs are permutations of `length` clips, each a function of (seed, epoch)."""
    epoch, place = divmod(step * batch_size + position, length)
    order = np.random.default_rng(clip_seed(seed, epoch, _ORDER)).permutation(length)
    return Ticket(int(order[place]), step, position)


@dataclass(eq=False)
class StepSampler(Sampler[list[Ticket]]):
    """Yields the batches of steps `start`..`steps`-1, for one rank of `world_size`.

    Its length is `steps` even when it starts later, because Lightning counts a resumed epoch from its beginning.

    Attributes:
        length: number of clips.
        seed: of the run.
        start: first step.
        steps: number of steps of the whole run.
        batch_size: clips per rank and step.
        rank: of this process.
        world_size: number of processes.

    Raises:
        DataError: there is no clip.
    """

    length: int
    _: KW_ONLY
    seed: int
    start: int
    steps: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.length < 1:
            raise DataError("there is no clip to train on", mend="check the data set, its split and its lists")

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Ticket]]:
        total = self.batch_size * self.world_size
        mine = range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for step in range(self.start, self.steps):
            yield [self.draw(step, position, total) for position in mine]

    def draw(self, step: int, position: int, total: int) -> Ticket:
        """The clip at `position` among the `total` of a step: a pure function of these, the seed and the clips."""
        return ticket(self.seed, step, position, total, self.length)


class StepBefore(StepSampler):
    """The batches of the step before each; before the first one, those of a step that no run takes."""

    def draw(self, step: int, position: int, total: int) -> Ticket:
        """The clip that stood at `position` one step ago."""
        return super().draw(step - 1, position, total)


class StreamSampler(Sampler[list[tuple[str, Ticket]]]):
    """Steps of several streams by name, each with its own sampler, side by side; all begin and end at the same step."""

    def __init__(self, streams: Mapping[str, StepSampler]) -> None:
        self.streams = streams

    def __len__(self) -> int:
        return min(len(sampler) for sampler in self.streams.values())

    def __iter__(self) -> Iterator[list[tuple[str, Ticket]]]:
        for step in zip(*self.streams.values(), strict=True):
            yield [(name, one) for name, tickets in zip(self.streams, step, strict=True) for one in tickets]


class EvaluationShare(Sampler[int]):
    """Of `length` clips in order, the stretch that one process evaluates; the first takes the first.

    A process takes whole batches, so a batch holds the same clips however many processes there are. Processes may have
    different numbers of batches, never none.

    Attributes:
        first: number of the first clip in this process's stretch.

    Raises:
        ConfigError: there are fewer batches than processes.
    """

    def __init__(self, length: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        batches = -(-length // batch_size)
        if 1 < world_size > batches:
            what = f"{length} evaluation clips in batches of {batch_size} are too few for {world_size} processes"
            mend = "choose smaller batches, or fewer devices"
            raise ConfigError(what, where="data.loading.eval_batch_size", mend=mend)
        first, end = (batches * r // world_size for r in (rank, rank + 1))
        self.clips = range(first * batch_size, min(end * batch_size, length))
        self.first = self.clips.start

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[int]:
        return iter(self.clips)


class TrainingClips(Dataset[Clip]):
    """Clips by ticket: what the method wants of them, augmented if it asks for that; `seed` is the run's."""

    def __init__(self, reader: ClipReader, wants: Wants, augmentation: CrossFrameAugmentation, seed: int) -> None:
        self.reader, self.wants, self.augmentation, self.seed = reader, wants, augmentation, seed

    def __getitem__(self, place: Ticket) -> Clip:
        seed = clip_seed(self.seed, place.step, place.position)
        augment = (lambda frames: self.augmentation(frames, seed)) if self.wants.augmented else None
        return self.reader.read(place.clip, self.wants, augment)


class StreamClips(Dataset[tuple[str, Clip]]):
    """Clips of several streams, by the stream's name and the ticket."""

    def __init__(self, streams: Mapping[str, TrainingClips]) -> None:
        self.streams = streams

    def __getitem__(self, place: tuple[str, Ticket]) -> tuple[str, Clip]:
        name, one = place
        return name, self.streams[name][one]


class EvaluationClips(Dataset[Clip]):
    """Every clip of a split in order, without augmentation."""

    def __init__(self, reader: ClipReader, wants: Wants) -> None:
        self.reader, self.wants = reader, wants

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Clip:
        return self.reader.read(index, self.wants)
