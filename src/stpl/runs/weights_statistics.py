"""Weights × statistics: what a run's weights are worth with statistics other than those they were recorded with."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.callbacks import LambdaCallback

from stpl.errors import StplError, refusals
from stpl.files import write_atomically
from stpl.nn import weights
from stpl.nn.batchnorm import Views
from stpl.runs.artifacts import STATISTICS, STATISTICS_SCHEMA
from stpl.runs.build import SuiteCLI, build
from stpl.runs.experiments import check_runs
from stpl.runs.identity import check_mark, mark_in
from stpl.runs.record import CONFIG, RECORD, RunRecord, key_of, read_record
from stpl.runs.trainer import callbacks_of, signals_raised
from stpl.training import Method


def evaluate_weights(bench: str, runs: Path) -> None:
    """Evaluate the last weights of recorded runs with renewed statistics; see `stpl weights statistics`."""
    check_runs(runs / bench)
    refused: list[StplError] = []
    found = [path.parent for path in sorted((runs / bench).glob(f"*/seed*/{RECORD}"))]
    missing = [folder for folder in found if not (folder / STATISTICS).exists() and _last(folder).exists()]
    for number, folder in enumerate(missing, 1):
        try:
            _measure(folder, f"statistics [{number}/{len(missing)}]")
        except StplError as error:
            refused.append(error)
    for other in refused[1:]:
        print(other, file=sys.stderr)
    if refused:
        raise refused[0]


def _measure(folder: Path, title: str) -> None:
    record = read_record(folder)
    assert record is not None
    last = _last(folder)
    check_mark(weights.read(last), mark_in(folder, key_of(record)), last)
    settings = ["--start_from=null", f"--model.init_args.checkpoint={last}", "--run.wandb=disabled"]
    cli, _ = build([f"--config={folder / CONFIG}", *settings])
    callbacks_of(cli.trainer).remove(cli.recorder)
    if cli.datamodule.domain == "source":
        return
    print(f"{title} {record['experiment']} seed {record['seed']}", file=sys.stderr)
    content = {"schema": STATISTICS_SCHEMA, "step": record["last"]["step"], "miou": _measured(cli, folder, record)}
    write_atomically(folder / STATISTICS, json.dumps(content, indent=2) + "\n")


def _last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _measured(cli: SuiteCLI, folder: Path, record: RunRecord) -> dict[str, float]:
    """The mIoU by kind of statistics; the record knows that of the kind it was evaluated with."""
    options = cli.model.batchnorm
    renewed = options.evaluation == "renewed" and options.policy != "frozen" and record["last"]["step"] > 0
    views: Views = "all" if options.views == "all" and cli.model.wants.augmented else "original"
    recorded = views if renewed else "running"
    kinds: dict[str, Callable[[Method], None]] = {
        "running": lambda method: _restore(method, folder),
        "original": lambda method: method.renew_statistics(augmented=False),
        "all": lambda method: method.renew_statistics(augmented=True),
    }
    return {
        kind: float(record["last"]["miou"]) if kind == recorded else _evaluated(cli, change)
        for kind, change in kinds.items()
    }


def _evaluated(cli: SuiteCLI, change: Callable[[Method], None]) -> float:
    callback = LambdaCallback(on_validation_start=lambda _, method: change(method))  # where all of it is in place
    callbacks = callbacks_of(cli.trainer)
    callbacks.append(callback)
    try:
        with refusals("trainer", among="lightning"), signals_raised(cli.trainer):
            cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    finally:
        callbacks.remove(callback)
    return float(cli.model.evaluation()["miou"])


def _restore(method: Method, folder: Path) -> None:
    """Put the statistics in place that the run ended with."""
    buffers = dict(method.named_buffers())
    for name, values in weights.read(_last(folder)).get("running_statistics", {}).items():
        buffers[name].copy_(values)
