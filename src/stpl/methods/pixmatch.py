"""PixMatch (Melas-Kyriazi and Manrai, CVPR 2021): consistency of predictions under perturbations of the target."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stpl.data.clip import BACKWARD, Batch, Clip, Wants
from stpl.nn.accel import Accel
from stpl.nn.mixing import box_mask, cutmix_box, paste, pick, resized
from stpl.nn.segmenter import upsample
from stpl.nn.teacher import Teacher, TeacherOptions
from stpl.training.base import Method, check_settings
from stpl.training.supervision import LABELLED, beside, supervision, transferred

_BOX = 0  # purpose of the numbers that are drawn
_AVERAGE = TeacherOptions(warmup=False, statistics="student")


class PixMatch(Method):
    """Supervision on the source, and on perturbed target clips with the network's prediction of the clean ones.

    Perturbations: the style of a source frame at low frequencies (as in FDA), a box that is exchanged with a source
    clip (CutMix), blur and colours. Every pixel of the prediction is a label, however sure. The moving average of the
    network is evaluated, and used for nothing else.

    Args:
        fourier_weight: of clips in the source's style (0.1).
        cutmix_weight: of clips mixed with source clips (0.1).
        augmentation_weight: of blurred and jittered clips (0; the paper's «baseline» is 0.1 of this alone).
        beta: half width of the window of the style (0.01).
        teacher: the moving average; its statistics are the network's.
    """

    source_wants = LABELLED
    trains_classifiers = True

    def __init__(
        self,
        *,
        fourier_weight: float = 0.1,
        cutmix_weight: float = 0.1,
        augmentation_weight: float = 0.0,
        beta: float = 0.01,
        teacher: TeacherOptions = _AVERAGE,
        **shared: Any,
    ) -> None:
        self.weights = {"fourier": fourier_weight, "cutmix": cutmix_weight, "augmentation": augmentation_weight}
        check_settings(**{f"{name}_weight": value for name, value in self.weights.items()})
        check_settings(0, 0.5, beta=beta)
        super().__init__(**shared)
        self.wants = Wants(flows=(BACKWARD,), augmented=augmentation_weight > 0)
        self.beta = beta
        self.average = Teacher(self.network, teacher)

    @property
    def evaluated(self) -> Accel:
        """The moving average."""
        return self.average.network

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The source's supervision and, for each perturbation with a weight, that by the clean prediction."""
        source, target = batch.source, batch.target
        assert source is not None  # wanted
        found = supervision(self.network, source)
        clean = replace(target, labels={0: self._labels(target)})
        for name, perturbed in self._perturbed(clean, source).items():
            losses = supervision(self.network, perturbed)
            found |= {f"{name}, {of}": self.weights[name] * loss for of, loss in losses.items()}
        return found

    @torch.no_grad()
    def _labels(self, clip: Clip) -> Tensor:
        """The fused prediction's class of every pixel, int64 `[B,H,W]`."""
        return upsample(self.network(clip), clip.size).argmax(1)

    def _perturbed(self, clean: Clip, source: Clip) -> dict[str, Clip]:
        found = {}
        if self.weights["fourier"]:
            found["fourier"] = transferred(clean, source, self.beta)
        if self.weights["cutmix"]:
            found["cutmix"] = self._mixed(clean, source)
        if self.weights["augmentation"]:
            assert clean.augmented is not None  # wanted
            found["augmentation"] = replace(clean, frames=clean.augmented)
        return found

    def _mixed(self, clean: Clip, source: Clip) -> Clip:
        """Each clip with a box of a source clip in it or, as often, the other way round."""
        count = len(clean.frames)
        other = resized(source.map(lambda x: beside(x, count)), clean.size)
        generators = [self.generator(place, _BOX) for place in range(count)]
        boxes = [cutmix_box(clean.size, generator) for generator in generators]
        inside = box_mask(boxes, clean.size, clean.frames.device)
        swapped = [bool(generator.integers(2)) for generator in generators]
        return paste(clean, other, pick(swapped, ~inside, inside))
