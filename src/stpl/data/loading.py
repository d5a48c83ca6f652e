"""How clips are loaded: batch sizes, loader processes, which source clips are drawn."""

import os
import shutil
import sys
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
from torch.utils.data import DataLoader

from stpl.data.clip import Batch, Clip
from stpl.data.steps import RareClasses
from stpl.errors import ConfigError
from stpl.machine import cores

Loader = TypeVar("Loader", bound=DataLoader[Any])

_SHARED = Path("/dev/shm")


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

    def workers(self, processes: int) -> int:
        """Loader processes of each of `processes` that train on this machine."""
        return max(1, min(8, len(cores()) // processes)) if self.num_workers is None else self.num_workers


class StepLoader(DataLoader[Batch]):
    """A loader that Lightning may resume: its sampler starts at the trainer's step, so it has no state."""

    def state_dict(self) -> dict[str, int]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to restore."""


def begin_process(worker: int) -> None:
    """OpenCV takes every core in every loader process, and the trainer's own threads starve; torch takes one.

    A batch that finds no room in shared memory ends the process: Python would go on, and the trainer wait for ever.
    """
    cv2.setNumThreads(0)
    setattr(Queue, "_on_queue_feeder_error", staticmethod(_end))  # noqa: B010 -- no type stub knows it


def _end(error: Exception, batch: object) -> None:
    print(f"loader process: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def check_shared_memory(loader: DataLoader[Any], processes: int) -> None:
    """Refuse loader processes whose batches do not fit into the shared memory by which they come to the trainer.

    A container has 64 MiB by default. What does not fit kills a loader process, or leaves it stuck.

    Args:
        loader: its first clip is read, to see how large a batch is.
        processes: of this machine that have such a loader each.
    """
    if not loader.num_workers or not _SHARED.is_dir() or loader.batch_sampler is None:
        return
    places = next(iter(loader.batch_sampler), None)
    if places is None or loader.collate_fn is None:
        return
    alone: Batch | Clip = loader.collate_fn([loader.dataset[places[0]]])
    size = sum(tensor.numel() * tensor.element_size() for tensor in alone.tensors().values())
    ahead = loader.num_workers * (loader.prefetch_factor or 2) + 1  # those that wait, and the one in use
    need, free = processes * ahead * len(places) * size, shutil.disk_usage(_SHARED).free
    if need > free:
        needed = f"{loader.num_workers} loader processes need {need / 2**20:.0f} MiB of shared memory"
        mend = "set data.loading.num_workers=0, or give more shared memory (docker run --shm-size=…)"
        what = f"{needed}, {_SHARED} has {free / 2**20:.0f} free"
        raise ConfigError(what, where="data.loading.num_workers", mend=mend)
