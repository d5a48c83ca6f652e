"""Randomness as a function, not a state: which clips form a step, and the loader that can start at any step.

Nothing here depends on a generator's history, so a run that is killed at step s and resumed sees exactly the batches it
would have seen, with any number of workers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import Clip, ClipReader, Wants, clip_seed
from stpl.data.parallel import each
from stpl.errors import ConfigError, DataError, check_range, note
from stpl.files import locked, whole_file

_ORDER, _DRAW = -1, -3  # no clip stands at these positions, so these draws share their seed with no augmentation
_RARE = "data.loading.rare_classes"


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
        length: number of clips; `DataError` is raised if there is none.
        start: first step.
        steps: number of steps of the whole run.
        batch_size: clips per rank and step.
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


@dataclass(frozen=True)
class RareClasses:
    """Rare-class sampling (Hoyer et al., DAFormer, CVPR 2022, §3.3): source clips that show a rare class come up more.

    A class c is drawn with probability softmax((1 - f_c)/T) over classes, f_c its share of all labelled pixels; then
    one of the clips that show enough of it.

    Attributes:
        temperature: T; the smaller, the rarer the classes that are drawn (DAFormer 0.01).
        least_share: share of a clip's pixels that a class must have for the clip to stand for it. DAFormer asks for
            3000 pixels of GTA's 1052×1914, which is 0.0015.
    """

    temperature: float = 0.01
    least_share: float = 0.0015

    def __post_init__(self) -> None:
        check_range(f"{_RARE}.temperature", self.temperature, 1e-4)
        check_range(f"{_RARE}.least_share", self.least_share, 0, 1)


def probabilities(frequencies: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """P(c) of classes from their shares of all pixels `[K]`, summing to 1; a class without any pixel has 0."""
    exponents = (1 - frequencies) / temperature
    weights = np.exp(exponents - exponents[frequencies > 0].max()) * (frequencies > 0)
    found: NDArray[np.float64] = weights / weights.sum()
    return found


def class_pixels(reader: ClipReader, num_classes: int, folder: Path) -> NDArray[np.int64]:
    """How many pixels of each class each clip's label has, `[N,K]`; counted once, then read from `folder`.

    Raises:
        DataError: a label cannot be read, or the counts that are kept are torn.
    """
    path = folder / f"{reader.name}-{num_classes}.npy"
    on_busy = partial(note, f"another process counts the classes of {path.stem}: waiting")
    with locked(folder / f".{path.stem}.lock", on_busy, kind=DataError):
        if not path.is_file():
            counts = np.zeros((len(reader), num_classes), np.int64)

            def count(place: int) -> None:
                label = reader.label(place).numpy()
                counts[place] = np.bincount(label[label < num_classes].ravel(), minlength=num_classes)

            each(count, range(len(reader)), title="class statistics")
            with whole_file(path, kind=DataError) as file:
                np.save(file, counts)
    try:
        found: NDArray[np.int64] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError("the class statistics are torn", where=path, mend="delete the file") from error
    if found.shape != (len(reader), num_classes):
        raise DataError("the class statistics are of other clips", where=path, mend="delete the file")
    return found


class RareClassSampler(StepSampler):
    """Steps of clips drawn by class, from `class_pixels` and the pixels of one label; the rest as `StepSampler`.

    Raises:
        DataError: no clip shows enough of any class.
    """

    def __init__(self, counts: NDArray[np.int64], pixels: int, options: RareClasses, **steps: int) -> None:
        super().__init__(len(counts), **steps)
        shown = counts > options.least_share * pixels
        totals = np.where(shown.any(0), counts.sum(0), 0)
        if not totals.any():
            what, where = f"no clip shows a class on {options.least_share} of its pixels", f"{_RARE}.least_share"
            raise DataError(what, where=where, mend="choose a smaller share")
        self.probabilities = probabilities(totals / counts.sum(), options.temperature)
        self._clips = [np.flatnonzero(column) for column in shown.T]

    def draw(self, step: int, position: int, total: int) -> Ticket:
        """A clip that shows the class drawn for this place."""
        generator = np.random.default_rng(clip_seed(clip_seed(self.seed, step, position), _DRAW, 0))
        drawn = self._clips[generator.choice(len(self.probabilities), p=self.probabilities)]
        return Ticket(int(generator.choice(drawn)), step, position)


class StreamSampler(Sampler[list[tuple[str, Ticket]]]):
    """Steps of several streams by name, each with its own sampler, side by side; all begin and end at the same step."""

    def __init__(self, streams: Mapping[str, StepSampler]) -> None:
        self.streams = streams

    def __len__(self) -> int:
        return min(len(sampler) for sampler in self.streams.values())

    def __iter__(self) -> Iterator[list[tuple[str, Ticket]]]:
        for step in zip(*self.streams.values(), strict=True):
            yield [(name, one) for name, tickets in zip(self.streams, step, strict=True) for one in tickets]


def evaluation_share(length: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """Of `length` clips in order, the stretch that one process evaluates; the first takes the first.

    A process takes whole batches, so a batch holds the same clips however many processes there are. Processes may have
    different numbers of batches, never none: raises `ConfigError` if there are fewer batches than processes.
    """
    batches = -(-length // batch_size)
    if 1 < world_size > batches:
        what = f"{length} evaluation clips in batches of {batch_size} are too few for {world_size} processes"
        mend = "choose smaller batches, or fewer devices"
        raise ConfigError(what, where="data.loading.eval_batch_size", mend=mend)
    first, end = (batches * r // world_size for r in (rank, rank + 1))
    return range(first * batch_size, min(end * batch_size, length))


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
