"""A network that `stpl` does not know, and drives to train and measure it: it stands for yours in the notebooks."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from stpl.data.streets import Drive, StreetsOptions, draw_drive
from stpl.metrics.segmentation import SegmentationMetrics

CLASSES, SIZE = 15, (128, 256)
MEAN, STD = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
"""Of frames in 0…255."""

Frames = Iterable[NDArray[np.uint8]]


class SmallNet(nn.Module):
    """Five convolutions, three of them with stride 2, and a classifier; logits at the size of the frames."""

    def __init__(self) -> None:
        super().__init__()
        widths, layers = (3, 24, 48, 96, 96, 96), list[nn.Module]()
        for place, (before, after) in enumerate(pairwise(widths)):
            stride, dilation = (2, 1) if place < 3 else (1, 2)
            layers.append(nn.Conv2d(before, after, 3, stride, padding=dilation, dilation=dilation, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(widths[-1], CLASSES, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised frames `[B,3,H,W]` to logits `[B,15,H,W]`."""
        logits = self.classifier(self.encoder(frames))
        return F.interpolate(logits, frames.shape[-2:], mode="bilinear", align_corners=False)


def normalized(frames: NDArray[np.uint8]) -> Tensor:
    """Frames uint8 `[B,3,H,W]` as the network sees them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(frames).float() - mean) / std


def drives(domain: str, split: str, count: int) -> list[Drive]:
    """Drives of two frames with labels: `studio` is the camera of the training, `camera` the new one."""
    return [draw_drive(StreetsOptions(seed=1, frames=2), domain, split, index) for index in range(count)]


def train(labelled: Sequence[Drive], steps: int) -> SmallNet:
    """Train a network on labelled drives, four frames a step."""
    torch.manual_seed(0)
    net, order = SmallNet(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        chosen = [labelled[place] for place in order.integers(len(labelled), size=4)]
        frames = normalized(np.stack([drive.frames[-1] for drive in chosen]))
        labels = torch.from_numpy(np.stack([drive.labels[-1] for drive in chosen])).long()
        loss = F.cross_entropy(net(frames), labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def miou(predict: Callable[[Frames], Frames], labelled: Sequence[Drive]) -> float:
    """Mean IoU in percent on the last frames of drives; `predict` maps frames `[H,W,3]` to class ids `[H,W]`."""
    metric = SegmentationMetrics(CLASSES)
    frames = [drive.frames[-1].transpose(1, 2, 0) for drive in labelled]
    for drive, found in zip(labelled, predict(iter(frames)), strict=True):
        metric.update(torch.from_numpy(found)[None], torch.from_numpy(drive.labels[-1])[None])
    return float(metric.compute()["miou"])
