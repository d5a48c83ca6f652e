"""TPS: domain adaptive video segmentation via temporal pseudo supervision (Xing et al., ECCV 2022)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from stpl.data.augment_device import augment
from stpl.data.clip import BACKWARD, Batch, Clip, Wants, clip_seed
from stpl.losses.cross_entropy import cross_entropy
from stpl.losses.entropy import probabilities
from stpl.nn.mixing import mirrored, pick, rescaled
from stpl.nn.segmenter import grid_of, on_grid
from stpl.nn.style import match_histogram
from stpl.nn.warp import resize_flow, warp
from stpl.training.base import Method, check_choice, check_settings
from stpl.training.supervision import AUXILIARY_WEIGHT, LABELLED, beside, supervision

StrongView = Literal["clean", "wrapped"]
"""How the strong view is made. `clean`: of the frames. `wrapped`: as the released code does, which gives frames less
their mean to a conversion for numbers in 0..1: they are multiplied by 255 and cut off to 8 bits, and the network's
input is that wrapped picture, in 0..1 where it expects ±128."""

_MIRROR, _GREY, _SCALE, _WRAP = range(4)  # purposes of the numbers that are drawn


class TPS(Method):
    """Supervision on the source; on the target, the prediction of an earlier frame teaches the augmented current one.

    The frame η before the current one is predicted, mirrored or not, and its prediction brought along the flow; its
    likeliest classes are the labels of the current frame, which is blurred, jittered, made grey and rescaled. Every
    pixel has a label, however sure. Source frames take the target frame's distribution of colours.

    Args:
        source_free: leave out every loss that needs source clips: the row TPS* of Lo et al.
        weight: λ_T of the target's losses (1 for SYNTHIA-Seq, 0.1 for VIPER).
        distance: η in frames (1). For more, the flow of each pair on the way is followed.
        mirror_probability: how often the earlier frames are mirrored (0.5).
        grey_probability: how often the current frames are made grey (0.2).
        smallest_scale: of the current frames, relative to their size (0.8).
        largest_scale: likewise (1.2); sides are rounded to multiples of 8.
        match_colours: give source frames the target's distribution of colours.
        strong_view: how the strong view is made.
    """

    trains_classifiers = True

    def __init__(
        self,
        *,
        source_free: bool = False,
        weight: float = 1.0,
        distance: int = 1,
        mirror_probability: float = 0.5,
        grey_probability: float = 0.2,
        smallest_scale: float = 0.8,
        largest_scale: float = 1.2,
        match_colours: bool = True,
        strong_view: StrongView = "clean",
        **shared: Any,
    ) -> None:
        check_choice(StrongView, strong_view=strong_view)
        check_settings(weight=weight)
        check_settings(1, distance=distance)
        check_settings(0, 1, mirror_probability=mirror_probability, grey_probability=grey_probability)
        check_settings(0.1, 4, smallest_scale=smallest_scale)
        check_settings(smallest_scale, 4, largest_scale=largest_scale)
        super().__init__(**shared)
        self.source_wants = None if source_free else LABELLED
        self.wants = Wants(
            frames=tuple(range(-distance - 1, 1)),
            flows=tuple((-back, -back - 1) for back in range(distance + 1)),
            augmented=strong_view == "clean",
        )
        self.weight, self.distance, self.match_colours = weight, distance, match_colours
        self.mirror_probability, self.grey_probability = mirror_probability, grey_probability
        self.scales = (smallest_scale, largest_scale)
        self.strong_view = strong_view

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The source's supervision, and cross-entropy of the strong view with the earlier frame's labels."""
        found = {} if batch.source is None else supervision(self.network, self._matched(batch.source, batch.target))
        labels = self.labels(batch.target)
        scores = self.network.fused_scores(self._strong(batch.target))
        weights = {"temporal": self.weight, "auxiliary temporal": self.weight * AUXILIARY_WEIGHT}
        for (name, weight), logits, label in zip(weights.items(), scores, labels, strict=False):
            found[name] = weight * cross_entropy(on_grid(logits, grid_of(label)), label)
        return found

    def _matched(self, source: Clip, target: Clip) -> Clip:
        """Source clips, both of whose frames have the colours of the current frame of the target clip beside them."""
        if not self.match_colours:
            return source
        reference = beside(target.frame(), len(source.frames))
        return replace(source, frames=torch.stack([match_histogram(x, reference) for x in source.frames.unbind(1)], 1))

    @torch.no_grad()
    def labels(self, clip: Clip) -> list[Tensor]:
        """Each classifier's classes of the frame η before, on the current frame's grid, int64 `[B,h,w]`."""
        back = -self.distance
        weak = Clip(torch.stack([clip.frame(back - 1), clip.frame(back)], 1), {BACKWARD: clip.flows[back, back - 1]})
        chosen = self._drawn(clip, _MIRROR, self.mirror_probability)
        scores = self.network.fused_scores(mirrored(weak, chosen))
        found = []
        for logits in scores:
            probability = probabilities(logits)
            probability = pick(chosen, probability.flip(-1), probability)
            for step in range(self.distance, 0, -1):
                flow = resize_flow(clip.flows[1 - step, -step], grid_of(logits))
                probability = warp(probability, flow)
            found.append(probability.argmax(1))
        return found

    def _strong(self, clip: Clip) -> Clip:
        """The last two frames, augmented and at another size."""
        grey = self._drawn(clip, _GREY, self.grey_probability)
        if self.strong_view == "wrapped":
            frames = self._wrapped(clip, grey)
        else:
            assert clip.augmented is not None  # wanted
            frames = made_grey(clip.augmented, grey)
        scale = self.generator(None, _SCALE).uniform(*self.scales)
        return rescaled(Clip(frames, {BACKWARD: clip.flows[BACKWARD]}), scale)

    def _drawn(self, clip: Clip, purpose: int, probability: float) -> list[bool]:
        """For each clip whether something happens."""
        return [bool(self.generator(place, purpose).random() < probability) for place in range(len(clip.frames))]

    def _wrapped(self, clip: Clip, grey: Sequence[bool]) -> Tensor:
        """The input of the released code, as frames that become it when they are normalised; float32 `[B,2,3,H,W]`."""
        options = self.augmentation
        normalization = self.network.normalization
        views = []
        for place, frames in enumerate(clip.frames[:, -2:]):
            values = self.network.segmenter.normalize(frames) * 255
            image = values.trunc().remainder(256).byte()
            seed = clip_seed(self._step_seed, _WRAP, self._first_place + place)
            views.append(augment(options, image, seed))
        order = [0, 1, 2] if normalization.channels == "rgb" else [2, 1, 0]
        fed = made_grey(torch.stack(views), grey).float().div(255).unbind(2)
        constants = zip(fed, normalization.mean, normalization.std, strict=True)
        frames = [x * std + mean for x, mean, std in constants]
        return torch.stack([frames[channel] for channel in order], 2)


def made_grey(frames: Tensor, chosen: Sequence[bool]) -> Tensor:
    """Frames uint8 `[B,T,3,H,W]`, those of the chosen clips without colour (the luma of ITU-R BT.601)."""
    red, green, blue = frames.float().unbind(2)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue).round().to(frames.dtype)
    return pick(chosen, grey[:, :, None].expand_as(frames), frames)
