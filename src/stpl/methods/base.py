"""What every method shares: network, optimiser, schedule, evaluation. A method itself only says what it minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning import LightningModule
from torch import Tensor

from stpl.data.clip import Clip, Wants
from stpl.errors import ConfigError
from stpl.metrics.segmentation import SegmentationMetrics
from stpl.metrics.selection import InformationMaximization
from stpl.nn import weights
from stpl.nn.batchnorm import BatchNormOptions, apply_batchnorm
from stpl.nn.network import NetworkOptions, build_network
from stpl.nn.segmenter import upsample


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimiser and schedule; the defaults are STPL's (paper §4.1).

    Attributes:
        name: "sgd" or "adamw".
        lr: initial learning rate; it decays to 0 over the run by (1 - step/steps)^power.
        momentum: of SGD.
        weight_decay: L2 penalty (SGD) or decoupled decay (AdamW); 5e-4 is the lineage's.
        new_module_factor: modules that are not in the source checkpoint learn at `factor·lr`. The paper states one
            rate, with which a random projection head would hardly move; 10 is the lineage's factor for new heads.
        power: of the polynomial decay.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 2.5e-6
    momentum: float = 0.9
    weight_decay: float = 5e-4
    new_module_factor: float = 10.0
    power: float = 0.9


class Method(LightningModule, ABC):
    """A way to train the network: sub-classes implement `losses` and say in `wants` what a clip must carry.

    Args:
        network: the network to build.
        optimizer: optimiser and schedule.
        checkpoint: weights to start from; a fresh initialisation if not given.
        batchnorm: what training may do to BatchNorm.
    """

    wants: Wants = Wants(flow=True)

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
            weights.load(checkpoint, self.network, options=network)
        space = network.space
        self.frame_size = (0, 0)
        self.segmentation = SegmentationMetrics(space.num_classes, reported=space.reported)
        self.selection = InformationMaximization(space.num_classes)

    @abstractmethod
    def losses(self, clip: Clip) -> dict[str, Tensor]:
        """Named scalar losses of a batch; their sum is minimised and each is logged. Empty: nothing to minimise."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups: the network at lr, everything else at `new_module_factor`·lr."""
        options = self.optimizer_options
        new = [p for name, p in self.named_parameters() if not name.startswith("network.")]
        groups = [(list(self.network.parameters()), options.lr), (new, options.lr * options.new_module_factor)]
        return [{"params": parameters, "lr": lr} for parameters, lr in groups if parameters]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules, then what the BatchNorm policy says."""
        super().train(mode)
        if mode:
            apply_batchnorm(self.network, self.batchnorm)
        return self

    def on_fit_start(self) -> None:
        """Lightning keeps the mode a module arrives in; this one depends on the policy."""
        self.train()

    def training_step(self, clip: Clip, batch_idx: int) -> dict[str, Tensor] | None:
        """Sum of the losses; `None` where there is nothing to minimise."""
        losses = self.losses(clip)
        if not losses:
            return None
        total = torch.stack(list(losses.values())).sum()
        parts = {f"train/{name}": value.detach() for name, value in losses.items()}
        return {"loss": total, **parts}

    def validation_step(self, clip: Clip, batch_idx: int) -> None:
        """Accumulate the metrics of a batch; logits (not labels) are brought to the label's size."""
        self.frame_size = (clip.frames.shape[-2], clip.frames.shape[-1])
        logits = self.network(clip)
        self.selection.update(logits)
        if clip.label is not None:
            prediction = upsample(logits, (clip.label.shape[-2], clip.label.shape[-1])).argmax(1)
            self.segmentation.update(prediction, clip.label)

    def evaluation(self) -> dict[str, Any]:
        """What the validation that just ended found, as plain numbers; resets the metrics.

        `score` is the label-free selection score; `miou`, `iou` (by class name, `None` where absent), `accuracy` and
        `class_accuracy` are in percent and missing if the clips had no labels.
        """
        found: dict[str, Any] = {"score": float(self.selection.compute())}
        if self.segmentation.update_called:
            values = self.segmentation.compute()
            names = self.options.space.classes
            found |= {name: _number(value) for name, value in values.items() if name != "iou"}
            found["iou"] = dict(zip(names, map(_number, values["iou"]), strict=True))
        self.selection.reset()
        self.segmentation.reset()
        return found

    def configure_optimizers(self) -> Any:
        """SGD or AdamW over `parameter_groups`, polynomial decay per step over the whole run."""
        options, groups = self.optimizer_options, self.parameter_groups()
        optimizer: torch.optim.Optimizer
        if options.name == "sgd":
            optimizer = torch.optim.SGD(groups, momentum=options.momentum, weight_decay=options.weight_decay)
        else:
            optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
        steps = max(1, int(self.trainer.max_steps))
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=options.power)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Know the size of the frames before the next evaluation tells it."""
        height, width = checkpoint["stpl"]["frame_size"]
        self.frame_size = (height, width)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the network in plain types, so that a checkpoint can be opened without its configuration."""
        checkpoint["stpl"] = {
            "schema": weights.SCHEMA,
            "network": self.options.to_dict(),
            "classes": list(self.options.space.classes),
            "frame_size": list(self.frame_size),
            "step": int(self.global_step),
        }


def _number(value: Tensor) -> float | None:
    number = float(value)
    return None if number != number else number


def check_proportion(proportion: float) -> None:
    """Raise `ConfigError` unless the confident proportion k lies in (0, 1]."""
    if not 0 < proportion <= 1:
        raise ConfigError(
            f"{proportion} is outside (0, 1]", where="model.confident_proportion", mend="choose a share like 0.7"
        )
