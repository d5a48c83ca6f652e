"""DeepLabV2: a dilated ResNet and a classifier of parallel dilated convolutions (Chen et al., TPAMI 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from stpl.nn.resnet import ResNet, StrideIn
from stpl.nn.segmenter import Normalization, Segmentation, Segmenter

Level = Literal["layer3", "layer4"]
"""Stages of the ResNet whose output features may be."""


class DilatedClassifier(nn.Module):
    """ASPP of DeepLabV2: one 3×3 convolution per dilation, outputs summed.

    All of them are summed; AdaptSegNet's released code returns after the first two by mistake.

    Args:
        channels: input channels D.
        num_classes: output channels K.
        dilations: dilation (and padding) of each branch; (6, 12, 18, 24) is the published classifier.
    """

    def __init__(self, channels: int, num_classes: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        for convolution in self.conv2d_list:
            nn.init.normal_(convolution.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Map features `[B,D,h,w]` to logits `[B,K,h,w]`."""
        branches = iter(self.conv2d_list)
        logits: Tensor = next(branches)(features)
        for branch in branches:
            logits = logits + branch(features)
        return logits


class DeepLabV2(Segmenter):
    """DeepLabV2 at stride 8.

    Args:
        num_classes: number of classes K.
        depth: of the ResNet: 18, 34, 50 or 101.
        width: of the ResNet's first stage; 64 is the published network.
        dilations: of the classifiers.
        normalization: how frames are normalised; it belongs to the backbone's weights.
        stride_in: where the ResNet's bottlenecks have their stride; it belongs to the backbone's weights.
        auxiliary: also classify layer3's output, as AdaptSegNet, ADVENT, DA-VSN and TPS do in training («multi-level»,
            `layer5` there). No prediction uses it.
        level: the stage whose output the features are; the classifier reads layer4's.
    """

    def __init__(
        self,
        num_classes: int,
        depth: int = 101,
        width: int = 64,
        dilations: Sequence[int] = (6, 12, 18, 24),
        normalization: Normalization | None = None,
        stride_in: StrideIn = "first",
        auxiliary: bool = False,
        level: Level = "layer4",
    ) -> None:
        super().__init__()
        self.level = level
        self.backbone = ResNet(depth, width, stride_in)
        self.classifier = DilatedClassifier(self.backbone.feature_dim, num_classes, dilations)
        self.auxiliary = DilatedClassifier(self.backbone.middle_dim, num_classes, dilations) if auxiliary else None
        self.stride = self.backbone.stride
        self.feature_dim = self.backbone.feature_dim if level == "layer4" else self.backbone.middle_dim
        self.num_classes = num_classes
        self.normalization = normalization or Normalization()

    def forward(self, frames: Tensor) -> Segmentation:
        """Features of the chosen level and the classifier's logits, both on a grid of 1/8; see `Segmenter`."""
        middle, top = self.backbone(self.normalize(frames))
        return Segmentation(top if self.level == "layer4" else middle, self.classifier(top))

    @property
    def encoder(self) -> ResNet:
        """The ResNet."""
        return self.backbone

    def encode(self, frames: Tensor) -> Tensor:
        """Features without the classifier's work."""
        middle, top = self.backbone(self.normalize(frames))
        return top if self.level == "layer4" else middle  # type: ignore[no-any-return]

    def score(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Logits of the classifier, then the auxiliary's if there is one."""
        if self.auxiliary is None:
            return super().score(frames)
        middle, top = self.backbone(self.normalize(frames))
        return self.classifier(top), self.auxiliary(middle)
