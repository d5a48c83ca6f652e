"""Runs of seconds for tests: a tiny `streets`, a run that is killed at a step, a run in exact arithmetic."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from stpl.data.clip import Batch, Clip
from stpl.data.streets import StreetsOptions, open_split
from stpl.nn.fusion import STAM
from stpl.nn.segmenter import Segmenter
from stpl.runs.fit import fit
from stpl.training import Method

TINY = StreetsOptions(shift="palette", height=48, width=96, frames=3, train_drives=4, val_drives=2, camera_val_drives=2)
"""The embedded benchmark, drawn small."""

_DRAWN = ("shift", "height", "width", "frames", "train_drives", "val_drives", "camera_val_drives")


def draw_tiny(folder: Path) -> None:
    """Draw the tiny benchmark into a folder, unless it is there."""
    for domain in ("studio", "camera"):
        for split in ("train", "val"):
            open_split(folder, domain, split, TINY, 1)


class CrashError(Exception):
    """Stands for a kill."""


def tiny_arguments(experiment: str, streets: Path, *settings: str, steps: int = 4, batch: int = 2) -> list[str]:
    """Arguments of `stpl fit` for a run of seconds of an experiment of the catalogue.

    Args:
        experiment: its name.
        streets: folder of the drawn benchmark.
        settings: more arguments, which win.
        steps: training steps.
        batch: clips a step.
    """
    given: dict[str, object] = {f"data.init_args.options.{name}": getattr(TINY, name) for name in _DRAWN}
    given |= {
        "data.init_args.root": streets,
        "data.init_args.loading.batch_size": batch,
        "network.architecture.width": 8,
        "trainer.precision": "32-true",
        "run.experiment": experiment,
        "run.log_every": 1,
    }
    if experiment != "source_only":
        given |= {"trainer.max_steps": steps, "trainer.val_check_interval": 2}
    words = [f"--{name}={value}" for name, value in given.items()]
    return ["--bench=streets", f"--experiment={experiment}", *words, *settings]


def fit_until(step: int | None, args: Sequence[str]) -> bool:
    """`stpl fit` until `step` (counted from 1) begins, or to the end if it is `None`; whether it was cut."""
    original, cut = Method.training_step, []

    def crash(self: Method, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        if step is not None and self.global_step == step - 1:
            cut.append(step)
            raise CrashError
        return original(self, batch, batch_idx)

    with mock.patch.object(Method, "training_step", crash), suppress(CrashError):
        fit(args)
    return bool(cut)


@contextmanager
def exactly() -> Iterator[None]:
    """Compute in float64, so that no rounding tips a pixel over the brink of confidence.

    STAM's own BatchNorm, which no policy reaches, is frozen too: it would see how the batch is divided.
    """
    train, to, normalize = STAM.train, Clip.to, Segmenter.normalize

    def double(self: Clip, *args: Any, **options: Any) -> Clip:
        clip = to(self, *args, **options)
        return replace(clip, flows={pair: flow.double() for pair, flow in clip.flows.items()})

    with (
        mock.patch.object(STAM, "train", lambda self, mode=True: train(self, False)),
        mock.patch.object(Clip, "to", double),
        mock.patch.object(Segmenter, "normalize", lambda self, frames: normalize(self, frames).double()),
    ):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)
