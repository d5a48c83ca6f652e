"""Weights × statistics: what a run's last weights are worth with every kind of BatchNorm statistics."""

import sys
from pathlib import Path

import numpy as np

from stpl.errors import StplError, refusals
from stpl.nn import weights
from stpl.nn.batchnorm import batchnorm_layers
from stpl.runs.artifacts import KINDS, STATISTICS, ClipConfusions, StatisticsKind, read_evaluation, write_arrays
from stpl.runs.build import SuiteCLI, build
from stpl.runs.experiments import check_runs
from stpl.runs.identity import check_mark, mark_in
from stpl.runs.record import CONFIG, RECORD, key_of, read_record
from stpl.runs.trainer import callbacks_of, signals_raised
from stpl.training.ranks import from_first


def measure(cli: SuiteCLI, folder: Path, step: int) -> None:
    """Evaluate the weights, which are those of `step`, with the kinds of statistics that the run itself did not take.

    The counts of all kinds are kept in `folder`. Every process calls it. Nothing is done without labels, or for a run
    that trains on the source domain.
    """
    if not cli.datamodule.labelled or cli.datamodule.domain == "source":
        return
    callbacks_of(cli.trainer).clear()  # nobody records it, nor stops it
    cli.trainer.loggers = []
    own = cli.model.statistics_at(step)
    alike = not batchnorm_layers(cli.model.evaluated)
    counts = {own: from_first(lambda: read_evaluation(folder)) or _evaluated(cli, own)}
    for kind in KINDS:
        if kind not in counts:
            counts[kind] = counts[own] if alike else _evaluated(cli, kind)
    if cli.trainer.is_global_zero:
        arrays = {"step": np.array(step), "keys": np.array(counts[own].keys)}
        arrays |= {str(kind): counts[kind].confusions.astype(np.int32) for kind in KINDS}
        write_arrays(folder / STATISTICS, arrays)


def _evaluated(cli: SuiteCLI, kind: StatisticsKind) -> ClipConfusions:
    method = cli.model
    method.statistics = kind
    with refusals("trainer", among="lightning"), signals_raised(cli.trainer):
        cli.trainer.validate(method, datamodule=cli.datamodule, verbose=False)
    found = ClipConfusions(tuple(method.evaluator.quality.keys), method.evaluator.clip_confusions().astype(np.int64))
    method.evaluator.reset()
    return found


def evaluate_weights(bench: str, runs: Path) -> None:
    """Measure the recorded runs that did not measure themselves; see `stpl weights statistics`."""
    check_runs(runs / bench)
    refused: list[StplError] = []
    found = [path.parent for path in sorted((runs / bench).glob(f"*/seed*/{RECORD}"))]
    missing = [folder for folder in found if not (folder / STATISTICS).exists() and _last(folder).exists()]
    for number, folder in enumerate(missing, 1):
        try:
            _measure_again(folder, f"statistics [{number}/{len(missing)}]")
        except StplError as error:
            refused.append(error)
    for other in refused[1:]:
        print(other, file=sys.stderr)
    if refused:
        raise refused[0]


def _measure_again(folder: Path, title: str) -> None:
    record = read_record(folder)
    assert record is not None
    last = _last(folder)
    content = weights.read(last)
    check_mark(content, mark_in(folder, key_of(record)), last)
    settings = ["--start_from=null", f"--model.init_args.checkpoint={last}", "--run.wandb=disabled"]
    cli, _ = build([f"--config={folder / CONFIG}", *settings])
    if cli.datamodule.domain == "source":
        return
    buffers = dict(cli.model.named_buffers())
    for name, values in content.get("running_statistics", {}).items():  # those that the run ended with
        buffers[name].copy_(values)
    print(f"{title} {record['experiment']} seed {record['seed']}", file=sys.stderr)
    measure(cli, folder, record["last"]["step"])


def _last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"
