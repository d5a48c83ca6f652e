"""The global generators of random numbers: of PyTorch, of its GPUs, of NumPy and of Python."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave all generators as they were, after an error too, whatever is drawn or seeded within it.

    Lightning has `isolate_rng` for that, whose import takes longer than torch's.
    """
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
