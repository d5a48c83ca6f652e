"""What every segmentation network looks like from outside: its options, its outputs, its groups of parameters.

Shape legend: B images, K classes, D feature channels, H×W pixels, h×w features.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Normalization:
    """How uint8 RGB becomes the network's input; it travels with the weights.

    Mean and standard deviation are in 0..255, in the order of `channels`, which the weights expect: "rgb" or "bgr".
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


class Segmentation(NamedTuple):
    """What a network makes of frames, in one call."""

    features: Tensor  # of the network's named level, `[B,D,h,w]`
    logits: Tensor  # `[B,K,h',w']`; their grid need not be that of the features


class ParameterGroup(NamedTuple):
    """Parameters of a segmenter that learn alike.

    The `backbone` learns at the optimiser's rate, `classifiers` at `head_factor` times it.
    """

    name: Literal["backbone", "classifiers"]
    parameters: list[nn.Parameter]  # in the order of the network
    decays: bool = True  # whether the weight decay applies to them


class Segmenter(nn.Module, ABC):
    """A network that is called once: frames in, features of one of its levels and logits out.

    Nothing says that logits can be had from the features alone: an encoder–decoder with skip connections needs more.
    """

    level: str  # name of the level that the features are of
    stride: int  # pixels a feature along each axis
    feature_dim: int  # channels D of the features
    num_classes: int  # channels K of the logits
    normalization: Normalization
    classifiers: tuple[str, ...] = ("main",)  # that `score` gives the logits of, the one that predicts first
    __call__: Callable[..., Segmentation]

    @abstractmethod
    def forward(self, frames: Tensor) -> Segmentation:
        """Features and logits of frames `[B,3,H,W]` RGB in 0..255, uint8 or float."""

    @property
    def encoder(self) -> nn.Module:
        """The part that learns at the rate of a backbone; all of it where nothing says otherwise."""
        return self

    def encode(self, frames: Tensor) -> Tensor:
        """The features alone. A network may leave out what only logits need, unless BatchNorm is among it."""
        return self(frames).features

    def score(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Logits of the classifier that predicts, then of any that only training uses."""
        return (self(frames).logits,)

    def further_classifier(self) -> nn.Module:
        """A new classifier of features `[B,D,h,w]`, for methods that train several."""
        return nn.Conv2d(self.feature_dim, self.num_classes, 1)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters, by how they learn. By default the encoder's, then the others, all with weight decay.

        A network whose norms or position embeddings take no weight decay overrides this.
        """
        encoder = {id(parameter) for parameter in self.encoder.parameters()}
        others = [parameter for parameter in self.parameters() if id(parameter) not in encoder]
        return [ParameterGroup("backbone", list(self.encoder.parameters())), ParameterGroup("classifiers", others)]

    def check_trainable(self) -> None:
        """Raise `ConfigError` for a network that can predict but not train; all of the suite's own can."""

    def normalize(self, frames: Tensor) -> Tensor:
        """Frames `[B,3,H,W]` RGB in 0..255, uint8 or float, as float32, normalised, channels-last in memory."""
        constants = self.normalization
        order = (0, 1, 2) if constants.channels == "rgb" else (2, 1, 0)
        # Plain numbers, one channel at a time: a tensor of them would be copied to the device, which waits for it.
        channels = zip(order, constants.mean, constants.std, strict=True)
        normalized = torch.stack([(frames[:, i].float() - mean) / std for i, mean, std in channels], dim=1)
        return normalized.contiguous(memory_format=torch.channels_last)


class Architecture(ABC):
    """A kind of network with its options, as `network.architecture` names it by its class path.

    A sub-class is a frozen dataclass whose fields are plain types: they are the options, and a checkpoint keeps them. A
    network of a new kind is one file with such a class and the `Segmenter` that it builds, and one overlay.
    """

    learns_fusion: ClassVar[bool] = True
    """Whether ACCEL's score fusion around the network learns."""

    shapeless: ClassVar[tuple[str, ...]] = ()
    """Options that change no tensor's shape: weights that were trained with other values would load in silence."""

    of_backbone: ClassVar[tuple[str, ...]] = ()
    """Options that the backbone by itself has, which a checkpoint may hold alone."""

    @abstractmethod
    def build(self, num_classes: int) -> Segmenter:
        """The network, freshly initialised from the global torch generator."""

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return type(self).__name__

    def to_dict(self) -> dict[str, Any]:
        """Class path and options in plain types."""
        kind, options = type(self), cast(Any, self)  # a dataclass, as every sub-class is
        plain = json.loads(json.dumps(asdict(options)))
        return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": plain}


def grid_of(maps: Tensor) -> tuple[int, int]:
    """Height and width of maps, images or labels `[…,h,w]`."""
    return maps.shape[-2], maps.shape[-1]


def on_grid(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits `[B,K,h,w]` on a grid of `size`: as they are if it is theirs, else as `upsample` makes them."""
    return logits if grid_of(logits) == size else upsample(logits, size)


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of `[B,K,h,w]` to `[B,K,*size]`, corners aligned as in DeepLab; float32 or wider."""
    wide = logits if logits.dtype.itemsize >= 4 else logits.float()
    return F.interpolate(wide, size=size, mode="bilinear", align_corners=True)
