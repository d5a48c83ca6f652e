"""Trainers on one device, or on several: one process each, by Lightning's DistributedDataParallel.

The first process starts the others of its node by its own command line, unless a launcher (torchrun, Slurm) did. Each
builds the same run; the first alone locks the run's folder and writes into it.
"""

import atexit
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from stpl.errors import ConfigError, Terminated, check_range, refusals
from stpl.machine import cores
from stpl.runs.request import PRECISIONS
from stpl.signals import ENDING_SIGNALS, heard

_PROCESSES_PER_CORE = 4
_PATIENCE_SECONDS = 60.0
"""How long the other processes may take to end after the first."""
_ALLOCATOR_VARIABLES = {"MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
# Others would turn the frames, which are bytes, into reals. The last three are older names of the first.
_PRECISIONS = (*PRECISIONS, "32", "16", "bf16")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def build_trainer(settings: dict[str, Any], *, synchronized: bool, leaves_idle: bool) -> Trainer:
    """A Trainer; if the settings name several devices, one that spreads the batch over them.

    Args:
        settings: of `Trainer`.
        synchronized: whether BatchNorm normalises by the batches of all processes.
        leaves_idle: whether some parameters may get no gradient.

    Raises:
        ConfigError: for what Lightning refuses, such as a GPU that is not there; another strategy or precision;
            synchronised BatchNorm without GPUs; or several nodes that nobody brings together.
    """
    # Where operations must be deterministic torch also fills all fresh memory, lest one reads it before writing. None
    # does here, and filling took a sixth of a training step on two cores.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    strategy = settings.get("strategy", "auto")
    if strategy not in ("auto", "ddp"):
        raise ConfigError(f"'{strategy}' is not supported", where="trainer.strategy", mend="use ddp, or leave it out")
    precision = settings.get("precision") or "32-true"
    if str(precision) not in _PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ConfigError(f"'{precision}' is not supported", where="trainer.precision", mend=f"use one of {known}")
    # Under Slurm, Lightning would save into the working directory when a signal comes, and go on from what lies there.
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect() and not settings.get("plugins"):
        settings = settings | {"plugins": [SLURMEnvironment(auto_requeue=False)]}
    with refusals("trainer"):
        trainer = Trainer(**settings)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    if trainer.world_size == 1:
        return trainer
    if synchronized and trainer.strategy.root_device.type == "cpu":
        what = "SyncBatchNorm exists for GPUs only"
        raise ConfigError(what, where="batchnorm.synchronized", mend="set it to false on the CPU")
    _check_nodes(trainer, settings.get("num_nodes", 1))
    most = _PROCESSES_PER_CORE * len(cores())
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > most:  # they start, and do not come forward
        what = f"{trainer.num_devices} processes are too many for {len(cores())} cores"
        raise ConfigError(what, where="trainer.devices", mend=f"choose {most} or fewer")
    # Which parameters have no gradient is looked for at every step (no `static_graph`): a batch may leave out more of
    # them than another. Buffers are not copied from the first process: that is a collective at every forward pass, of
    # which processes have unequal numbers in evaluation. `average_statistics` looks after the running statistics.
    strategy = DDPStrategy(find_unused_parameters=leaves_idle, forward_sync_buffers=False)
    return Trainer(**settings | {"strategy": strategy, "sync_batchnorm": synchronized})


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a trainer, which Lightning does not declare; changes of the list take effect."""
    return cast(list[Callback], vars(trainer)["callbacks"])


def records_steps(trainer: Trainer) -> bool:
    """Whether steps can be recorded as CUDA graphs: on one GPU, where nobody listens to the gradients one by one."""
    strategy = trainer.strategy
    return isinstance(strategy, SingleDeviceStrategy) and strategy.root_device.type == "cuda"


def _check_nodes(trainer: Trainer, nodes: int) -> None:
    """Refuse to wait in silence for nodes that no launcher starts and whose meeting place nobody named."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if nodes == 1 or not isinstance(environment, LightningEnvironment):
        return
    absent = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if absent:
        what = f"{nodes} nodes are to train together, and nothing starts them: {', '.join(absent)} not set"
        mend = "start it by torchrun or srun, or set these variables on every node"
        raise ConfigError(what, where="trainer.num_nodes", mend=mend)


def keep_freed_memory() -> None:
    """Have glibc's allocator keep what tensors on the CPU leave free, for the rest of this process.

    By default it maps large blocks one by one, returns the free end of its heap to the system after nearly every one of
    the others, and gets all of it back zeroed and page by page: up to a third of an STPL step at 512×1024 on two cores.
    Nothing happens with another C library, or where the environment sets up the allocator itself.
    """
    if sys.platform != "linux" or not _ALLOCATOR_VARIABLES.isdisjoint(os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def check_command_line(trainer: Trainer, args: Sequence[str]) -> None:
    """Refuse several devices where this process could not be started again for them.

    Raises:
        ConfigError: if this process was not started by `args`, the command line after its verb, but by a notebook, say.
    """
    strategy = trainer.strategy
    if trainer.world_size == 1 or not isinstance(strategy, DDPStrategy) or strategy.cluster_environment is None:
        return
    alone = not strategy.cluster_environment.creates_processes_externally
    if alone and sys.argv[-len(args) :] != list(args):
        what = f"{trainer.world_size} processes are started by a command line, and this run was not"
        raise ConfigError(what, where="trainer.devices", mend="call stpl in a terminal, or use one device")


@contextmanager
def ended_together(trainer: Trainer) -> Iterator[None]:
    """Leave no process of this node behind: wait for the others, or kill them if this one fails and they would wait."""
    # Lightning does this for NCCL only; gloo's threads abort a process that ends while they still run.
    atexit.register(_leave_group)
    try:
        yield
        others: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        for process in others:
            process.wait(_PATIENCE_SECONDS)
    except BaseException:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        raise


def _leave_group() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


class SessionTimer(Timer):
    """The timer of `trainer.max_time`, anew for each session of a run: its own would end a resumed run at once."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a resumed run has the whole time again."""
        return {}


def check_steps(trainer: Trainer) -> None:
    """Refuse what would have a run end at another step than its last, train on other clips, or not be evaluated.

    Raises:
        ConfigError: naming the setting of the trainer.
    """
    interval, steps = trainer.val_check_interval, trainer.max_steps
    if steps < 0:
        raise ConfigError(f"trainer.max_steps is {steps}", mend="set the number of steps")
    if trainer.limit_val_batches == 0:
        raise ConfigError("nothing would be evaluated", where="trainer.limit_val_batches", mend="choose 1 or more")
    if trainer.gradient_clip_val is not None:
        check_range("trainer.gradient_clip_val", trainer.gradient_clip_val)  # below 0 it would climb the loss
    for name, whole, mend in (
        ("accumulate_grad_batches", 1, "use data.loading.batch_size"),
        ("fast_dev_run", False, "set a small trainer.max_steps"),
        ("overfit_batches", 0.0, "leave it out"),
        ("limit_train_batches", 1.0, "leave it out, and set trainer.max_steps"),
        ("max_epochs", -1, "leave it out, and set trainer.max_steps"),
    ):
        value = getattr(trainer, name)
        if steps > 0 and (type(value), value) != (type(whole), whole):  # 1 is one batch, 1.0 all of them
            what = f"a run is counted in steps, and takes one batch a step (found: {value})"
            raise ConfigError(what, where=f"trainer.{name}", mend=mend)
    if steps > 0 and (not isinstance(interval, int) or interval < 1 or steps % interval):
        what = f"trainer.max_steps ({steps}) is not a multiple of trainer.val_check_interval ({interval})"
        raise ConfigError(what, mend="choose them so that the last step is evaluated")


@contextmanager
def signals_raised(trainer: Trainer) -> Iterator[None]:
    """Have Ctrl-C and the signals that end a run end it as they end any program; Lightning would exit with 1 or 0.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        Terminated: after one of `ENDING_SIGNALS`, once the step or batch at hand is done.
    """
    received: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        """Pass the signal to Lightning as SIGTERM, which it handles."""
        received.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    others = [number for number in ENDING_SIGNALS if number != signal.SIGTERM]
    # Lightning would call an earlier handler of SIGTERM in the middle of a step.
    with heard(pass_on, others), heard(signal.SIG_DFL, [signal.SIGTERM]):
        try:
            yield
        except SIGTERMException:
            raise Terminated(*received[:1]) from None
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        if trainer.received_sigterm:
            raise Terminated(*received[:1])
