"""Networks as users bring them: none knows this package."""

from __future__ import annotations

import warnings
from threading import Lock
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5


def block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.BatchNorm2d(outside), nn.ReLU())


class Dictionary(nn.Module):
    """Shaped like torchvision's DeepLabV3: a backbone, a classifier, a dictionary at the frames' size."""

    def __init__(self, num_classes: int = CLASSES, width: int = 8) -> None:
        super().__init__()
        self.backbone = nn.Sequential(block(3, width, 2), block(width, 2 * width, 2), block(2 * width, 4 * width, 2))
        self.classifier = nn.Conv2d(4 * width, num_classes, 1)
        self.aux_classifier = nn.Conv2d(4 * width, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        heads = {"out": self.classifier(features), "aux": self.aux_classifier(features)}
        return {name: F.interpolate(y, size=x.shape[-2:], mode="bilinear") for name, y in heads.items()}


class PoolingIndices(nn.Module):
    """An encoder–decoder with skips and pooling indices; it calls a part of itself `modules`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(3, 8), block(8, 16)
        self.modules = [self.first, self.second]  # type: ignore[assignment]  # hides the method
        self.decode, self.head = block(24, 8), nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        pooled, places = F.max_pool2d(first, 2, return_indices=True)
        second = self.second(pooled)
        raised = F.max_unpool2d(second[:, :8], places, [2, 2])
        again = F.interpolate(second, size=first.shape[-2:])
        return self.head(self.decode(torch.cat([raised, again], 1)))  # type: ignore[no-any-return]


class WithoutBatchNorm(nn.Module):
    """GroupNorm, tokens on the way, logits at a quarter of the size, as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm, self.mix = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=1)
        self.tokens, self.head = nn.Linear(16, 16), nn.Conv2d(16, CLASSES, 1)

    def forward(self, pixel_values: Tensor) -> Any:
        grid = self.mix(self.norm(self.patches(pixel_values)))
        tokens = self.tokens(grid.flatten(2).mT)
        logits = self.head(tokens.mT.view_as(grid))
        return SimpleNamespace(loss=None, logits=logits)


class FixedSize(Dictionary):
    """Takes frames of one size alone."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if x.shape[-2:] != (64, 96):
            raise ValueError(f"expected 64x96, got {x.shape[-2]}x{x.shape[-1]}")
        return super().forward(x)


class Probabilities(Dictionary):
    """Ends in a softmax."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)["out"].softmax(1)


class WithoutGradient(Dictionary):
    """Made for inference alone."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x)


class OneFrame(Dictionary):
    """Takes no batches."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if len(x) > 1:
            raise ValueError("one at a time")
        return super().forward(x)


class Pooled(Dictionary):
    """Normalises what it has averaged over the frame, as DeepLabV3 does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        return self.classifier(features + self.norm(features.mean((2, 3), keepdim=True)))


class Holding(Dictionary):
    """Keeps a lock."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = Lock()


class Nothing(Dictionary):
    """Gives no numbers."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)["out"] * float("nan")


def scripted() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # it is deprecated, and still what some people have
        return torch.jit.script(block(3, 8))


def broken() -> nn.Module:
    raise RuntimeError("no such backbone")


def number() -> int:
    return 3


def poisoned() -> nn.Module:
    net = Dictionary()
    with torch.no_grad():
        net.classifier.weight.fill_(float("nan"))
    return net


def pair() -> nn.Module:
    """Returns a tuple of which the second is the logits."""

    class Pair(Dictionary):
        def forward(self, x: Tensor) -> Any:
            return None, super().forward(x)["out"]

    return Pair()


class Night(nn.Module):
    """Brightens dark frames: a branch on values, of which a trace keeps one side; `torch.jit.script` takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = block(3, 16, 2), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() < -1:
            x = x + 2
        return self.head(self.stem(x))  # type: ignore[no-any-return]


class Scaled(Night):
    """Reads a value by way of NumPy, which neither a trace nor a script holds."""

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.zeros(3)
        scale[:1] = x.abs().max()
        return self.head(self.stem(x / float(scale.numpy().sum())))  # type: ignore[no-any-return]


class Checked(Night):
    """Checks values and shapes, decides by shapes and by its own weights, and by tensors: all of that a trace holds."""

    def forward(self, x: Tensor) -> Tensor:
        assert torch.isfinite(x).all()
        if x.abs().max() > 1e6:
            raise ValueError("no frame")
        if x.shape[-1] % 2 or float(self.head.weight.sum()) > 1e6:
            x = x[..., :-1]
        return self.head(self.stem(torch.where(x.mean() < -1, x + 2, x)))  # type: ignore[no-any-return]


class OfTheBatch(Night):
    """Makes a tensor of the batch's size and unpools to a size of its own: tracing fails, a program fixes the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.unpool = nn.Conv2d(24, CLASSES, 1), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        n, _, h, w = y.size()
        y = torch.cat((y, torch.zeros(n, 8, h, w)), 1)
        z, places = F.max_pool2d(y, 2, return_indices=True)
        return self.second(self.unpool(z, places, output_size=y.size()))  # type: ignore[no-any-return]


class Depthwise(nn.Module):
    """Dilated depthwise convolutions, as in MobileNet-DeepLab."""

    def __init__(self) -> None:
        super().__init__()
        deep = [nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16, bias=False), nn.BatchNorm2d(16), nn.Dropout(0.1)]
        self.stem, self.deep, self.head = block(3, 16, 2), nn.Sequential(*deep), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deep(self.stem(x)))  # type: ignore[no-any-return]


class Merging(nn.Module):
    """Keeps its classifier as it is at the first evaluated pass until it trains again, as merged networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = block(3, 16, 4), nn.Conv2d(16, CLASSES, 1)
        self.merged: Tensor | None = None

    def train(self, mode: bool = True) -> Merging:
        self.merged = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.merged = None
        elif self.merged is None:
            self.merged = self.head.weight.detach().clone()
        weight = self.head.weight if self.merged is None else self.merged
        return F.interpolate(F.conv2d(self.stem(x), weight, self.head.bias), size=x.shape[-2:], mode="bilinear")
