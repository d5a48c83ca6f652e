"""ResNet (He et al., CVPR 2016), dilated to stride 8 as in DeepLab (Chen et al., TPAMI 2018).

Parameter names are torchvision's, so its weights load by key. Two details follow the Caffe network that DeepLabV2,
AdaptSegNet, DA-VSN and TPS use: a bottleneck's stride sits on its first 1×1 convolution, and the max-pooling rounds up
(`ceil_mode`), so 512×1024 pixels become 65×129 features.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from stpl.errors import ConfigError

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def _shortcut(inplanes: int, outplanes: int, stride: int) -> nn.Module | None:
    if stride == 1 and inplanes == outplanes:
        return None
    convolution = nn.Conv2d(inplanes, outplanes, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outplanes))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; the block of ResNet-18 and ResNet-34."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inplanes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B,C,H,W]` to `[B,planes,H/stride,W/stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut, stride on the first; the block of ResNet-50 and ResNet-101."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inplanes, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B,C,H,W]` to `[B,4·planes,H/stride,W/stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + shortcut)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A ResNet without its classifier, at stride 8: layer3 and layer4 keep the resolution and dilate by 2 and 4.

    Args:
        depth: 18, 34, 50 or 101.
        width: channels of the first stage; 64 is the published network, less makes a lighter one of the same form.

    Attributes:
        feature_dim: channels D of the output (8·width·expansion; 2048 for ResNet-101).
        stride: 8.

    Raises:
        ConfigError: for another depth.
    """

    stride = 8

    def __init__(self, depth: int = 101, width: int = 64) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ConfigError(f"no ResNet of depth {depth}", mend=f"choose one of: {', '.join(map(str, _BLOCKS))}")
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        stages = zip(_BLOCKS[depth], (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        channels = width
        for i, (blocks, stride, dilation) in enumerate(stages):
            planes = width * 2**i
            self.add_module(f"layer{i + 1}", _stage(block, channels, planes, blocks, stride, dilation))
            channels = planes * block.expansion
        self.feature_dim = channels
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images `[B,3,H,W]` to features `[B,D,h,w]` with h ≈ H/8, w ≈ W/8."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x


def _stage(
    block: Callable[[int, int, int, int], nn.Module],
    inplanes: int,
    planes: int,
    blocks: int,
    stride: int,
    dilation: int,
) -> nn.Sequential:
    expansion: int = block.expansion  # type: ignore[attr-defined]
    rest = [block(planes * expansion, planes, 1, dilation) for _ in range(blocks - 1)]
    return nn.Sequential(block(inplanes, planes, stride, dilation), *rest)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
