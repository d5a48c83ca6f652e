"""What the processes of a distributed run tell each other. Outside such a run there is one process, the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, distributed

from stpl.data.clip import IGNORE

T = TypeVar("T")


def to_first(item: T) -> list[T]:
    """Every process's `item`, by rank, in the first process; its own alone in the others."""
    if not _several():
        return [item]
    parts: list[T | None] | None = [None] * distributed.get_world_size() if distributed.get_rank() == 0 else None
    distributed.gather_object(item, parts)
    return [item] if parts is None else parts  # type: ignore[return-value]


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns in the first process, which alone calls it."""
    if not _several():
        return make()
    made = [make() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(made)
    return made[0]  # type: ignore[return-value]


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if _several():
        distributed.barrier()


def is_first() -> bool:
    """Whether this is the first process."""
    return not _several() or distributed.get_rank() == 0


def pixel_weight(labels: Tensor) -> Tensor | float:
    """What to multiply a mean over this process's known pixels with, so that averaging processes weighs pixels alike.

    Processes rarely know equally many: the weight is their number here, relative to the mean over all processes.

    Args:
        labels: `[B,H,W]`, 255 where unknown; every process must call this.
    """
    if not _several():
        return 1.0
    here = (labels != IGNORE).sum().float()
    everywhere = here.clone()
    distributed.all_reduce(everywhere)
    return here * distributed.get_world_size() / everywhere.clamp(min=1)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
