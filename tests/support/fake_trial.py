"""A torch-free stand-in for `stpl fit`, run as a subprocess by the sweep's tests.

Behaviour is set by the environment: FAKE_LEDGER (a line per start), FAKE_STEPS and FAKE_SECONDS (per step),
FAKE_BREAK=`experiment:exit code[:times]` (an experiment's whole name, or that of its overlay), FAKE_SESSION (steps
after which it stops, as by `trainer.max_time`). It "checkpoints" and evaluates every step, and resumes. Its mIoU
depends on the seed and on the settings model.x and model.colour.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from stpl.errors import STOPPED
from stpl.runs.folder import lock_run
from stpl.runs.record import RunKey, RunRecord, experiment_name, runs_root, write_record


def record_of(key: RunKey, miou: float, steps: int = 5, **changes: object) -> RunRecord:
    evaluation = {"step": steps, "miou": miou, "iou": {"road": miou + 10, "car": miou - 10}, "score": 0.5}
    record: dict[str, object] = {
        "schema": 1, "bench": key.bench, "experiment": key.experiment, "base": key.experiment.split(",")[0],
        "overrides": {}, "seed": key.seed, "classes": ["road", "car"], "steps": steps, "seconds": 1.5,
        "peak_memory_mb": None, "selection": "entropy", "last": evaluation,
        "selected": {**evaluation, "miou": miou + 1}, "best": {**evaluation, "miou": miou + 2}, "versions": {},
        "git": None, "command": [],
    }  # fmt: skip
    return cast(RunRecord, {**record, **changes})


def _log(message: str) -> None:
    with Path(os.environ["FAKE_LEDGER"]).open("a", encoding="utf-8") as file:
        file.write(message + "\n")


def _break(names: tuple[str, str], directory: Path) -> None:
    name, _, rule = os.environ.get("FAKE_BREAK", "").partition(":")
    if name not in names:
        return
    code, _, times = rule.partition(":")
    count = directory / "broken"
    broken = len(count.read_text()) if count.exists() else 0
    if not times or broken < int(times):
        count.write_text("x" * (broken + 1))
        print("first line\nerror: the fake breaks", file=sys.stderr)
        sys.exit(int(code))


def _quality(options: dict[str, str]) -> float:
    """What the settings do to the mIoU: best at x = 0.3; a colour counts too."""
    x = float(options.get("model.x", "0.3"))
    return -20 * (x - 0.3) ** 2 + {"red": 0.0, "green": 5.0}.get(options.get("model.colour", "red"), 0.0)


def _train(directory: Path, steps: int, miou: float, log: Callable[[int, float], None]) -> None:
    checkpoint, metrics = directory / "checkpoint", directory / "metrics.csv"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    if not metrics.exists():
        metrics.write_text(f"step,name,value\n0,progress/steps,{steps}\n0,val/miou,0.0\n")
    session = int(os.environ.get("FAKE_SESSION", steps))
    for step in range(first + 1, steps + 1):
        if step > first + session:
            print(f"stpl fit: stopped at step {step - 1} of {steps}, not recorded", file=sys.stderr)
            sys.exit(STOPPED)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        with metrics.open("a") as file:
            file.write(f"{step},train/loss,{1 / step}\n{step},val/miou,{miou * step / steps}\n")
        log(step, miou * step / steps)
        temporary = checkpoint.with_suffix(".tmp")
        temporary.write_text(str(step))
        temporary.replace(checkpoint)
        _log(f"{directory.parent.name} {directory.name} step {step}")


def main(arguments: list[str]) -> None:
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    bench, base, seed = options.pop("bench"), options.pop("experiment"), int(options.pop("seed_everything"))
    key = RunKey(bench, experiment_name(base, options), seed)
    directory = key.directory(runs_root())
    with lock_run(directory), _tracked() as log:
        _log(f"{key} started")
        _break((base, key.experiment), directory)
        steps, miou = int(os.environ.get("FAKE_STEPS", "2")), 40.0 + seed + _quality(options)
        _train(directory, steps, miou, log)
        write_record(directory, record_of(key, miou, steps))
        _log(f"{key} recorded")


@contextmanager
def _tracked() -> Iterator[Callable[[int, float], None]]:
    """Under a W&B agent, log to W&B as `stpl fit` does."""
    if "WANDB_SWEEP_ID" not in os.environ:
        yield lambda step, miou: None
        return
    import wandb

    with wandb.init(project="stpl", dir=runs_root()) as run:
        yield lambda step, miou: run.log({"val/miou": miou, "step": step})


if __name__ == "__main__":
    main(sys.argv[1:])
