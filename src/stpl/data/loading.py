"""How clips are loaded: batch sizes, loader processes, which source clips are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
from torch.utils.data import DataLoader

from stpl.data.clip import Batch
from stpl.data.rare_classes import RareClasses
from stpl.errors import ConfigError
from stpl.machine import cores


@dataclass(frozen=True)
class Loading:
    """How clips are loaded; shared by all data modules.

    Attributes:
        batch_size: clips per process and step: N devices train with N times as many a step.
        source_batch_size: clips of the source domain per process and step, for methods that want any; as many as
            `batch_size` if not given.
        rare_classes: draw source clips so that rare classes are seen more often; every clip once an epoch if not given.
        eval_batch_size: clips per evaluation batch; processes share the batches.
        num_workers: loader processes of each process that trains; the batches do not depend on it. `None` takes one a
            core, at most 8.
        augment_on: where the second view is made: by the loader's "workers", or on the training "device", which is far
            faster on a GPU and differs from the other by single grey levels.
    """

    batch_size: int = 1
    source_batch_size: int | None = None
    rare_classes: RareClasses | None = None
    eval_batch_size: int = 1
    num_workers: int | None = 0
    augment_on: Literal["workers", "device"] = "workers"

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("source_batch_size", 1), ("eval_batch_size", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{value} is too small", where=f"data.loading.{name}", mend=f"choose {least} or more")

    def clips_of(self, stream: str) -> int:
        """Clips of a stream ("target", "source" or "before") per process and step."""
        return self.source_batch_size or self.batch_size if stream == "source" else self.batch_size

    def workers(self, processes: int = 1) -> int:
        """Loader processes of each of `processes` that train on this machine."""
        if self.num_workers is not None:
            return self.num_workers
        return max(1, min(8, len(cores()) // processes))


class StepLoader(DataLoader[Batch]):
    """A loader that tells Lightning it can be resumed: its sampler starts at the trainer's step, so it has no state."""

    def state_dict(self) -> dict[str, int]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to restore."""


def one_thread(worker: int) -> None:
    """OpenCV takes every core in every loader process, and the trainer's own threads starve; torch takes one."""
    cv2.setNumThreads(0)
