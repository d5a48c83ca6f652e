"""`stpl fit` and `stpl test`: a configuration in, a recorded run out."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch.plugins.precision import Precision

from stpl.data.clip import Wants
from stpl.data.label_space import label_space
from stpl.data.pseudo_labels import last_round
from stpl.errors import ConfigError, note, refusals
from stpl.nn import weights
from stpl.runs.build import SuiteCLI, build, build_request
from stpl.runs.folder import run_folder
from stpl.runs.identity import check_mark, keep_settings, mark_of
from stpl.runs.precision import computes_right, has_grouped_convolutions
from stpl.runs.record import read_record, write_record
from stpl.runs.request import Request
from stpl.runs.tracking import Tracking
from stpl.runs.trainer import (
    callbacks_of,
    check_command_line,
    check_steps,
    ended_together,
    records_steps,
    signals_raised,
)
from stpl.runs.weights_statistics import measure
from stpl.training.label_quality import judge
from stpl.training.offline_pseudo_labels import OfflinePseudoLabels


def fit(args: Sequence[str]) -> Path:
    """Run what the command line after `stpl fit` says to its end, from its last checkpoint if any, and record it.

    Returns:
        The run's folder. A run that is recorded already is left as it is.

    Raises:
        StplError: for a mistake in configuration, data or checkpoint; nothing is recorded then.
    """
    cli, request = build(args)
    recorder, directory = cli.recorder, cli.recorder.directory
    if (record := read_record(directory)) is not None:
        if cli.tracking is not None and "WANDB_SWEEP_ID" in os.environ:
            cli.tracking.replay(record, recorder.metrics.path)
        print(f"{directory} is recorded already; delete the folder to run it again", file=sys.stderr)
        return directory
    check_command_line(cli.trainer, args)
    check_steps(cli.trainer)
    _check_judged(cli)
    if not cli.trainer.is_global_zero:
        settle_precision(cli)
        run(cli)
        measure(cli, directory, cli.trainer.global_step)
        return directory
    with run_folder(directory), ended_together(cli.trainer), _failures_reported(cli.tracking):
        begin(cli)
        run(cli)
        if cli.datamodule.labelled:
            overrides = {k: v for k, v in request.overrides.items() if not k.startswith("run.")}
            record = recorder.record(cli.key, overrides, list(cli.model.options.space.classes))
            if recorder.options.judge_labels:
                record["last"]["pseudo_labels"] = _judged(cli, directory)
            measure(cli, directory, cli.trainer.global_step)
            write_record(directory, record)
        if cli.tracking is not None:
            cli.tracking.finish(read_record(directory))
    return directory


def _check_judged(cli: SuiteCLI) -> None:
    """Refuse to judge pseudo-labels where there will be none, or nothing to compare them with.

    Raises:
        ConfigError: the method makes none, or the data has no labels.
        DataError: the first clip that is trained on has no label.
    """
    if not cli.recorder.options.judge_labels:
        return
    makes = isinstance(cli.model, OfflinePseudoLabels) and cli.model.labels is None
    if not (makes and cli.datamodule.labelled):
        what = f"{type(cli.model).__name__} makes no pseudo-labels of a whole split that has labels to compare with"
        raise ConfigError(what, where="run.judge_labels", mend="leave it out, or choose such a method, as IAST or VST")
    cli.datamodule.reader("train", "target").require(Wants(labels=(0,)))


def _judged(cli: SuiteCLI, folder: Path) -> dict[str, float]:
    """What the labels of a run's last round are worth; the labels of the training split are opened for this alone."""
    made = last_round(folder)
    assert made is not None  # the run has ended
    return judge(made, cli.datamodule.reader("train", "target"), cli.model.options.space)


def begin(cli: SuiteCLI) -> None:
    """Make the run's folder, with the settings in it; or see that the run that is there began with the same.

    Raises:
        ConfigError: naming the settings that differ.
    """
    settle_precision(cli)
    recorder = cli.recorder
    recorder.mark = mark_of(cli.key, cli.settings)
    keep_settings(recorder.directory, recorder.last_checkpoint, cli.settings)
    recorder.checkpoints.mkdir(parents=True, exist_ok=True)
    for torn in recorder.checkpoints.glob(".*.partial"):  # of a session that was killed while it wrote one
        torn.unlink()


def settle_precision(cli: SuiteCLI) -> None:
    """Fall back to float32 where bfloat16, which nobody asked for, does not compute the network at hand right.

    On a CPU alone: on a GPU, sums in another order differ in their last bits, and that is no fault. Several processes
    must decide alike, so they go by the kind of network and do not measure.
    """
    trainer, model = cli.trainer, cli.model
    if cli.chosen_precision != "bf16-mixed" or trainer.strategy.root_device.type != "cpu" or trainer.max_steps < 1:
        return
    if trainer.world_size > 1:
        right = not has_grouped_convolutions(model.network)
    else:
        frame = cli.datamodule.reader("train").read(0, Wants(frames=(0,))).frames[0]
        frames = torch.stack([frame, frame.flip(-1)][: cli.datamodule.loading.batch_size])
        right = computes_right(model.network, frames, trainer.precision_plugin.train_step_context)
    if right:
        return
    note("bfloat16 gives this network wrong gradients on this CPU, so it is 32-true", where="trainer.precision")
    cli.config.trainer.precision = "32-true"
    trainer.strategy.precision_plugin = Precision()
    if cli.tracking is not None:
        cli.tracking.config["trainer"]["precision"] = "32-true"


@contextmanager
def _failures_reported(tracking: Tracking | None) -> Iterator[None]:
    """Tell W&B of a run that fails."""
    try:
        yield
    except Exception:
        if tracking is not None:
            tracking.fail()
        raise


def evaluate(args: Sequence[str]) -> None:
    """Evaluate a checkpoint by the command line after `stpl test` and print its IoU per class; nothing is recorded.

    Raises:
        StplError: for a mistake in configuration, data or checkpoint.
    """
    request = Request.parse(args)
    if "network" not in request.overrides:
        raise ConfigError("no network is named", where="--network", mend="give its checkpoint: --network=FILE")
    cli = build_evaluation(request)
    if not cli.datamodule.labelled:
        raise ConfigError(f"{request.bench} has no labels to evaluate on", mend="choose another --bench")
    check_command_line(cli.trainer, args)
    with ended_together(cli.trainer), refusals("trainer", among="lightning"), signals_raised(cli.trainer):
        cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
        found = cli.model.evaluation()
    if not cli.trainer.is_global_zero:
        return
    for name, value in {**found["iou"], "mIoU": found["miou"], "pixel accuracy": found["accuracy"]}.items():
        if value is not None:
            print(f"{name:<16}{value:6.2f}")


def build_evaluation(request: Request) -> SuiteCLI:
    """The network of the checkpoint that `request` names, built as the checkpoint describes it, and nothing recorded.

    What the request says of the network wins, so that `network.label_space` can choose another protocol of evaluation.

    Raises:
        StplError: for a mistake in configuration, data or checkpoint.
    """
    checkpoint = request.overrides.pop("network")
    network = weights.describe(Path(checkpoint), request.overrides.pop("builder", None)).to_dict()
    request.experiment = "source_only"
    written = {f"network.{name}": json.dumps(value) for name, value in network.items()}
    request.overrides = {name: value.strip('"') for name, value in written.items()} | request.overrides
    request.overrides |= {"start_from": "null", "model.init_args.checkpoint": checkpoint}
    cli = build_request(request)
    check_steps(cli.trainer)
    _match_labels(cli)
    callbacks_of(cli.trainer).remove(cli.recorder)
    return cli


def _match_labels(cli: SuiteCLI) -> None:
    """Refuse a network that predicts other classes than the data set labels; else its space decides what is ignored."""
    network, data = cli.model.options.space, cli.datamodule.space_name
    if data is None:
        return
    if network.classes != label_space(data).classes:
        what = f"the network predicts {network.name}, the data set has labels of {data}"
        raise ConfigError(what, mend="set network.label_space to it")
    cli.datamodule.space_name = network.name  # viper15-unified has viper15's classes, and ignores riders


def run(cli: SuiteCLI) -> None:
    """Evaluate the starting point, then train; or go on where the last checkpoint stands."""
    trainer, last = cli.trainer, cli.recorder.last_checkpoint
    resume = last.is_file() and trainer.max_steps > 0
    cli.model.folder = cli.recorder.directory
    _match_labels(cli)
    if cli.recorder.options.compile:
        cli.model.network.segmenter.encoder.compile()
    if cli.recorder.options.cuda_graph and cli.model.recordable and records_steps(trainer):
        cli.model.record_step()
    if resume:  # a torn file is no defect, and one that diverged from a run that may go on
        content = weights.read(last)
        check_mark(content, cli.recorder.mark, last)
        weights.check_finite(content.get("state_dict", {}), last)
    with refusals("trainer", among="lightning"), signals_raised(trainer):
        if not resume:
            if trainer.is_global_zero:
                cli.recorder.metrics.path.unlink(missing_ok=True)  # of a session that ended before its first checkpoint
            trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    if trainer.max_steps > 0:
        with refusals("trainer", among="lightning"), signals_raised(trainer):
            trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=str(last) if resume else None)
        if trainer.global_step < trainer.max_steps:
            raise cli.recorder.stopped(trainer)
