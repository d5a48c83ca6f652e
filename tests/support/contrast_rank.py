"""One of two processes that share their keys; started by `test_step.py` as `contrast_rank.py MEETING_FILE RANK`."""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor, distributed
from torch.nn.functional import normalize

from stpl.losses.pixel_contrast import pixel_contrast
from stpl.training.ranks import gather_ranks


def pixels() -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and labels of both processes."""
    generator = torch.Generator().manual_seed(3)
    queries, keys = (torch.randn(40, 8, generator=generator) for _ in range(2))
    return queries, keys, torch.randint(0, 3, (40,), generator=generator)


def main(meeting: str, rank: int) -> None:
    """Print the loss of this process's half and the averaged gradient of a map both use."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    half = slice(rank * 20, rank * 20 + 20)
    queries, keys, labels = (x[half] for x in pixels())
    weight = torch.eye(8, requires_grad=True)
    queries, keys = normalize(queries @ weight, dim=1), normalize(keys @ weight, dim=1)
    loss = pixel_contrast(queries, gather_ranks(keys), labels, gather_ranks(labels))
    loss.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    distributed.all_reduce(weight.grad)
    print(json.dumps({"loss": loss.item(), "gradient": (weight.grad / 2).tolist()}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
