"""What every segmentation network looks like from outside, and image normalisation.

Shape legend: B images, K classes, D feature channels, H×W pixels, h×w features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpl.data.clip import Clip


@dataclass(frozen=True)
class Normalization:
    """How uint8 RGB becomes the network's input; it travels with the weights.

    Attributes:
        mean: per-channel mean in 0..255, in the order of `channels`.
        std: per-channel standard deviation in 0..255.
        channels: "rgb" or "bgr", the order the weights expect.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channels: str = "rgb"


NORMALIZATIONS = {
    "imagenet": Normalization(),
    # Caffe weights of DeepLabV2 as AdaptSegNet, ADVENT, DA-VSN and TPS feed them: BGR, mean only.
    "caffe": Normalization((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), "bgr"),
}
"""Normalisations by name."""


class Segmenter(nn.Module, ABC):
    """A network that can be asked for features, for logits of features, and for logits of a clip.

    Attributes:
        stride: pixels per feature along each axis.
        feature_dim: channels D of `encode`.
        num_classes: channels K of `classify`.
        normalization: how frames are normalised.
    """

    stride: int
    feature_dim: int
    num_classes: int
    normalization: Normalization

    @abstractmethod
    def encode(self, frames: Tensor) -> Tensor:
        """Map frames uint8 `[B,3,H,W]` to features `[B,D,h,w]`."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Map features `[B,D,h,w]` to logits `[B,K,h,w]`."""

    def score(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Logits `[B,K,h,w]` of frames uint8 `[B,3,H,W]`: of the classifier that predicts, then of any only trained."""
        return (self.classify(self.encode(frames)),)

    def forward(self, clip: Clip) -> Tensor:
        """Logits `[B,K,h,w]` of the current frame of a batch of clips."""
        return self.classify(self.encode(clip.frames[:, -1]))

    def normalize(self, frames: Tensor) -> Tensor:
        """Frames uint8 `[B,3,H,W]` RGB as float32, normalised, channels-last in memory."""
        constants = self.normalization
        order = (0, 1, 2) if constants.channels == "rgb" else (2, 1, 0)
        # Plain numbers, one channel at a time: a tensor of them would be copied to the device, which waits for it.
        channels = zip(order, constants.mean, constants.std, strict=True)
        normalized = torch.stack([(frames[:, i].float() - mean) / std for i, mean, std in channels], dim=1)
        return normalized.contiguous(memory_format=torch.channels_last)


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of `[B,K,h,w]` to `[B,K,*size]` in float32, corners aligned as in the DeepLab lineage."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=True)
