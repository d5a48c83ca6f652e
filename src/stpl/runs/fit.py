"""`stpl fit` and `stpl test`: a configuration in, a recorded run out.

`stpl.runs.request` expands the command line; LightningCLI parses it and builds everything.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError
from lightning import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from stpl.arguments import explain, refused_key
from stpl.data.datamodule import ClipDataModule
from stpl.data.label_space import label_space
from stpl.errors import ConfigError, StplError, refusals
from stpl.methods import Method, OptimizerOptions
from stpl.nn import weights
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.network import NetworkOptions
from stpl.runs.devices import build_trainer, check_command_line, ended_together, records_steps
from stpl.runs.record import RunKey, RunLock, read_record, runs_root
from stpl.runs.recorder import Recorder, RunOptions
from stpl.runs.request import Request, evaluation_help
from stpl.runs.shipped import source_model
from stpl.runs.sitting import SittingTimer, begun_with, check_steps, keep_settings, signals_told
from stpl.runs.tracking import Tracking, wandb_logger


class SuiteCLI(LightningCLI):
    """LightningCLI with the suite's own groups: `network`, `optimizer`, `batchnorm` and `run`.

    Attributes:
        recorder: writes into the run's folder.
        key: identity of the run.
        tracking: sends to W&B what the recorder does not; `None` if nobody asked for it.
    """

    recorder: Recorder
    key: RunKey
    tracking: Tracking | None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Declare the groups and link them to those who use them."""
        parser.add_argument(
            "--start_from",
            type=str | None,
            default=None,
            help="Experiment of the same benchmark whose last checkpoint is the starting point, e.g. source;"
            " model.checkpoint wins.",
        )
        parser.add_argument(
            "--start_seed", type=int | None, default=None, help="Seed of that run; this run's own if not given."
        )
        parser.add_class_arguments(RunOptions, "run")
        parser.add_class_arguments(NetworkOptions, "network")
        parser.add_class_arguments(OptimizerOptions, "optimizer")
        parser.add_class_arguments(BatchNormOptions, "batchnorm")
        parser.link_arguments("network", "model.init_args.network")
        parser.link_arguments("optimizer", "model.init_args.optimizer")
        parser.link_arguments("batchnorm", "model.init_args.batchnorm")
        parser.link_arguments("seed_everything", "data.init_args.sampling_seed")

    def before_instantiate_classes(self) -> None:
        """Settle what depends on the machine or on other runs, so that config.yaml tells it."""
        trainer = self.config.trainer
        if trainer.accelerator == "auto" and not torch.cuda.is_available():
            trainer.accelerator = "cpu"  # Apple's GPU has no float64, which the metrics need
        trainer.precision = trainer.precision or self._precision_before() or hardware_precision(trainer.accelerator)
        source, model = self.config.start_from, self.config.model.init_args
        if source is not None and model.get("checkpoint") is None:
            seed = self.config.seed_everything if self.config.start_seed is None else self.config.start_seed
            model["checkpoint"] = starting_point(RunKey(self.config.run.bench, source, int(seed)))

    def _precision_before(self) -> str | None:
        """The precision that the run began with, if it goes on: that of this machine may be another."""
        run = self.config.run
        directory = Path(run.directory or self._key(run).directory(runs_root()))
        with suppress(ConfigError):  # it is told when the run goes on; one that is recorded needs none
            before = begun_with(directory, directory / "checkpoints" / "last.ckpt")
            return None if before is None else before.get("trainer", {}).get("precision")
        return None

    def _key(self, run: Any) -> RunKey:
        return RunKey(run.bench, run.experiment, int(self.config.seed_everything))

    def _set_seed(self) -> None:
        """Seed all generators; torch and NumPy say which numbers they take."""
        with refusals("seed_everything", mend="choose another seed"):
            super()._set_seed()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Trainer with the recorder; only the first of several processes sends to W&B."""
        options: RunOptions = self.config_init.run
        self.key = self._key(options)
        self.recorder = Recorder(options.directory or self.key.directory(runs_root()), options)
        settings = dict(self.config_init.trainer)
        first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
        logger = wandb_logger(options, self.recorder.directory, self.key) if first else None
        self.tracking = None if logger is None else Tracking(logger, yaml.safe_load(self.parser.dump(self.config)))
        extra: list[Callback] = [self.tracking] if self.tracking else []
        if settings["max_time"] is not None:
            with refusals("trainer.max_time"):
                extra.append(SittingTimer(settings.pop("max_time")))
        settings["callbacks"] = [*extra, *(settings["callbacks"] or []), self.recorder]
        settings["logger"] = logger or False
        synchronized: bool = self.config_init.batchnorm.synchronized
        return build_trainer(settings, synchronized=synchronized, leaves_idle=self.model.leaves_idle)


_CLI: dict[str, Any] = {
    "subclass_mode_model": True,
    "subclass_mode_data": True,
    "auto_configure_optimizers": False,
    "save_config_callback": None,
    "seed_everything_default": 0,
    "parser_kwargs": {"exit_on_error": False, "allow_abbrev": False},
    "trainer_defaults": {
        "num_sanity_val_steps": 0,  # the run evaluates its starting point itself
        "enable_model_summary": False,
        "enable_checkpointing": False,  # the recorder does it
        "inference_mode": False,  # metric states made in it could not be updated in training
        "use_distributed_sampler": False,  # it repeats clips until all processes have as many; ours does not
    },
    "run": False,
}


def build(args: Sequence[str]) -> tuple[SuiteCLI, Request]:
    """Everything that a command line describes, built and not yet run.

    Args:
        args: the command line after the verb.

    Raises:
        StplError: for anything in the configuration that cannot be used.
    """
    request = Request.parse(args)
    return _build(request), request


class _Parser(SuiteCLI):
    """Parses a command line and builds nothing."""

    def before_instantiate_classes(self) -> None:
        """Settle nothing."""

    def instantiate_classes(self) -> None:
        """Build nothing."""


def parse(args: Sequence[str]) -> None:
    """Check names and types of all settings of a command line, but not what only building tells, such as ranges.

    Args:
        args: the command line after `stpl fit`.

    Raises:
        StplError: for the first setting that is wrong.
    """
    _build(Request.parse(args), _Parser)


def _build(request: Request, kind: type[SuiteCLI] = SuiteCLI) -> SuiteCLI:
    _quiet()
    with refusals():
        try:
            return kind(Method, ClipDataModule, **_CLI, args=request.arguments())
        except ArgumentError as error:
            where = request.file_with(refused_key(error))
            raise ConfigError(explain(error), where=where, mend="mend the setting, or see `stpl fit --help`") from error
        except ValueError as error:
            raise _user_mistake(error) from None


def starting_point(run: RunKey) -> Path:
    """The last checkpoint of a run, or where that is not recorded, the shipped model that stands for it."""
    if run.bench == "streets" and run.experiment == "source" and run.read(runs_root()) is None:
        return source_model(run.seed)
    return run.directory(runs_root()) / "checkpoints" / "last.ckpt"


def fit_command(args: Sequence[str]) -> None:
    """`stpl fit`: `fit`, or all settings.

    Args:
        args: the command line after `stpl fit`.
    """
    if "--help-all" in args:
        SuiteCLI(Method, ClipDataModule, **_CLI, args=["--help"])
    else:
        fit(args)


def fit(args: Sequence[str]) -> Path:
    """Run an experiment to its end, from its last checkpoint if there is one, and record it.

    Args:
        args: the command line after `stpl fit`.

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
    if not cli.trainer.is_global_zero:
        run(cli)
        return directory
    with RunLock(directory), ended_together(cli.trainer), _failures_told(cli.tracking):
        begin(cli)
        run(cli)
        if cli.datamodule.labelled:
            overrides = {k: v for k, v in request.overrides.items() if not k.startswith("run.")}
            recorder.write_record(cli.key, overrides, list(cli.model.options.space.classes))
        if cli.tracking is not None:
            cli.tracking.finish(read_record(directory))
    return directory


def begin(cli: SuiteCLI) -> None:
    """Make the run's folder, with the settings in it; or see that the run that is there began with the same.

    Raises:
        ConfigError: naming the settings that differ.
    """
    recorder, text = cli.recorder, cli.parser.dump(cli.config)
    recorder.checkpoints.mkdir(parents=True, exist_ok=True)
    keep_settings(recorder.directory, recorder.last_checkpoint, yaml.safe_load(text), text)


@contextmanager
def _failures_told(tracking: Tracking | None) -> Iterator[None]:
    """Tell W&B of a run that fails."""
    try:
        yield
    except Exception:
        if tracking is not None:
            tracking.fail()
        raise


def evaluate(args: Sequence[str]) -> None:
    """`stpl test`: evaluate a checkpoint and print its IoU per class; nothing is recorded.

    Args:
        args: the command line after `stpl test`.

    Raises:
        StplError: for a mistake in configuration, data or checkpoint.
    """
    request = Request.parse(args)
    if "checkpoint" not in request.overrides:
        print(evaluation_help())
        return
    cli = build_evaluation(request)
    if not cli.datamodule.labelled:
        raise ConfigError(f"{request.bench} has no labels to evaluate on", mend="choose another --bench")
    check_command_line(cli.trainer, args)
    with ended_together(cli.trainer), refusals("trainer", among="lightning"), signals_told(cli.trainer):
        cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
        found = cli.model.evaluation()
    if not cli.trainer.is_global_zero:
        return
    rows = [(name, iou) for name, iou in found["iou"].items() if iou is not None]
    for name, value in [*rows, ("mIoU", found["miou"]), ("pixel accuracy", found["accuracy"])]:
        print(f"{name:<16}{value:6.2f}")


def build_evaluation(request: Request) -> SuiteCLI:
    """The network of the checkpoint that `request` names, built as the checkpoint describes it, and nothing recorded.

    Args:
        request: a command line with `checkpoint`; what it says of the network wins over the checkpoint's description,
            so that `network.label_space` can choose another protocol of evaluation.

    Raises:
        StplError: for a mistake in configuration, data or checkpoint.
    """
    checkpoint = request.overrides.pop("checkpoint")
    network = weights.describe(Path(checkpoint)).to_dict()
    request.experiment = "source_only"
    request.overrides = {f"network.{name}": str(value) for name, value in network.items()} | request.overrides
    request.overrides |= {"start_from": "null", "model.init_args.checkpoint": checkpoint}
    cli = _build(request)
    check_steps(cli.trainer)
    _match_labels(cli)
    cli.trainer.callbacks.remove(cli.recorder)  # type: ignore[attr-defined]
    return cli


def _match_labels(cli: SuiteCLI) -> None:
    """Refuse a network that predicts other classes than the data set labels; else its space decides what is ignored."""
    network, data = cli.model.options.space, cli.datamodule.space_name
    if data is None:
        return
    if network.classes != label_space(data).classes:
        raise ConfigError(
            f"the network predicts {network.name}, the data set has labels of {data}",
            mend="set network.label_space to it",
        )
    cli.datamodule.space_name = network.name  # viper15-unified has viper15's classes, and ignores riders


def run(cli: SuiteCLI) -> None:
    """Evaluate the starting point, then train; or go on where the last checkpoint stands."""
    trainer, last = cli.trainer, cli.recorder.last_checkpoint
    check_steps(trainer)
    _match_labels(cli)
    if cli.recorder.options.compile:
        cli.model.network.segmenter.encoder.compile()
    if cli.recorder.options.cuda_graph and cli.model.recordable and records_steps(trainer):
        cli.model.record_step()
    resume = last.is_file()
    if resume:  # a torn file is told from a defect, and one that diverged from a run that may go on
        weights.check_finite(weights.read(last).get("state_dict", {}), last)
    with refusals("trainer", among="lightning"), signals_told(trainer):
        if not resume:
            if trainer.is_global_zero:
                cli.recorder.metrics.path.unlink(missing_ok=True)  # of a sitting that ended before its first checkpoint
            trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    if trainer.max_steps > 0:
        with refusals("trainer", among="lightning"), signals_told(trainer):
            trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=str(last) if resume else None)
        if trainer.global_step < trainer.max_steps:
            raise cli.recorder.stopped(trainer)


def _user_mistake(error: BaseException) -> BaseException:
    """The `StplError` under an error of the parser, which wraps what constructors raise; else the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, StplError):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def _quiet() -> None:
    """Keep Lightning's log to what a user can act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ignored = (
        "LightningCLI's args parameter is intended",  # the arguments do come from the command line, expanded
        "Found .* in eval mode at the start of training",  # frozen BatchNorm
        ".*does not have many workers",  # reading is cheap beside the step; data.loading.num_workers decides
        ".*`training_step` returned `None`",  # that is how a method says it has nothing to minimise
        ".*treespec, LeafSpec.* is deprecated",  # Lightning 2.6 calling torch 2.13
    )
    for message in ignored:
        warnings.filterwarnings("ignore", message)


def hardware_precision(accelerator: str) -> str:
    """`bf16-mixed` where the accelerator ("cpu" or a GPU's) has units for bfloat16, `32-true` elsewhere."""
    if accelerator != "cpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    units = torch.cpu.get_capabilities()
    return "bf16-mixed" if units.get("avx512_bf16") or units.get("amx_bf16") else "32-true"
