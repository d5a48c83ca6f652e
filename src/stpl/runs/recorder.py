"""What a run leaves behind: metrics line by line, checkpoints, and at the very end its record."""

import csv
import importlib.metadata
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from stpl import __version__
from stpl.errors import ConfigError, DivergedError, StoppedError
from stpl.files import whole_file, write_atomically, writing
from stpl.nn.finite import fault
from stpl.runs.artifacts import write_arrays
from stpl.runs.identity import MARK
from stpl.runs.record import METRICS, SCHEMA, Evaluation, RunKey, RunRecord, flat, read_metrics
from stpl.training import Method

SELECTION = "information maximisation, H(mean p) - mean H(p), on the unlabelled evaluation frames"
_PACKAGES = ("torch", "lightning", "torchmetrics", "albumentations", "opencv-python-headless", "numpy")


@dataclass(frozen=True)
class RunOptions:
    """Where a run belongs and what it leaves there.

    Attributes:
        bench: benchmark; the command line's `--bench` sets it.
        experiment: name of the experiment; the command line derives it from `--experiment` and the overridden settings.
        base: name of the overlay that the experiment's name began with.
        directory: the run's folder, if it is not to be `runs/<bench>/<experiment>/seed<k>`.
        inputs: setting → hash of the content of the files that it names; the run sets it.
        log_every: steps between two rows of losses in metrics.csv.
        checkpoint_every: steps between two resumable checkpoints.
        keep_all: also keep the checkpoint of every evaluation, as `step<n>.ckpt`.
        wandb: "disabled", "offline" (kept in the run's folder for `wandb sync`) or "online".
        compile: run the backbone through `torch.compile`; pays on GPUs in long runs, its first step takes minutes.
        cuda_graph: on one GPU, record the step once and replay it, if the method allows it (`Method.recordable`): the
            GPU then never waits for Python. No effect on the CPU, nor with several processes: DDP watches gradients.
        judge_labels: after the run, compare the pseudo-labels of its last round with the labels of the training split.
    """

    bench: str = "streets"
    experiment: str = "unnamed"
    base: str = "unnamed"
    directory: Path | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    log_every: int = 10
    checkpoint_every: int = 50
    keep_all: bool = False
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    compile: bool = False
    cuda_graph: bool = True
    judge_labels: bool = False

    def __post_init__(self) -> None:
        for name in ("log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{getattr(self, name)} is not a pace", where=f"run.{name}", mend="choose 1 or more")


class MetricsFile:
    """`metrics.csv`: `step,name,value` lines, appended and flushed one by one; the source of truth of all curves."""

    HEADER = ("step", "name", "value")

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line per value."""
        fresh = not self.path.exists()
        with writing(self.path, then="call again"), self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if fresh:
                writer.writerow(self.HEADER)
            writer.writerows((step, name, repr(value)) for name, value in values.items())

    def rewind(self, step: int) -> None:
        """Drop all lines after `step`, which a resumed run writes again, and those that are damaged."""
        if not self.path.exists():
            return
        kept = [f"{at},{name},{value!r}" for at, name, value in read_metrics(self.path) if at <= step]
        write_atomically(self.path, "\n".join([",".join(self.HEADER), *kept]) + "\n")


@dataclass
class Recorder(Callback):
    """Writes metrics and checkpoints while a run goes on, and keeps what its record will say.

    Metrics reach the trainer's loggers by Lightning, at the same pace, not from here.

    `last.ckpt` can be resumed from; `selected.ckpt` is the evaluation with the best label-free score and `best.ckpt`
    the one with the best mIoU on labels. All are replaced atomically.

    It also ends a run: one whose losses or weights are no longer finite, which is noticed where the device is read
    anyway, before each row of losses, checkpoint and evaluation; and one that something else asks to stop before its
    last step (`trainer.max_time`, a callback), once it is saved. It must be the last of the trainer's callbacks.

    Its `mark` is what checkpoints say of the run (`stpl.runs.identity`).
    """

    directory: Path
    options: RunOptions
    mark: Mapping[str, Any] = field(default_factory=dict)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    seconds: float = 0.0
    _started: float = 0.0

    def __post_init__(self) -> None:
        self.metrics = MetricsFile(self.directory / METRICS)
        self.checkpoints = self.directory / "checkpoints"
        self._started = time.monotonic()

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint to resume from."""
        return self.checkpoints / "last.ckpt"

    def checkpoint_of(self, step: int) -> Path:
        """The checkpoint of the evaluation at a step, if all are kept."""
        return self.checkpoints / f"step{step}.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know of the part before."""
        return {"evaluations": self.evaluations, "seconds": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.evaluations, self.seconds = state_dict["evaluations"], state_dict["seconds"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints replaced as a whole, unless a plugin of the user's own writes them."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = _WholeFiles()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark the checkpoint as one of this run."""
        checkpoint[MARK] = dict(self.mark)

    @property
    def elapsed(self) -> float:
        """Seconds of training and evaluation so far, over all sessions."""
        return self.seconds + time.monotonic() - self._started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Announce the length of the run, or forget the lines that will be written again.

        Not `on_fit_start`: the step of a resumed run is restored after that.
        """
        if not trainer.is_global_zero:
            return
        self.metrics.rewind(trainer.global_step)
        if trainer.global_step == 0:
            self.metrics.write(0, {"progress/steps": float(trainer.max_steps)})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log losses and save the resumable checkpoint, each at its own pace, and when the session is to end here."""
        step = trainer.global_step
        logs, saves = step % self.options.log_every == 0, step % self.options.checkpoint_every == 0
        if logs or saves:
            self._check_losses(trainer, pl_module)
        if logs:
            losses = {name: value.double() for name, value in (outputs or {}).items() if name != "loss"}
            values = torch.stack(list(losses.values())).tolist() if losses else []
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self._write(trainer, step, {"train/lr": rate, **dict(zip(losses, values, strict=True))})
        # A step that is evaluated is saved, and may be the last of a session, after its evaluation.
        if step % int(trainer.val_check_interval or 1):
            if saves or trainer.should_stop or (trainer.received_sigterm and trainer.world_size == 1):
                self._save(trainer, self.last_checkpoint)
            self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to measure a network that went off."""
        self._check_losses(trainer, pl_module)
        self._check_weights(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the evaluation, the checkpoints that it makes the best so far and, of the last one, its arrays."""
        assert isinstance(pl_module, Method)
        step = trainer.global_step
        if step >= trainer.max_steps and trainer.is_global_zero:
            for name, arrays in pl_module.evaluator.arrays().items():
                write_arrays(self.directory / f"{name}.npz", {**arrays, "step": np.array(step)})
        found = {"step": step, **pl_module.evaluation()}
        self.evaluations[step] = found
        self._write(trainer, step, {f"val/{name}": value for name, value in flat(found).items()})
        for name, criterion in (("selected", "score"), ("best", "miou")):
            chosen = self.chosen(criterion)
            if chosen is not None and chosen["step"] == step:
                self._save(trainer, self.checkpoints / f"{name}.ckpt")
        if self.options.keep_all:
            self._save(trainer, self.checkpoint_of(step))
        if trainer.state.fn == "fit" or trainer.max_steps == 0:
            self._save(trainer, self.last_checkpoint)
        if trainer.state.fn == "fit":
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        """End the session here: Lightning would evaluate once more, at a step that is none of the run's evaluations."""
        if trainer.should_stop and trainer.global_step < trainer.max_steps:
            raise self.stopped(trainer)

    def stopped(self, trainer: Trainer) -> StoppedError:
        """What to say of a run that ends before its last step."""
        what = f"stopped at step {trainer.global_step} of {trainer.max_steps}, not recorded"
        return StoppedError(what, where=self.directory, mend="call again: it goes on from its last checkpoint")

    def _check_losses(self, trainer: Trainer, method: LightningModule) -> None:
        """Raise `DivergedError` if any loss so far was not finite in any process."""
        assert isinstance(method, Method)
        watch = method.loss_watch
        found = watch.described(trainer.strategy.reduce(watch.first(method.device), reduce_op="min"))
        if found is not None:
            raise self._diverged(f"the loss '{found[1]}' is not finite at step {found[0]}")

    def _check_weights(self, trainer: Trainer) -> None:
        """Raise `DivergedError` if the weights or statistics are of no use."""
        found = fault(trainer.lightning_module.state_dict())
        if found is not None:
            raise self._diverged(f"the network went off by step {trainer.global_step}: {found}")

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"{what}; not recorded",
            where=self.directory,
            mend="lower optimizer.lr, or raise the temperature of a contrast; trainer.precision=32-true rules out"
            " overflow. last.ckpt, if there, is from before",
        )

    def chosen(self, criterion: str) -> Evaluation | None:
        """The evaluation with the highest `criterion`, a name of `flat`'s (the earliest of equals); `None` if none."""
        scored = [(value, e) for e in self.evaluations.values() if (value := flat(e).get(criterion)) is not None]
        best = max(scored, key=lambda item: (item[0], -item[1]["step"]), default=None)
        return None if best is None else best[1]

    def selections(self) -> dict[str, Evaluation]:
        """For each label-free score, the evaluation where it is highest."""
        names = dict.fromkeys(name for e in self.evaluations.values() for name in e.get("scores", {}))
        return {name: chosen for name in names if (chosen := self.chosen(name)) is not None}

    def record(self, key: RunKey, overrides: dict[str, str], classes: list[str]) -> RunRecord:
        """The run's record, which ends here; to be written once everything else is on disk."""
        last = self.evaluations[max(self.evaluations)]
        return {
            "schema": SCHEMA,
            "bench": key.bench,
            "experiment": key.experiment,
            "seed": key.seed,
            "base": self.options.base,
            "overrides": overrides,
            "classes": classes,
            "steps": last["step"],
            "seconds": round(self.elapsed, 2),
            "peak_memory_mb": peak_memory_mb(),
            "selection": SELECTION,
            "last": last,
            "selected": self.chosen("score"),
            "best": self.chosen("miou"),
            "selections": self.selections(),
            "versions": versions(),
            "git": git_commit(),
            "command": sys.argv,
        }

    def _write(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        if trainer.is_global_zero:
            self.metrics.write(step, values)

    def _save(self, trainer: Trainer, path: Path) -> None:
        self._check_weights(trainer)
        with writing(path, then="call again"):
            trainer.save_checkpoint(path, weights_only=False)


class _WholeFiles(TorchCheckpointIO):
    """Lightning would write into the system's folder for temporary files first, which may be small, and then copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; Lightning itself writes to other file systems, such as s3://, of a user's callback."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole_file(Path(path), then="call again") as file:
            torch.save(checkpoint, file)


def peak_memory_mb() -> float:
    """Peak memory of this process: of the GPU if there is one, else resident, in MiB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kibibytes / (2**20 if sys.platform == "darwin" else 2**10), 1)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": sys.version.split()[0], "stpl": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # its import name may come from another distribution
            found[package] = "unknown"
    return found


def git_commit() -> str | None:
    """Commit of the code that runs, with `+` if files differ from it; `None` outside a repository."""
    here = Path(__file__).parent
    if not (here.parents[2] / "pyproject.toml").is_file():
        return None  # installed: the repository around it, if any, is another program's
    try:
        call = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
