from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from stpl.nn.generators import generators_kept


def drawn() -> tuple[float, float, float]:
    return torch.rand(1).item(), float(np.random.rand()), random.random()


@pytest.mark.parametrize("fails", [False, True])
def test_generators_are_left_as_they_were(fails: bool) -> None:
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(7)
    expected = drawn()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(7)
    try:
        with generators_kept():
            drawn()
            torch.manual_seed(1)
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert drawn() == expected
