"""Fixtures that tests of whole runs share: a tiny `streets`, and a place for runs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from fakes import MovingShapes
from repository import REPOSITORY
from stpl.testing.runs import draw_tiny, tiny_arguments
from sweep_harness import end_started


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Results to the last digit need the same order of summation in every test; and cores are shared by tests.

    What tests start has one thread, too: two processes with two threads each on two cores are many times slower.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would what the tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _as_if_first() -> None:
    """A run of an earlier test had PyTorch refuse what is not deterministic, or was the second of two processes."""
    torch.use_deterministic_algorithms(False)
    setattr(rank_zero_only, "rank", 0)  # noqa: B010 -- no type stub knows it


@pytest.fixture(autouse=True)
def _no_left_over() -> Iterator[None]:
    """A sweep that a failed test left running is ended, so that no later test meets it."""
    yield
    end_started()


@pytest.fixture(scope="session")
def tiny_streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded benchmark, drawn small: all four splits."""
    root = tmp_path_factory.mktemp("streets")
    draw_tiny(root)
    return root


@pytest.fixture
def tiny_run(tiny_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Arguments of `stpl fit` for a run of seconds; runs go to the test's own folder."""
    monkeypatch.setenv("STPL_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(REPOSITORY)

    return lambda experiment, *extra, steps=4: tiny_arguments(experiment, tiny_streets, *extra, steps=steps)


_opened: list[str] = []
_listening = [False]


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening[0] and event == "open":
        _opened.append(str(arguments[0]))


sys.addaudithook(_audit)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every file that Python opens during the test, by any means."""
    _opened.clear()
    _listening[0] = True
    yield _opened
    _listening[0] = False


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, for modules that are written into it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A folder of six frames of 64×96 in motion."""
    folder = tmp_path / "drive"
    folder.mkdir()
    scene = MovingShapes(6, (64, 96))
    for time in range(6):
        cv2.imwrite(str(folder / f"{time}.png"), scene.frame(time))
    return folder
