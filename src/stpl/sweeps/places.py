"""How a machine is divided among workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from stpl import machine


@dataclass(frozen=True)
class Place:
    """What a worker has of the machine.

    Attributes:
        number: from 1.
        environment: variables that tell it and its trials.
        cores: CPU cores that it may use; `None` for all.
    """

    number: int
    environment: Mapping[str, str]
    cores: frozenset[int] | None


def places(count: int) -> list[Place]:
    """Divide the machine among `count` workers: a GPU each, or equal shares of the CPU cores.

    0 makes one worker per GPU, and one in all without a GPU: on two cores `make ablation` took longer with two workers
    of one thread each, because one trains the source model and draws while the other waits.

    With more workers than GPUs some share one; with more than cores likewise.
    """
    gpus, cores = machine.visible_gpus(), machine.cores()
    count = count or max(1, len(gpus))
    found = []
    for index in range(count):
        share = cores[index * len(cores) // count : (index + 1) * len(cores) // count] or [cores[index % len(cores)]]
        threads = min(len(share), int(os.environ.get("OMP_NUM_THREADS") or len(share)))
        environment = {"OMP_NUM_THREADS": str(threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        found.append(Place(index + 1, environment, None if gpus else frozenset(share)))
    return found
