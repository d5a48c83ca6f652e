"""One of two processes that train together, as `stpl.testing.processes`; it also says what they told each other.

It is written to `<rank>.json` beside the plan.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stpl.nn.batchnorm import average_statistics
from stpl.testing.processes import join, run_plan
from stpl.training.ranks import from_first, to_first


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


def main(port: str, rank: str, plan: str) -> None:
    """Run all command lines in order."""
    join(port, rank)
    run_plan(json.loads(Path(plan).read_text()))
    Path(plan).with_name(f"{rank}.json").write_text(json.dumps(told(int(rank))))


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # all is written; gloo's threads now and then abort a process while the interpreter takes itself apart
