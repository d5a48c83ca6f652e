"""What every method shares: network, optimiser, schedule, evaluation."""

import math
import os
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor

from stpl.data.augment import CrossFrameAugmentation
from stpl.data.augment_device import with_view
from stpl.data.clip import BACKWARD, Batch, Clip, Wants, clip_seed, stream_seed
from stpl.errors import ConfigError, check_range
from stpl.evaluations import flat
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
from stpl.nn.network import NetworkOptions, as_accel
from stpl.nn.teacher import Teacher
from stpl.training.cuda_graph import Losses, RecordedLosses
from stpl.training.evaluation import Evaluator, check_output, predicted
from stpl.training.loaders import evaluation_clip, renewal_clips, training_batch
from stpl.training.optimization import Factor, OptimizerOptions, build_optimizer, grouped, learning_rates
from stpl.training.ranks import from_first

StatisticsKind = Literal["running", "original", "all"]
"""Kinds of BatchNorm statistics: as they came about in training; renewed for the weights as they are, from original
frames alone, or from original and augmented ones. `stpl.runs.artifacts` has the same for code without torch."""

_DRAWN = -16  # no clip stands at this position or below: seeds of numbers drawn in a step


class Method(LightningModule, ABC):
    """A way to train the network: sub-classes implement `losses` and list in `wants` what a clip must carry.

    Every `Teacher` among the sub-modules follows the network at every step, every `Discriminator` has an optimiser of
    its own. The constructor of a sub-class takes its own settings and passes `**shared` on: the parser follows it here.

    It runs in any Trainer: batches come from a data module of the suite, any other, or loaders (`training_batch` says
    what they may yield), and every loss and metric is logged (`train/<loss>`, `val/<metric>`).

    Args:
        network: the network to build, or the one to train, which is not copied (see `as_accel`).
        optimizer: optimiser and schedule; the defaults of `OptimizerOptions` if not given.
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

    rate_factor: Factor | None = None  # of all learning rates at each step, beside their schedule

    def __init__(
        self,
        network: NetworkOptions | torch.nn.Module,
        optimizer: OptimizerOptions | None = None,
        checkpoint: Path | None = None,
        batchnorm: BatchNormOptions | None = None,
    ) -> None:
        super().__init__()
        self.optimizer_options, self.batchnorm = optimizer or OptimizerOptions(), batchnorm or BatchNormOptions()
        self.options, built = as_accel(network)
        self.network = built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if checkpoint is not None:
            weights.load(checkpoint, self.network, options=self.options, backbone_suffices=self.trains_classifiers)
        forget_batches(self.network)
        fresh, encoder = checkpoint is None and network is self.options, self.network.segmenter.encoder
        self._start = None if fresh else [p.detach().clone() for p in encoder.parameters()]
        self._running: list[Tensor] = []  # while an evaluation has renewed statistics in their place
        self._step_seed = self._first_place = 0  # until a step begins
        self._train_loader: Any = None
        self._renewal: dict[bool, list[Clip]] = {}  # of a training loader, by whether they have augmented views
        self._found: dict[str, Any] = {}  # by the last evaluation
        self.frame_size = (0, 0)
        self.evaluator = Evaluator(self.options.space)
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
        others = {id(parameter) for part in self._parts(Teacher, Discriminator) for parameter in part.parameters()}
        learning = {name: value for name, value in self.named_parameters() if id(value) not in others}
        return grouped(learning, self.network.segmenter.parameter_groups(), self.optimizer_options)

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

    def on_train_start(self) -> None:
        """Keep the training loader: after training, statistics may still be renewed from its clips."""
        self._train_loader = self.trainer.train_dataloader

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Have teachers follow, and numbers that are drawn be a function of seed, step and process alone."""
        clip = training_batch(batch, self.streams).target
        for teacher in self._parts(Teacher):
            teacher.follow(self.network, self.global_step)
        if self.frame_size == (0, 0):  # nothing was evaluated yet
            self.frame_size = clip.size
        self._step_seed = clip_seed(self._seed, self.global_step, _DRAWN)
        self._first_place = self.global_rank * len(clip.frames)
        torch.manual_seed(clip_seed(self._step_seed, 0, self.global_rank))

    @property
    def _data(self) -> Any:
        """The trainer's data module, if it has one."""
        return getattr(self.trainer, "datamodule", None)

    @property
    def _seed(self) -> int:
        """The data module's `sampling_seed`; without one, that of `seed_everything`, or 0."""
        seed = getattr(self._data, "sampling_seed", None)
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else int(seed)

    @property
    def augmentation(self) -> CrossFrameAugmentation:
        """The data module's, or the default."""
        found = getattr(self._data, "augmentation", None)
        return found if isinstance(found, CrossFrameAugmentation) else CrossFrameAugmentation()

    @property
    def streams(self) -> dict[str, Wants]:
        """What is wanted of clips, by where they stand in a `Batch`."""
        wanted = {"target": self.wants, "source": self.source_wants, "before": self.before_wants}
        return {stream: wants for stream, wants in wanted.items() if wants is not None}

    def _with_views(self, batch: Batch) -> Batch:
        """The batch with the augmented views that its clips lack, as a loader would make them with the same seed."""
        clips, views, step = batch.clips(), dict[str, Any](), self.global_step
        for name, wants in self.streams.items():
            if wants.augmented and clips[name].augmented is None:
                seed, count = stream_seed(self._seed, name), len(clips[name].frames)
                seeds = [clip_seed(seed, step, self.global_rank * count + place) for place in range(count)]
                views[name] = with_view(self.augmentation, clips[name], seeds)
        return replace(batch, **views)

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

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        """What `step` gives, logged with the step's number, from 1; what reaches loggers is the mean over processes."""
        output = self.step(training_batch(batch, self.streams))
        logged = {name: value for name, value in (output or {}).items() if name != "loss"}
        every = int(vars(self.trainer)["log_every_n_steps"])  # Lightning does not declare it
        if logged and self.trainer.world_size > 1 and every and (self.global_step + 1) % every == 0:
            means = self.trainer.strategy.reduce(torch.stack(list(logged.values())).double(), reduce_op="mean")
            logged = dict(zip(logged, means.unbind(), strict=True))
        self.log_dict({**logged, "step": torch.full((), float(self.global_step + 1), dtype=torch.float64)})
        return None if output is None else output | logged

    def step(self, batch: Batch) -> dict[str, Tensor] | None:
        """`loss`, the sum of the losses, and what is logged; where there is nothing to minimise `None` or a constant.

        Lightning refuses `None` in distributed training. A constant reaches no parameter; a loss of zero that did would
        start the weight decay. The device is asked for no value.
        """
        losses = self._step_losses(self.prepare(self._with_views(batch)))
        if not losses:
            alone = self.trainer.world_size == 1
            return None if alone else {"loss": torch.zeros((), device=self.device, requires_grad=True)}
        values = torch.stack(list(losses.values()))
        self.loss_watch.see(self.global_step + 1, list(losses), values)
        total, parts = values.sum(), {f"train/{name}": value.detach() for name, value in losses.items()}
        return {"loss": total, "train/loss": total.detach(), **parts}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the learning rate of the next step, a number of the host."""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("train/lr", torch.tensor(rate, dtype=torch.float64))

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
        sampler = getattr(self.trainer.val_dataloaders, "sampler", None) if self.trainer.world_size > 1 else None
        self.evaluator.reset()
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
        A data module that has no `renewal_clips` leaves them to the training loader.
        """
        clips = self._renewal_clips(self.batchnorm.renewal_batches, kind == "all")
        views = (view for clip in clips for view in (clip.frames, clip.augmented) if view is not None)
        frames = (view[:, place].to(self.device) for view in views for place in (-2, -1))
        with self.trainer.precision_plugin.val_step_context():
            renew(self.evaluated, (partial(self.evaluated.encode, frame) for frame in frames))

    def _renewal_clips(self, batches: int, augmented: bool) -> list[Clip]:
        if hasattr(self._data, "renewal_clips"):
            found: list[Clip] = self._data.renewal_clips(batches, augmented=augmented)
            return found
        if augmented not in self._renewal:
            augmentation = self.augmentation if augmented else None
            self._renewal[augmented] = renewal_clips(self._train_loader, batches, augmentation)
        return self._renewal[augmented]

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
        """Join the metrics of all processes, and log them."""
        self.evaluator.gather()
        self._found, moved = from_first(self.evaluator.numbers), self.moved()
        if moved is not None:
            self._found["weights"] = {"moved": moved}
        numbers = {"step": float(self.global_step)} | {f"val/{name}": x for name, x in flat(self._found).items()}
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.device)
        # They are the same in all processes, and so is their mean.
        self.log_dict(dict(zip(numbers, values.unbind(), strict=True)), sync_dist=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Accumulate the metrics of a batch; see `evaluation_clip`."""
        clip = evaluation_clip(batch)
        self.frame_size = clip.size
        observed = self.evaluated.observe(clip)
        check_output(observed.logits, clip)
        self.evaluator.update(clip, observed)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Predicted train ids int64 `[B,H,W]`: what `validation_step` scores, or at the frames' size without labels."""
        clip = evaluation_clip(batch)
        logits = self.evaluated.observe(clip).logits
        check_output(logits, clip)
        return predicted(logits, clip)

    def evaluation(self) -> dict[str, Any]:
        """`Evaluator.numbers` of the validation that just ended, and in `weights` how far the encoder has `moved`.

        All processes get the numbers of the first, so that all decide alike what to keep. The evaluator forgets them.
        """
        self.evaluator.reset()
        return self._found

    def configure_optimizers(self) -> Any:
        """SGD or AdamW over `parameter_groups`, an Adam for each discriminator, and `learning_rates` per step."""
        optimizer = build_optimizer(self.optimizer_options, self.parameter_groups(), self._parts(Discriminator))
        steps = self.trainer.max_steps if self.trainer.max_steps >= 0 else self.trainer.estimated_stepping_batches
        schedule = learning_rates(optimizer, self.optimizer_options, max(1, int(steps)), self.rate_factor)
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
