"""From a command line to everything that it describes: network, data, trainer and recorder, built and not yet run.

`stpl.runs.request` expands the command line; LightningCLI parses it and builds everything.
"""

import importlib.metadata
import inspect
import logging
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from stpl.data.datamodule import ClipDataModule
from stpl.data.pseudo_labels import last_round
from stpl.errors import ConfigError, refusals
from stpl.machine import find_own_modules
from stpl.nn import weights
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.network import NetworkOptions
from stpl.runs.identity import check_mark, inputs, kept_settings
from stpl.runs.mistakes import explained
from stpl.runs.precision import hardware_precision
from stpl.runs.record import RunKey, runs_root
from stpl.runs.recorder import Recorder, RunOptions
from stpl.runs.request import Request
from stpl.runs.shipped import BENCH, EXPERIMENT, source_model
from stpl.runs.tracking import Tracking, wandb_logger
from stpl.runs.trainer import SessionTimer, build_trainer
from stpl.training import Method, OptimizerOptions

_FROM_OTHER_RUNS = (
    ("start_from", str | None, "Experiment of the same benchmark whose last checkpoint is the starting point, e.g."
        " source; model.checkpoint wins."),
    ("start_seed", int | None, "Seed of that run; this run's own if not given."),
    ("source_bench", str | None, "Benchmark whose source models serve as long as this one has none of its own."),
    ("labels_from", str | None, "Experiment of the same benchmark and seed whose last round of pseudo-labels is"
        " trained on; model.labels wins."),
    ("ensemble_from", list[str] | None, "Experiments of the same benchmark and seed whose last checkpoints label the"
        " target together; model.ensemble wins."),
)  # fmt: skip
"""Settings that begin with what other runs left: name, type, help."""


class SuiteCLI(LightningCLI):
    """LightningCLI with the suite's own groups: `network`, `optimizer`, `batchnorm` and `run`.

    Attributes:
        tracking: `None` if nobody asked for W&B.
        chosen_precision: what the hardware is fast in, if neither the user nor an earlier session said which precision.
    """

    recorder: Recorder
    key: RunKey
    tracking: Tracking | None
    chosen_precision: str | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Declare the groups and link them to those who use them."""
        for name, kind, meaning in _FROM_OTHER_RUNS:
            parser.add_argument(f"--{name}", type=kind, default=None, help=meaning)
        parser.add_class_arguments(RunOptions, "run")
        groups = {"network": NetworkOptions, "optimizer": OptimizerOptions, "batchnorm": BatchNormOptions}
        for name, options in groups.items():
            parser.add_class_arguments(options, name)
            parser.link_arguments(name, f"model.init_args.{name}")
        parser.link_arguments("seed_everything", "data.init_args.sampling_seed")

    def before_instantiate_classes(self) -> None:
        """Settle what depends on the machine or on other runs, so that config.yaml has it."""
        trainer = self.config.trainer
        if trainer.accelerator == "auto" and not torch.cuda.is_available():
            trainer.accelerator = "cpu"  # Apple's GPU has no float64, which the metrics need
        trainer.precision = trainer.precision or self._precision_before()
        if trainer.precision is None:
            trainer.precision = self.chosen_precision = hardware_precision(trainer.accelerator)
        model, seed = self.config.model.get("init_args", {}), self.config.seed_everything
        source, names, labels = self.config.start_from, self.config.ensemble_from, self.config.labels_from
        if source is not None and model.get("checkpoint") is None:
            start = seed if self.config.start_seed is None else self.config.start_seed
            self._begin("start_from", "checkpoint", self._start(self._key(source, start)))
        if names is not None and not model.get("ensemble"):
            self._begin("ensemble_from", "ensemble", [self._start(self._key(name, seed)) for name in names])
        if labels is not None and model.get("labels") is None:
            self._begin("labels_from", "labels", last_labels(self._key(labels, seed)))
        self.config.run.inputs = inputs(self.settings)

    def _start(self, run: RunKey) -> Path:
        """The last checkpoint of a run, or where it is a source model that this benchmark lacks, `source_bench`'s."""
        bench = self.config.source_bench
        if bench is not None and run.experiment == EXPERIMENT and run.read(runs_root()) is None:
            run = replace(run, bench=bench)
        return starting_point(run)

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings in plain types, nested."""
        return dict(yaml.safe_load(self.parser.dump(self.config, skip_validation=True)))

    def _begin(self, option: str, name: str, value: Any) -> None:
        """Set what the method begins with; raises `ConfigError` if it takes no such thing."""
        model = self.config.model
        if name in model.get("init_args", ()):
            model.init_args[name] = value
            return
        kind = import_module(model.class_path.rpartition(".")[0])
        parameters = inspect.signature(getattr(kind, model.class_path.rpartition(".")[2])).parameters.values()
        if name == "checkpoint" and any(item.kind == item.VAR_KEYWORD for item in parameters):
            # Where `**options` leads is not known; the parser writes what it does not know, and writes no Path.
            model["dict_kwargs"] = {**model.get("dict_kwargs", {}), name: str(value)}
            return
        mend = f"set {option} to null, or give the method's constructor a parameter {name}"
        raise ConfigError(f"{model.class_path} takes no '{name}'", where=option, mend=mend)

    def _precision_before(self) -> str | None:
        """The precision that the run began with, if it goes on: that of this machine may be another."""
        run = self.config.run
        key = self._key(run.experiment, self.config.seed_everything)
        directory = Path(run.directory or key.directory(runs_root()))
        with suppress(ConfigError):  # it is reported when the run goes on; one that is recorded needs none
            before = kept_settings(directory, directory / "checkpoints" / "last.ckpt")
            return None if before is None else before.get("trainer", {}).get("precision")
        return None

    def _key(self, experiment: str, seed: int) -> RunKey:
        return RunKey(self.config.run.bench, experiment, int(seed))

    def _set_seed(self) -> None:
        """Seed all generators; torch and NumPy say which numbers they take."""
        with refusals("seed_everything", mend="choose another seed"):
            super()._set_seed()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Trainer with the recorder; only the first of several processes sends to W&B."""
        options: RunOptions = self.config_init.run
        self.key = self._key(options.experiment, self.config.seed_everything)
        self.recorder = Recorder(options.directory or self.key.directory(runs_root()), options)
        settings = dict(self.config_init.trainer)
        settings["default_root_dir"] = settings["default_root_dir"] or self.recorder.directory
        first = vars(rank_zero_only)["rank"] == 0
        logger = wandb_logger(options, self.recorder.directory, self.key) if first else None
        self.tracking = None if logger is None else Tracking(logger, self.settings)
        extra: list[Callback] = [self.tracking] if self.tracking else []
        if settings["max_time"] is not None:
            with refusals("trainer.max_time"):
                extra.append(SessionTimer(settings.pop("max_time")))
        settings["callbacks"] = [*extra, *(settings["callbacks"] or []), self.recorder]
        settings["logger"], settings["log_every_n_steps"] = logger or False, options.log_every
        synchronized: bool = self.config_init.batchnorm.synchronized
        return build_trainer(settings, synchronized=synchronized, leaves_idle=self.model.leaves_idle)


CLI_OPTIONS: dict[str, Any] = {
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
    """What a command line (after its verb) describes, built and not yet run; raises as `build_request` does."""
    request = Request.parse(args)
    return build_request(request), request


class _Parser(SuiteCLI):
    """Parses a command line and builds nothing."""

    def before_instantiate_classes(self) -> None:
        """Settle nothing."""

    def instantiate_classes(self) -> None:
        """Build nothing."""


def parse(args: Sequence[str]) -> None:
    """Check names and types of all settings of a command line after `stpl fit`, but not what only building shows.

    Raises:
        StplError: for the first setting that is wrong.
    """
    build_request(Request.parse(args), _Parser)


def print_settings() -> None:
    """Print all settings that there are, with their help, and end the program."""
    SuiteCLI(Method, ClipDataModule, **CLI_OPTIONS, args=["--help"])


def build_request(request: Request, kind: type[SuiteCLI] = SuiteCLI) -> SuiteCLI:
    """What a request describes, built; raises `StplError` for anything in it that cannot be used."""
    _quiet()
    import_module("stpl.methods")
    find_own_modules()
    for point in importlib.metadata.entry_points(group="stpl.methods"):  # methods of other packages
        with refusals(f"entry point {point.name}", mend=f"mend or uninstall {point.value}"):
            point.load()
    with refusals():
        try:
            return kind(Method, ClipDataModule, **CLI_OPTIONS, args=request.arguments())
        except (Exception, SystemExit) as error:
            mistake = explained(error, request)
            if mistake is error:
                raise
            raise mistake from None


def starting_point(run: RunKey) -> Path:
    """The last checkpoint of a run, or where that is not recorded, the shipped model that stands for it."""
    if run.bench == BENCH and run.experiment == EXPERIMENT and run.read(runs_root()) is None:
        return source_model(run.seed)
    path = run.directory(runs_root()) / "checkpoints" / "last.ckpt"
    if path.is_file():
        check_mark(weights.read(path), {"bench": run.bench, "experiment": run.experiment, "seed": run.seed}, path)
    return path


def last_labels(run: RunKey) -> Path:
    """The folder of the pseudo-labels of a run's last round; raises `ConfigError` if there are none."""
    found = last_round(run.directory(runs_root()))
    if found is None:
        call = f"stpl fit --bench={run.bench} --experiment={run.experiment} --seed_everything={run.seed}"
        raise ConfigError(f"{run} made no pseudo-labels", where="labels_from", mend=f"run it first: {call}")
    return found


def _quiet() -> None:
    """Keep Lightning's log to what a user can act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ignored = (
        "LightningCLI's args parameter is intended",  # the arguments do come from the command line, expanded
        "Found .* in eval mode at the start of training",  # frozen BatchNorm
        ".*does not have many workers",  # reading is cheap beside the step; data.loading.num_workers decides
        ".*`training_step` returned `None`",  # that is how a method says it has nothing to minimise
        ".*does not have a deterministic implementation",  # of networks of users, where it is asked to warn alone
        "\\s*Dump of a value that does not round-trip",  # of options without types, in a method of the user's own
        ".*treespec, LeafSpec.* is deprecated",  # Lightning 2.6 calling torch 2.13
    )
    for message in ignored:
        warnings.filterwarnings("ignore", message)
