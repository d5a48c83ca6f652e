"""The conformance suite finds what it is for, and the methods that stand keep it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from stpl.data.clip import Batch
from stpl.methods import STPL, BatchNormStatistics, SelfTraining
from stpl.testing import ReadBackError, check_method

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("experiment", ["self_training", "stpl", "naive"])
def test_methods_conform(experiment: str, tiny_streets: Path, tmp_path: Path) -> None:
    """`test_ddp` compares their processes, in one pair for all."""
    check_method(experiment, tmp_path, ranks=False, streets=tiny_streets)


def test_the_oracle_conforms_and_may_see_labels(tiny_streets: Path, tmp_path: Path) -> None:
    check_method("oracle", tmp_path, labels=True, ranks=False, streets=tiny_streets)


def test_labels_need_leave(tiny_streets: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="labels=True"):
        check_method("oracle", tmp_path, ranks=False, streets=tiny_streets)


def test_changed_losses_are_told_with_the_new_ones(tiny_streets: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"golden=\[\d"):
        check_method("self_training", tmp_path, ranks=False, streets=tiny_streets, golden=[1.0, 2.0, 3.0, 4.0])


def faulty(fault: str) -> contextlib.AbstractContextManager[object]:
    """Self-training with a fault."""
    right = SelfTraining.losses

    def losses(self: SelfTraining, batch: Batch) -> dict[str, Tensor]:
        found = right(self, batch)
        (name, loss), *_ = found.items()
        match fault:
            case "reads back":
                float(loss)
            case "remembers":
                calls = self.__dict__.setdefault("calls", [])
                calls.append(name)
                return {name: loss * len(calls)}
            case "draws":
                return {name: loss * torch.rand(())}
            case "no number":
                return {name: loss * float("nan")}
            case "no scalar":
                return {name: loss[None]}
            case "no gradient":
                return {name: loss.detach()}
        return found

    return mock.patch.object(SelfTraining, "losses", losses)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("remembers", "after a kill"),
        ("no number", "not finite|is nan"),
        ("no scalar", "."),
        ("no gradient", "no loss has a gradient"),
    ],
)
def test_faults_are_found(fault: str, said: str, tiny_streets: Path, tmp_path: Path) -> None:
    with faulty(fault), pytest.raises((AssertionError, RuntimeError), match=said):
        check_method("self_training", tmp_path, ranks=False, streets=tiny_streets)


def test_a_read_back_is_found(tiny_streets: Path, tmp_path: Path) -> None:
    with faulty("reads back"), pytest.raises(ReadBackError):
        check_method("self_training", tmp_path, ranks=False, streets=tiny_streets)


def test_numbers_drawn_in_a_step_are_drawn_again_after_a_kill(tiny_streets: Path, tmp_path: Path) -> None:
    """The base seeds every step; no generator's state is kept."""
    with faulty("draws"):
        check_method("self_training", tmp_path, ranks=False, streets=tiny_streets)


def test_what_is_opened_is_seen(tiny_streets: Path, tmp_path: Path) -> None:
    """A method that peeks at the labels, whatever it says it wants."""
    right = BatchNormStatistics.losses

    def peek(self: BatchNormStatistics, batch: Batch) -> dict[str, Tensor]:
        next(tiny_streets.glob("camera-train-*/labels.npy")).open("rb").close()
        return right(self, batch)

    with mock.patch.object(BatchNormStatistics, "losses", peek), pytest.raises(AssertionError, match="labels of the"):
        check_method("batchnorm_statistics", tmp_path, ranks=False, streets=tiny_streets)


def test_a_frozen_parameter_with_a_gradient_is_found(tiny_streets: Path, tmp_path: Path) -> None:
    """One that has a gradient and no optimiser."""
    right = STPL.parameter_groups
    groups = mock.patch.object(STPL, "parameter_groups", lambda self: right(self)[:1])
    with groups, pytest.raises(AssertionError, match="has a gradient and no optimiser"):
        check_method("stpl", tmp_path, ranks=False, streets=tiny_streets)
