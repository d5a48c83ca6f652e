from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from stpl.data.augment import CrossFrameAugmentation
from stpl.data.clip import BACKWARD, ClipReader, Frame, Wants, collate
from stpl.data.steps import EvaluationClips, StepSampler, TrainingClips, ticket


class Counting(ClipReader):
    """A reader of three clips that remembers what was wanted."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def __len__(self) -> int:
        return 3

    def key(self, index: int) -> str:
        return str(index)

    def frame(self, index: int, offset: int = 0) -> Frame:
        return np.full((8, 8, 3), 80 + 40 * index, np.uint8)

    def flow(self, index: int, of: int = 0, to: int = -1) -> torch.Tensor:
        self.asked.append((of, to))
        return torch.zeros(2, 8, 8)

    def label(self, index: int, offset: int = 0) -> torch.Tensor:
        self.asked.append(offset)
        return torch.zeros(8, 8, dtype=torch.int64)

    @property
    def name(self) -> str:
        return "counting"


def test_every_epoch_holds_every_clip_once() -> None:
    length, batch = 7, 3
    drawn = [ticket(5, step, position, batch, length).clip for step in range(7) for position in range(batch)]
    for epoch in range(3):
        assert sorted(drawn[epoch * length : (epoch + 1) * length]) == list(range(length))
    assert drawn[:length] != drawn[length : 2 * length]


def test_the_order_depends_on_the_seed_alone() -> None:
    first = list(StepSampler(10, seed=1, start=0, steps=6, batch_size=2))
    assert first == list(StepSampler(10, seed=1, start=0, steps=6, batch_size=2))
    assert first != list(StepSampler(10, seed=2, start=0, steps=6, batch_size=2))


@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_later_start_gives_the_rest(start: int) -> None:
    whole = list(StepSampler(10, seed=1, start=0, steps=6, batch_size=2))
    rest = StepSampler(10, seed=1, start=start, steps=6, batch_size=2)
    assert list(rest) == whole[start:]
    assert len(rest) == 6


def test_ranks_share_a_step_without_overlap() -> None:
    alone = StepSampler(10, seed=1, start=0, steps=5, batch_size=4)
    ranks = [StepSampler(10, seed=1, start=0, steps=5, batch_size=2, rank=r, world_size=2) for r in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert [t.clip for t in whole] == [t.clip for part in parts for t in part]


def test_augmentation_is_a_function_of_seed_step_and_position() -> None:
    def augmented(seed: int, step: int, position: int) -> torch.Tensor:
        clips = TrainingClips(Counting(), Wants(augmented=True), CrossFrameAugmentation(jitter_probability=1), seed)
        result = clips[ticket(seed, step, position, 1, 3)._replace(clip=1)].augmented
        assert result is not None
        return result

    reference = augmented(0, 0, 0)
    assert torch.equal(reference, augmented(0, 0, 0))
    others = Counter(torch.equal(reference, augmented(*place)) for place in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert others[False] == 3


def test_nothing_unwanted_is_made() -> None:
    reader = Counting()
    clip = TrainingClips(reader, Wants(flows=(BACKWARD,)), CrossFrameAugmentation(), 0)[ticket(0, 0, 0, 1, 3)]
    assert clip.augmented is None
    assert reader.asked == [BACKWARD]


def test_evaluation_reads_in_order() -> None:
    clips = EvaluationClips(Counting(), Wants())
    assert [clips[i].key for i in range(len(clips))] == ["0", "1", "2"]


def test_collate_stacks_and_moves() -> None:
    reader = Counting()
    batch = collate([reader.read(i, Wants(flows=(BACKWARD,))) for i in range(3)]).to("cpu")
    assert batch.frames.shape == (3, 2, 3, 8, 8)
    assert batch.flows[BACKWARD].shape == (3, 2, 8, 8)
    assert not batch.labels
    assert batch.key == ("0", "1", "2")
