"""One of two processes that train together, started as a launcher would: `ddp_rank.py PORT RANK FOLDER`.

`FOLDER/runs.json` lists command lines of `stpl fit`, and for each the step at which it is to crash, or null. Processes
run them all, since starting one takes longer than a run. What they tell each other is written to `FOLDER/<rank>.json`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stpl.data.clip import Clip
from stpl.methods import Method
from stpl.methods.ranks import from_first, to_first
from stpl.nn.batchnorm import average_statistics
from stpl.nn.fusion import STAM
from stpl.nn.segmenter import Segmenter
from stpl.runs.fit import fit


class CrashError(Exception):
    """A run was interrupted."""


@contextmanager
def exactly() -> Iterator[None]:
    """Compute in float64, so that no rounding tips a pixel over the brink of confidence.

    STAM's own BatchNorm, which no policy reaches, is frozen too: it would see how the batch is divided.
    """
    train, to, normalize = STAM.train, Clip.to, Segmenter.normalize

    def double(self: Clip, *args: Any, **options: Any) -> Clip:
        clip = to(self, *args, **options)
        return clip if clip.flow is None else replace(clip, flow=clip.flow.double())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(STAM, "train", lambda self, mode=True: train(self, False))
        patch.setattr(Clip, "to", double)
        patch.setattr(Segmenter, "normalize", lambda self, frames: normalize(self, frames).double())
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def run(args: list[str], crash: int | None) -> None:
    """`stpl fit`, which crashes when it has taken `crash` steps."""
    original = Method.training_step

    def step(self: Method, clip: Clip, batch_idx: int) -> dict[str, torch.Tensor] | None:
        if self.global_step == crash:
            raise CrashError
        return original(self, clip, batch_idx)

    frozen = "--batchnorm.policy=frozen" in args
    with pytest.MonkeyPatch.context() as patch, suppress(CrashError), exactly() if frozen else nullcontext():
        patch.setattr(Method, "training_step", step)
        fit(args)


def told(rank: int) -> dict[str, Any]:
    """What each process finds alone becomes common knowledge: running statistics, items, decisions."""
    layer, frozen = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    for module in (layer, frozen):
        module(torch.full((1, 2, 2, 2), float(rank)))
    average_statistics(nn.ModuleList([layer, frozen.eval()]))
    means = [module.running_mean for module in (layer, frozen)]
    return {
        "means": [mean.tolist() for mean in means if mean is not None],
        "items": to_first(f"of {rank}"),
        "decision": from_first(lambda: f"by {rank}"),
    }


def main(port: str, rank: str, folder: str) -> None:
    """Run all command lines in order."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": rank}
    for args, crash in json.loads((Path(folder) / "runs.json").read_text()):
        run(args, crash)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(told(int(rank))))


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # all is written; gloo's threads now and then abort a process while the interpreter takes itself apart
