"""DeepLabV2: a dilated ResNet and a classifier of parallel dilated convolutions (Chen et al., TPAMI 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from stpl.errors import ConfigError, check_range
from stpl.nn.resnet import BLOCKS, ResNet, StrideIn
from stpl.nn.segmenter import NORMALIZATIONS, Architecture, Segmentation, Segmenter


class DilatedClassifier(nn.Module):
    """ASPP of DeepLabV2: one 3×3 convolution per dilation, outputs summed.

    All of them are summed; AdaptSegNet's released code returns after the first two by mistake. The padding of each
    branch is its dilation; (6, 12, 18, 24) is the published classifier.
    """

    def __init__(self, channels: int, num_classes: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        branches = [nn.Conv2d(channels, num_classes, 3, padding=by, dilation=by) for by in dilations]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)
        self.conv2d_list = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        """Map features `[B,D,h,w]` to logits `[B,K,h,w]`."""
        branches = iter(self.conv2d_list)
        logits: Tensor = next(branches)(features)
        for branch in branches:
            logits = logits + branch(features)
        return logits


@dataclass(frozen=True)
class DeepLabV2(Architecture):
    """DeepLabV2 at stride 8.

    Attributes:
        depth: of the ResNet: 18, 34, 50 or 101.
        width: channels of the ResNet's first stage; 64 is the published network.
        dilations: of the classifiers; (6, 12, 18, 24) are the published ones.
        normalization: "imagenet" (RGB, mean and std) or "caffe" (BGR, mean only); it belongs to the weights.
        stride_in: which convolution of a bottleneck takes the stride, "first" (Caffe's ResNet, the lineage's) or
            "second" (torchvision's); it belongs to the weights.
        auxiliary: also classify layer3's output, as AdaptSegNet, ADVENT, DA-VSN and TPS do in training («multi-level»,
            `layer5` there). Only supervised training uses it, and no prediction.
        level: stage of the ResNet whose output the features are that methods and feature-space metrics see; the
            classifier reads layer4's.

    Raises:
        ConfigError: for another depth, and a width or dilation below 1.
    """

    shapeless: ClassVar[tuple[str, ...]] = ("normalization", "stride_in", "dilations", "auxiliary")
    of_backbone: ClassVar[tuple[str, ...]] = ("depth", "width", "normalization", "stride_in")

    depth: int = 101
    width: int = 64
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    normalization: Literal["imagenet", "caffe"] = "imagenet"
    stride_in: StrideIn = "first"
    auxiliary: bool = False
    level: Literal["layer3", "layer4"] = "layer4"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilations", tuple(self.dilations))  # a list in a checkpoint
        if self.depth not in BLOCKS:
            mend = f"choose one of: {', '.join(map(str, BLOCKS))}"
            raise ConfigError(f"no ResNet of depth {self.depth}", where="network.architecture.depth", mend=mend)
        check_range("network.architecture.width", self.width, 1)
        if not self.dilations:
            raise ConfigError("none is given", where="network.architecture.dilations", mend="choose one or more")
        for dilation in self.dilations:
            check_range("network.architecture.dilations", dilation, 1)

    def build(self, num_classes: int) -> "DeepLabV2Segmenter":
        """The network, freshly initialised."""
        return DeepLabV2Segmenter(self, num_classes)


class DeepLabV2Segmenter(Segmenter):
    """The network that `DeepLabV2` describes, for K classes."""

    def __init__(self, options: DeepLabV2, num_classes: int) -> None:
        super().__init__()
        self.level, self.dilations = options.level, options.dilations
        self.backbone = ResNet(options.depth, options.width, options.stride_in)
        self.classifier = DilatedClassifier(self.backbone.feature_dim, num_classes, options.dilations)
        self.auxiliary = None
        if options.auxiliary:
            self.auxiliary = DilatedClassifier(self.backbone.middle_dim, num_classes, options.dilations)
            self.classifiers = ("main", "auxiliary")
        self.feature_dim = self.backbone.feature_dim if options.level == "layer4" else self.backbone.middle_dim
        self.num_classes = num_classes
        self.normalization = NORMALIZATIONS[options.normalization]

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
        return top if self.level == "layer4" else middle

    def score(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Logits of the classifier, then the auxiliary's if there is one."""
        if self.auxiliary is None:
            return super().score(frames)
        middle, top = self.backbone(self.normalize(frames))
        return self.classifier(top), self.auxiliary(middle)

    def further_classifier(self) -> DilatedClassifier:
        """Another `DilatedClassifier` of the features."""
        return DilatedClassifier(self.feature_dim, self.num_classes, self.dilations)
