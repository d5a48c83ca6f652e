"""How a machine is divided among workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from stpl import machine

_MOST_ON_CPU = 4


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

    0 makes one worker per GPU; without a GPU one per core, at most four: two runs of one thread each are done sooner
    than one of two threads after the other, but each run has a gigabyte of its own.

    With more workers than GPUs some share one; with more than cores likewise.
    """
    gpus, cores = machine.visible_gpus(), machine.cores()
    count = count or len(gpus) or min(len(cores), _MOST_ON_CPU)
    found = []
    for index in range(count):
        share = cores[index * len(cores) // count : (index + 1) * len(cores) // count] or [cores[index % len(cores)]]
        threads = min(len(share), int(os.environ.get("OMP_NUM_THREADS") or len(share)))
        environment = {"OMP_NUM_THREADS": str(threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        else:
            environment[machine.SWEEP_CORES] = ",".join(map(str, cores))
        found.append(Place(index + 1, environment, None if gpus else frozenset(share)))
    return found
