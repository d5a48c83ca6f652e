"""DeepLabV2 (Chen et al., TPAMI 2018): a ResNet dilated to stride 8, a classifier of parallel dilated convolutions.

Parameter names of the ResNet (He et al., CVPR 2016) are torchvision's, so its weights load by key. The form follows the
Caffe network that DeepLabV2, AdaptSegNet, DA-VSN and TPS use: a bottleneck's stride sits on its first 1×1 convolution
(`stride_in="first"`), and the max-pooling rounds up (`ceil_mode`), so 512×1024 pixels become 65×129 features whose
corners lie on the image's corners.

torchvision's weights were trained with the stride on the 3×3 convolution: `stride_in="second"` puts it there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from stpl.errors import ConfigError, check_range
from stpl.nn.segmenter import NORMALIZATIONS, Architecture, Segmentation, Segmenter

StrideIn = Literal["first", "second"]
"""Which convolution of a bottleneck takes the stride: the 1×1 (Caffe's ResNet) or the 3×3 (torchvision's)."""

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks in each of the four stages, by depth."""

_STRIDES, _DILATIONS = (1, 2, 1, 1), (1, 1, 2, 4)
_Pair = tuple[int, int]


def _shortcut(inplanes: int, outplanes: int, stride: int) -> nn.Module | None:
    if stride == 1 and inplanes == outplanes:
        return None
    convolution = nn.Conv2d(inplanes, outplanes, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outplanes))


def _conv3x3(inplanes: int, outplanes: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(inplanes, outplanes, 3, stride, dilation, dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with their strides and dilations, and a shortcut; the block of ResNet-18 and ResNet-34."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, strides: _Pair, dilations: _Pair) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inplanes, planes, strides[0], dilations[0])
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, strides[1], dilations[1])
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inplanes, planes, strides[0] * strides[1])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B,C,H,W]` to `[B,planes,H/stride,W/stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        total: Tensor = self.relu(self.bn2(self.conv2(out)) + shortcut)
        return total


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut; the block of ResNet-50 and ResNet-101.

    The strides are those of the first two; only the 3×3 one is dilated, by the first dilation.
    """

    expansion = 4

    def __init__(self, inplanes: int, planes: int, strides: _Pair, dilations: _Pair) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, strides[1], dilations[0])
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inplanes, planes * self.expansion, strides[0] * strides[1])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B,C,H,W]` to `[B,4·planes,H/stride,W/stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        total: Tensor = self.relu(self.bn3(self.conv3(out)) + shortcut)
        return total


class ResNet(nn.Module):
    """A ResNet without its classifier, at stride 8: layer3 and layer4 keep the resolution and dilate by 2 and 4.

    Args:
        depth: 18, 34, 50 or 101.
        width: channels of the first stage; 64 is the published network, less makes a lighter one of the same form.
        stride_in: see `StrideIn`. With "second", the convolution that lost its stride to the dilation keeps the
            dilation of the stage before, so that every fourth feature is what the undilated network computes.

    Attributes:
        feature_dim: channels D of the output (8·width·expansion; 2048 for ResNet-101).
        middle_dim: channels of layer3's output, half as many.
    """

    __call__: Callable[..., tuple[Tensor, Tensor]]

    def __init__(self, depth: int = 101, width: int = 64, stride_in: StrideIn = "first") -> None:
        super().__init__()
        block = BasicBlock if depth < 50 else Bottleneck
        stride_last = block is Bottleneck and stride_in == "second"
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        channels, entry = width, 1
        for i, (blocks, stride, dilation) in enumerate(zip(BLOCKS[depth], _STRIDES, _DILATIONS, strict=True)):
            entry = dilation if stride_in == "first" else entry
            planes = width * 2**i
            first = block(channels, planes, (1, stride) if stride_last else (stride, 1), (entry, dilation))
            channels, entry = planes * block.expansion, dilation
            rest = (block(channels, planes, (1, 1), (dilation, dilation)) for _ in range(blocks - 1))
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))
        self.feature_dim, self.middle_dim = channels, channels // 2
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised images `[B,3,H,W]` to the outputs of layer3 `[B,D/2,h,w]` and layer4 `[B,D,h,w]`.

        h ≈ H/8, w ≈ W/8. Both come from one call, so that whoever needs both runs the same, perhaps compiled, code.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(3):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x, self.get_submodule("layer4")(x)


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
        self.stride = 8
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
