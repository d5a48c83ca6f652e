"""A small, even sample of the pixels of many clips, kept while the clips stream by.

Shape legend: M kept pixels, C channels, B images, h×w pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from stpl.data.clip import IGNORE


class Sample(NamedTuple):
    """Pixels of many clips: vectors float32 `[M,C]`, their classes and the numbers of their clips, int64 `[M]`."""

    vectors: Tensor
    classes: Tensor
    clips: Tensor


class PixelSample(Metric):
    """Base of metrics that look at at most `per_class` pixels of every class, drawn evenly from all clips.

    Every pixel has a random priority, a pure function of (seed, number of its clip, place), and the lowest of each
    class stay. So the sample depends neither on the size of the batches nor on the network: two runs are compared at
    the very same pixels, as long as the classes come from the ground truth.
    """

    full_state_update = False
    first_clip = 0
    """Number of the first clip of this process, where several processes share the clips."""
    vectors: list[Tensor]
    classes: list[Tensor]
    priorities: list[Tensor]
    origins: list[Tensor]
    clips: Tensor

    def __init__(self, per_class: int, seed: int = 0) -> None:
        super().__init__()
        self.per_class, self.seed = per_class, seed
        for name in ("vectors", "classes", "priorities", "origins"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("clips", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, vectors: Tensor, classes: Tensor) -> None:
        """Offer the pixels of a batch: vectors `[B,C,h,w]`, of train ids `[B,h,w]` but for 255."""
        first = self.first_clip + int(self.clips)
        drawn = self._draw(classes, first)
        image, y, x = (classes != IGNORE).nonzero(as_tuple=True)
        all_classes = torch.cat([*self.classes, classes[image, y, x]])
        all_priorities = torch.cat([*self.priorities, drawn[image, y, x]])
        stays = torch.zeros_like(all_classes, dtype=torch.bool)
        stays[lowest_of_each(all_priorities, all_classes, self.per_class)] = True
        known, fresh = stays[: len(stays) - len(image)], stays[len(stays) - len(image) :]
        rows = vectors[image[fresh], :, y[fresh], x[fresh]].float()
        self.vectors = [torch.cat([*(kept[known] for kept in self.vectors), rows])]
        self.origins = [torch.cat([*(kept[known] for kept in self.origins), image[fresh] + first])]
        self.classes, self.priorities = [all_classes[stays]], [all_priorities[stays]]
        self.clips += len(classes)

    def _draw(self, classes: Tensor, first: int) -> Tensor:
        """Priorities float64 of the pixels of a batch whose first clip has this number, uniform in [0, 1)."""
        numbers = range(first, first + len(classes))
        drawn = [np.random.default_rng((self.seed, number)).random(tuple(classes.shape[1:])) for number in numbers]
        return torch.from_numpy(np.stack(drawn)).to(classes.device)

    def sample(self) -> Sample:
        """The pixels that were kept: by class, each class in random order."""
        if not self.classes:
            none = torch.zeros(0, dtype=torch.int64)
            return Sample(torch.zeros(0, 1), none, none)
        classes = dim_zero_cat(self.classes)
        order = lowest_of_each(dim_zero_cat(self.priorities), classes, self.per_class)
        return Sample(dim_zero_cat(self.vectors)[order], classes[order].long(), dim_zero_cat(self.origins)[order])


def lowest_of_each(priorities: Tensor, classes: Tensor, count: int) -> Tensor:
    """Indices of the `count` lowest priorities of each class (all, where there are fewer), by class, then priority."""
    order = priorities.argsort(stable=True)
    order = order[classes[order].argsort(stable=True)]
    ordered = classes[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return order[rank < count]
