"""One of two processes that train together: `python -m stpl.testing.rank PORT RANK PLAN`.

`PLAN` is a JSON file of command lines of `stpl fit`, each with the step at which it is to crash, or null. All are run
in turn, since starting a process takes longer than a run.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from stpl.testing.runs import exactly, fit_until

Plan = Sequence[tuple[Sequence[str], int | None]]


def run_plan(plan: Plan) -> None:
    """Run all command lines in order, those with frozen statistics in exact arithmetic."""
    for args, crash in plan:
        with exactly() if "--batchnorm.policy=frozen" in args else nullcontext():
            fit_until(crash, args)


def start_ranks(plan: Plan, folder: Path, module: str = "stpl.testing.rank") -> list[subprocess.Popen[bytes]]:
    """Two processes that run a plan together, as a launcher would start them; the caller waits for them."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-W", "error::UserWarning:stpl", "-m", module, port]
    return [subprocess.Popen([*command, str(rank), str(path)]) for rank in range(2)]


def join(port: str, rank: str) -> None:
    """Have Lightning find the other process."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": rank}


def main(port: str, rank: str, plan: str) -> None:
    """Run the plan as one of two."""
    join(port, rank)
    run_plan(json.loads(Path(plan).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # all is written; gloo's threads now and then abort a process while the interpreter takes itself apart
