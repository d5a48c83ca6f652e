"""What every method shares: network, optimiser, schedule, evaluation."""

import math
import os
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor

from stpl.data.clip import BACKWARD, Batch, Clip, Wants, clip_seed
from stpl.errors import ConfigError, DataError, DivergedError, check_range
from stpl.nn import weights
from stpl.nn.accel import Accel
from stpl.nn.batchnorm import (
    BatchNormOptions,
    apply_batchnorm,
    average_statistics,
    batchnorm_layers,
    forget_batches,
    renew,
    statistics_of,
)
from stpl.nn.discriminator import Discriminator
from stpl.nn.finite import LossWatch
from stpl.nn.network import NetworkOptions, build_network
from stpl.nn.teacher import Teacher
from stpl.training.cuda_graph import Losses, RecordedLosses
from stpl.training.evaluation import Evaluator, predicted
from stpl.training.optimization import WITHOUT_DECAY, OptimizerOptions, build_optimizer, learning_rates
from stpl.training.ranks import from_first

StatisticsKind = Literal["running", "original", "all"]
"""Kinds of BatchNorm statistics: as they came about in training; renewed for the weights as they are, from original
frames alone, or from original and augmented ones. `stpl.runs.artifacts` has the same for code without torch."""

_DRAWN = -16  # no clip stands at this position or below: seeds of numbers drawn in a step


class Method(LightningModule, ABC):
    """A way to train the network: sub-classes implement `losses` and list in `wants` what a clip must carry.

    Every `Teacher` among the sub-modules follows the network at every step, every `Discriminator` has an optimiser of
    its own. The constructor of a sub-class takes its own settings and passes `**shared` on: the parser follows it here.

    Args:
        network: the network to build.
        optimizer: optimiser and schedule.
        checkpoint: weights to start from; a fresh initialisation if not given. A converted backbone suffices for
            methods that train classifiers.
        batchnorm: what training may do to BatchNorm.
    """

    wants: Wants = Wants(flows=(BACKWARD,))
    """What clips of the target carry."""

    source_wants: Wants | None = None
    """What clips of the source carry. `None`: a source-free method, for which the source is never opened."""

    before_wants: Wants | None = None
    """What clips of the step before carry, in `Batch.before`. `None`: there are none."""

    trains_classifiers = False
    """Whether a backbone, whose classifiers know nothing yet, suffices to start from."""

    leaves_idle = True
    """Whether some parameters may get no gradient. Several processes then look for them at every step."""

    folder: Path | None = None
    """The run's folder, once the run has one."""

    statistics: StatisticsKind | None = None
    """Kind of the statistics of the evaluations that follow; the method's own if not set."""

    recordable = False
    """Whether `losses` does nothing in Python that differs from step to step, such as drawing numbers or counting. On a
    GPU it is then recorded once and replayed (`run.cuda_graph`), which would repeat what Python did the first time."""

    def __init__(
        self,
        network: NetworkOptions,
        optimizer: OptimizerOptions,
        checkpoint: Path | None = None,
        batchnorm: BatchNormOptions | None = None,
    ) -> None:
        super().__init__()
        self.options, self.optimizer_options = network, optimizer
        self.batchnorm = batchnorm or BatchNormOptions()
        self.network = build_network(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if checkpoint is not None:
            weights.load(checkpoint, self.network, options=network, backbone_suffices=self.trains_classifiers)
        forget_batches(self.network)
        encoder = self.network.segmenter.encoder
        self._start = None if checkpoint is None else [p.detach().clone() for p in encoder.parameters()]
        self._running: list[Tensor] = []  # while an evaluation has renewed statistics in their place
        self._step_seed = self._first_place = 0  # until a step begins
        self.frame_size = (0, 0)
        self.evaluator = Evaluator(network.space)
        self._step_losses: Losses = self.losses
        self.loss_watch = LossWatch()
        self.train()  # settles which parameters learn before they are spread over devices

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses of a batch; their sum is minimised and each is logged. Empty: nothing to minimise.

        Several processes average their gradients. They train as one process with all their clips does, if losses are
        means over clips, or means over known pixels times `pixel_weight`.
        """

    def prepare(self, batch: Batch) -> Batch:
        """The input of `losses`: a method may add to the batch what it keeps of the clips, such as pseudo-labels."""
        return batch

    @property
    def evaluated(self) -> Accel:
        """The network that is evaluated and predicts: the one that learns, or a copy of it."""
        network: Accel = self.network
        return network

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups with their `lr`: backbone, score fusion, classifiers, projection head, other new modules.

        Names and order of the first three are the lineage's; `learning_rates` distinguishes them by `name`.
        """
        options = self.optimizer_options
        factor = options.new_module_factor if options.projection_factor is None else options.projection_factor
        rates = {
            "backbone": options.lr,
            f"backbone{WITHOUT_DECAY}": options.lr,
            "score_fusion": options.lr,
            "classifiers": options.lr * options.head_factor,
            f"classifiers{WITHOUT_DECAY}": options.lr * options.head_factor,
            "projection": options.lr * factor,
            "new": options.lr * options.new_module_factor,
        }
        members: dict[str, list[torch.nn.Parameter]] = {name: [] for name in rates}
        placed = {
            id(parameter): group.name if group.decays else f"{group.name}{WITHOUT_DECAY}"
            for group in self.network.segmenter.parameter_groups()
            for parameter in group.parameters
        }
        others = {id(parameter) for part in self._parts(Teacher, Discriminator) for parameter in part.parameters()}
        for name, parameter in self.named_parameters():
            if id(parameter) not in others:
                kind = "projection" if name.startswith("projection.") else "new"
                outside = "score_fusion" if name.startswith("network.") else kind
                members[placed.get(id(parameter), outside)].append(parameter)
        return [
            {"name": name, "params": members[name], "lr": lr}
            | ({"weight_decay": 0.0} if name.endswith(WITHOUT_DECAY) else {})
            for name, lr in rates.items()
            if members[name]
        ]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules, then apply the BatchNorm policy."""
        super().train(mode)
        if mode:
            apply_batchnorm(self.network, self.batchnorm)
            for teacher in self._parts(Teacher):
                teacher.apply_batchnorm(self.batchnorm)
        return self

    def _parts(self, *kinds: type[Any]) -> list[Any]:
        return [module for module in self.modules() if isinstance(module, kinds)]

    def on_fit_start(self) -> None:
        """Lightning keeps the mode a module arrives in; this one depends on the policy."""
        self.network.segmenter.check_trainable()
        self.train()

    def record_step(self) -> None:
        """Replay `losses` and its backward pass as CUDA graphs from now on (see `RecordedLosses`)."""
        self._step_losses = RecordedLosses(self, self.losses)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Have teachers follow, and numbers that are drawn be a function of seed, step and process alone."""
        for teacher in self._parts(Teacher):
            teacher.follow(self.network, self.global_step)
        seed = getattr(self._data, "sampling_seed", None)  # without a data module that has one, Lightning's own seed
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self._step_seed = clip_seed(seed, self.global_step, _DRAWN)
        self._first_place = self.global_rank * len(batch.target.frames)
        torch.manual_seed(clip_seed(self._step_seed, 0, self.global_rank))

    @property
    def _data(self) -> Any:
        """The trainer's data module, if it has one."""
        return getattr(self.trainer, "datamodule", None)

    def generator(self, place: int | None, purpose: int) -> np.random.Generator:
        """A generator of numbers of one kind, `purpose`, for one target clip, the same after a kill.

        `place` is the clip's in this process's batch; `None` for numbers that all clips of the step share. Several
        processes draw what one would.
        """
        position = -1 if place is None else self._first_place + place
        return np.random.default_rng(clip_seed(self._step_seed, purpose + 1, position))

    def to_device(self, values: Tensor) -> Tensor:
        """Values of the host on the device, without waiting for it."""
        return values.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else values

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        """Sum of the losses; where there is nothing to minimise `None`, or a loss that moves nothing.

        Lightning refuses `None` in distributed training. A constant reaches no parameter; a loss of zero that did would
        start the weight decay.
        """
        check_frames(*batch.clips().values())
        losses = self._step_losses(self.prepare(batch))
        if not losses:
            alone = self.trainer.world_size == 1
            return None if alone else {"loss": torch.zeros((), device=self.device, requires_grad=True)}
        values = torch.stack(list(losses.values()))
        self.loss_watch.see(self.global_step + 1, list(losses), values)
        return {"loss": values.sum()} | {f"train/{name}": value.detach() for name, value in losses.items()}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the running statistics of all processes equal."""
        average_statistics(self)

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip to `trainer.gradient_clip_val` or, by `optimizer.clip`, each discriminator and the rest apart."""
        limit = self.optimizer_options.clip
        if limit is None:
            super().configure_gradient_clipping(optimizer, *args, **kwargs)
            return
        apart = [list(discriminator.parameters()) for discriminator in self._parts(Discriminator)]
        others = {id(parameter) for parameters in apart for parameter in parameters}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in others]
        for parameters in (rest, *apart):
            torch.nn.utils.clip_grad_norm_(parameters, limit)

    def on_validation_start(self) -> None:
        """Set the evaluator's first clip, of all processes' clips; put the statistics in place."""
        loader: Any = self.trainer.val_dataloaders
        sampler = loader.sampler if self.trainer.world_size > 1 else None
        self.evaluator.begin(sampler.start if isinstance(sampler, range) else 0)
        kind = self.statistics or self.statistics_at(self.global_step)
        if kind != "running":
            self._running = [buffer.clone() for buffer in self._statistics()]
            self.renew_statistics(kind)

    def on_validation_end(self) -> None:
        """Go on with the statistics from before; checkpoints that were saved meanwhile keep the renewed ones."""
        for buffer, running in zip(self._statistics(), self._running, strict=False):
            buffer.copy_(running)
        self._running = []

    def statistics_at(self, step: int) -> StatisticsKind:
        """Kind of the statistics that the method itself evaluates with; at the start they belong to the weights."""
        if step == 0 or self.batchnorm.evaluation == "running" or self.batchnorm.policy == "frozen":
            return "running"
        return "all" if self.batchnorm.views == "all" and self.wants.augmented else "original"

    def renew_statistics(self, kind: StatisticsKind) -> None:
        """Replace the running statistics by those that belong to the weights as they are, of fixed clips of the target.

        Previous and current frames are passes of their own, as in training, and so are augmented ones of kind "all".
        """
        clips: list[Clip] = self._data.renewal_clips(self.batchnorm.renewal_batches, augmented=kind == "all")
        views = (view for clip in clips for view in (clip.frames, clip.augmented) if view is not None)
        frames = (view[:, place].to(self.device) for view in views for place in (-2, -1))
        with self.trainer.precision_plugin.val_step_context():
            renew(self.evaluated, (partial(self.evaluated.encode, frame) for frame in frames))

    def _statistics(self) -> list[Tensor]:
        return statistics_of(batchnorm_layers(self.evaluated))

    def moved(self) -> float | None:
        """Change of the encoder's weights since the start, in percent of their norm; `None` without a start."""
        if self._start is None:
            return None
        encoders = zip(self.evaluated.segmenter.encoder.parameters(), self._start, strict=True)
        pairs = [(now.detach().double(), start.to(now).double()) for now, start in encoders]
        change = torch.stack([(now - start).square().sum() for now, start in pairs]).sum()
        return 100 * float((change / torch.stack([start.square().sum() for _, start in pairs]).sum()).sqrt())

    def on_validation_epoch_end(self) -> None:
        """Join the metrics of all processes."""
        self.evaluator.gather()

    def validation_step(self, clip: Clip, batch_idx: int) -> None:
        """Accumulate the metrics of a batch."""
        check_frames(clip)
        self.frame_size = clip.size
        observed = self.evaluated.observe(clip)
        check_output(observed.logits, clip)
        self.evaluator.update(clip, observed)

    def predict_step(self, clip: Clip, batch_idx: int) -> Tensor:
        """Predicted train ids int64 `[B,H,W]`: what `validation_step` scores, or at the frames' size without labels."""
        check_frames(clip)
        logits = self.evaluated.observe(clip).logits
        check_output(logits, clip)
        return predicted(logits, clip)

    def evaluation(self) -> dict[str, Any]:
        """`Evaluator.numbers` of the validation that just ended, and in `weights` how far the encoder has `moved`.

        Resets them. All processes get the numbers of the first, so that all decide alike what to keep.
        """
        found = from_first(self.evaluator.numbers)
        self.evaluator.reset()
        moved = self.moved()
        return found if moved is None else found | {"weights": {"moved": moved}}

    def configure_optimizers(self) -> Any:
        """SGD or AdamW over `parameter_groups`, an Adam for each discriminator, and `learning_rates` per step."""
        options = self.optimizer_options
        optimizer = build_optimizer(options, self.parameter_groups(), self._parts(Discriminator))
        steps = self.trainer.max_steps if self.trainer.max_steps >= 0 else self.trainer.estimated_stepping_batches
        schedule = learning_rates(optimizer, options, max(1, int(steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the size of the frames, which no evaluation has set yet, and the running statistics."""
        self.frame_size = tuple(checkpoint["stpl"]["frame_size"])
        checkpoint["state_dict"].update(checkpoint.get("running_statistics", {}))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the network in plain types, so that a checkpoint can be opened without its configuration."""
        checkpoint["stpl"] = weights.description(self.options, self.frame_size, int(self.global_step))
        if self.evaluated is not self.network:
            place = next(name for name, module in self.named_modules() if module is self.evaluated)
            checkpoint["stpl"]["evaluated"] = place
        if self._running:
            saved = {id(buffer): running for buffer, running in zip(self._statistics(), self._running, strict=True)}
            named = self.named_buffers()
            checkpoint["running_statistics"] = {name: saved[id(value)] for name, value in named if id(value) in saved}


def check_frames(*clips: Clip) -> None:
    """Raise `DataError` for frames that are not uint8: floats in 0…1 would all be black. No value is looked at."""
    for clip in clips:
        if clip.frames.dtype != torch.uint8:
            found = str(clip.frames.dtype).removeprefix("torch.")
            mend = "of frames in 0…1 make (255 * frames).round().to(torch.uint8)"
            raise DataError(f"frames are uint8 RGB in 0…255, these are {found}", where="Clip.frames", mend=mend)


def check_output(logits: Tensor, clip: Clip) -> None:
    """Raise `DivergedError` for a network whose answer is no number: the largest of NaN is class 0, a road anywhere."""
    if not bool(logits.isfinite().all()):
        key = clip.key if isinstance(clip.key, str) else clip.key[0]
        raise DivergedError(
            f"the network's output is not finite for clip {key}",
            mend="lower optimizer.lr if it was trained here; a checkpoint that does this is of no use",
        )


def check_choice(choices: Any, **values: str) -> None:
    """Raise `ConfigError` for the first of a method's settings that is not among `choices`, a `Literal`."""
    for name, value in values.items():
        if value not in get_args(choices):
            mend = f"choose one of: {', '.join(get_args(choices))}"
            raise ConfigError(f"'{value}' is unknown", where=f"model.{name}", mend=mend)


def check_settings(low: float = 0.0, high: float = math.inf, **values: float) -> None:
    """Raise `ConfigError` for the first of a method's settings that is not finite or not between `low` and `high`."""
    for name, value in values.items():
        check_range(f"model.{name}", value, low, high)
