"""Networks of other programs, written down again from their key layouts: plain functions on a state_dict.

They share no code with `stpl.nn`, so what `stpl weights convert` makes of a state_dict can be compared with them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
CAFFE_BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)


def resnet_state(depth: int, width: int, *, counters: bool = True, seed: int = 0) -> State:
    """Random weights under the keys of a ResNet, as torchvision, AdaptSegNet and DA-VSN all call them."""
    generator = torch.Generator().manual_seed(seed)
    expansion, channels = (4, width) if depth >= 50 else (1, width)
    state: State = {}

    def convolution(key: str, outputs: int, inputs: int, size: int) -> None:
        scale = (2 / (inputs * size * size)) ** 0.5
        state[f"{key}.weight"] = scale * torch.randn(outputs, inputs, size, size, generator=generator)

    def norm(key: str, size: int, gain: float = 1.0) -> None:
        state[f"{key}.weight"] = gain * (0.5 + torch.rand(size, generator=generator))
        state[f"{key}.bias"] = 0.1 * torch.randn(size, generator=generator)
        state[f"{key}.running_mean"] = 0.1 * torch.randn(size, generator=generator)
        state[f"{key}.running_var"] = 0.5 + torch.rand(size, generator=generator)
        if counters:
            state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", width, 3, 7)
    norm("bn1", width)
    for stage, blocks in enumerate(BLOCKS[depth]):
        planes = width * 2**stage
        for block in range(blocks):
            key = f"layer{stage + 1}.{block}"
            sizes = ((1, planes), (3, planes), (1, 4 * planes)) if expansion == 4 else ((3, planes), (3, planes))
            inputs = channels
            for i, (size, outputs) in enumerate(sizes):
                convolution(f"{key}.conv{i + 1}", outputs, inputs, size)
                norm(f"{key}.bn{i + 1}", outputs, 0.3 if i == len(sizes) - 1 else 1.0)
                inputs = outputs
            if block == 0 and (stage > 0 or channels != planes * expansion):
                convolution(f"{key}.downsample.0", planes * expansion, channels, 1)
                norm(f"{key}.downsample.1", planes * expansion)
            channels = planes * expansion
    return state


def classifier_state(key: str, channels: int, classes: int, seed: int = 1) -> State:
    """Random weights of a DeepLabV2 classifier: four dilated convolutions with bias."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for i in range(4):
        state[f"{key}.conv2d_list.{i}.weight"] = 0.05 * torch.randn(classes, channels, 3, 3, generator=generator)
        state[f"{key}.conv2d_list.{i}.bias"] = torch.randn(classes, generator=generator)
    return state


def advent_state(depth: int, width: int, classes: int, **options: bool) -> State:
    """The multi-level DeepLabV2 of AdaptSegNet and ADVENT."""
    backbone = resnet_state(depth, width, **options)
    channels = len(backbone["layer4.0.downsample.0.weight"])
    auxiliary = classifier_state("layer5", channels // 2, classes, 1)
    return {**backbone, **auxiliary, **classifier_state("layer6", channels, classes, 2)}


def accel_state(depth: int, width: int, classes: int, **options: bool) -> State:
    """The network of DA-VSN and TPS, with a score fusion that does look at the previous frame."""
    fusion = torch.randn(classes, 2 * classes, 1, 1, generator=torch.Generator().manual_seed(3))
    return {**advent_state(depth, width, classes, **options), "sf_layer.weight": fusion}


def _norm(state: State, key: str, x: Tensor) -> Tensor:
    mean, var = state[f"{key}.running_mean"], state[f"{key}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{key}.weight"], state[f"{key}.bias"])


def caffe_features(state: State, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of layer3 and layer4 at stride 8, of frames uint8 `[B,3,H,W]` RGB."""
    x = frames.flip(1).float() - torch.tensor(CAFFE_BGR_MEAN).view(1, 3, 1, 1)
    x = F.relu(_norm(state, "bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    outputs = []
    for stage, stride, dilation in ((1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 1, 4)):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            key, step = f"layer{stage}.{block}", stride if block == 0 else 1
            out = F.relu(_norm(state, f"{key}.bn1", F.conv2d(x, state[f"{key}.conv1.weight"], stride=step)))
            out = F.conv2d(out, state[f"{key}.conv2.weight"], padding=dilation, dilation=dilation)
            out = F.relu(_norm(state, f"{key}.bn2", out))
            out = _norm(state, f"{key}.bn3", F.conv2d(out, state[f"{key}.conv3.weight"]))
            if block == 0:
                short = F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=step)
                x = _norm(state, f"{key}.downsample.1", short)
            x, block = F.relu(out + x), block + 1
        outputs.append(x)
    return outputs[2], outputs[3]


def classify(state: State, key: str, features: Tensor, branches: int = 4) -> Tensor:
    """The summed convolutions of a classifier; AdaptSegNet's code stops after two of the four."""
    parts = [
        F.conv2d(
            features,
            state[f"{key}.conv2d_list.{i}.weight"],
            state[f"{key}.conv2d_list.{i}.bias"],
            padding=dilation,
            dilation=dilation,
        )
        for i, dilation in enumerate((6, 12, 18, 24)[:branches])
    ]
    return torch.stack(parts).sum(0)


def resample2d(image: Tensor, flow: Tensor) -> Tensor:
    """FlowNet 2.0's Resample2d: bilinear look-up at (x+dx, y+dy), coordinates clamped to the border."""
    height, width = image.shape[-2:]
    out = torch.empty_like(image)
    for b in range(len(image)):
        for y in range(height):
            for x in range(width):
                sx = min(max(x + float(flow[b, 0, y, x]), 0), width - 1)
                sy = min(max(y + float(flow[b, 1, y, x]), 0), height - 1)
                x0, y0 = int(sx), int(sy)
                x1, y1, a, c = min(x0 + 1, width - 1), min(y0 + 1, height - 1), sx - x0, sy - y0
                top = (1 - a) * image[b, :, y0, x0] + a * image[b, :, y0, x1]
                bottom = (1 - a) * image[b, :, y1, x0] + a * image[b, :, y1, x1]
                out[b, :, y, x] = (1 - c) * top + c * bottom
    return out


def accel_forward(state: State, current: Tensor, previous: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """`pred` and `pred_aux` of DA-VSN and TPS, flow `[B,2,h,w]` on the grid of the features."""
    now, before = caffe_features(state, current), caffe_features(state, previous)
    fused = []
    for key, x, y in (("layer6", now[1], before[1]), ("layer5", now[0], before[0])):
        stack = torch.cat([classify(state, key, x), resample2d(classify(state, key, y), flow)], 1)
        fused.append(F.conv2d(stack, state["sf_layer.weight"]))
    return fused[0], fused[1]


def torchvision_features(state: State, frames: Tensor) -> Tensor:
    """Output of layer4 at stride 32, undilated, of frames uint8 `[B,3,H,W]` RGB: torchvision's ResNet."""
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    x = (frames.float() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    x = F.relu(_norm(state, "bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    bottleneck = "layer1.0.conv3.weight" in state
    strided = 2 if bottleneck else 1
    for stage in range(1, 5):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            key, step, out = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1, x
            for i in range(1, 4 if bottleneck else 3):
                weight = state[f"{key}.conv{i}.weight"]
                out = F.conv2d(out, weight, stride=step if i == strided else 1, padding=weight.shape[-1] // 2)
                out = _norm(state, f"{key}.bn{i}", out)
                out = F.relu(out) if f"{key}.conv{i + 1}.weight" in state else out
            if f"{key}.downsample.0.weight" in state:
                x = _norm(state, f"{key}.downsample.1", F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=step))
            x, block = F.relu(out + x), block + 1
    return x
