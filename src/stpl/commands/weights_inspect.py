"""`stpl weights inspect`: what a checkpoint of any program holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Layout = Literal["auto", "torchvision", "caffe", "advent", "adaptsegnet", "accel"]


def weights_inspect(checkpoint: Path, *, layout: Layout = "auto", key: str | None = None) -> None:
    """Say what a checkpoint is: layout, network, classes, normalisation, and what is missing or unknown in it.

    Args:
        checkpoint: the file, foreign or one of ours.
        layout: its layout, where the keys leave a choice.
        key: which state_dict, where the file holds several: such as model, or ema.model for one inside another; the one
            called state_dict if not given, or else the only one.
    """
    from stpl.nn.convert import describe

    for name, value in describe(checkpoint, layout, key).items():
        print(f"{name:<15}{value}")
