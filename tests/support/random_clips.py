"""Random clips, the same for a seed, and a network that does not look at them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stpl.data.clip import Clip


def clips(seed: int, size: tuple[int, int] = (48, 64), count: int = 2, frames: int = 2) -> Clip:
    """Clips of noise with flow, labels of both frames and an augmented view that is no other."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, frames, 3, *size), dtype=torch.uint8, generator=generator)
    flow = 2 * torch.randn(count, frames - 1, 2, *size, generator=generator)
    flows = {(back - frames + 2, back - frames + 1): flow[:, back] for back in range(frames - 1)}
    label, previous = torch.randint(0, 15, (2, count, *size), generator=generator)
    return Clip(images, flows, {0: label, -1: previous}, augmented=images[:, -2:], key=("a/1", "a/2", "b/1")[:count])


class Says(nn.Module):
    """A network that says the same whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, clip: Clip) -> Tensor:
        return self.logits
