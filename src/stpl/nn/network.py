"""From options to a network: the one place that composes backbone, head and ACCEL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stpl.data.label_space import LabelSpace, label_space
from stpl.errors import ConfigError, check_range
from stpl.nn.accel import Accel
from stpl.nn.deeplab import DeepLabV2, Level
from stpl.nn.resnet import BLOCKS, StrideIn
from stpl.nn.segmenter import NORMALIZATIONS


@dataclass(frozen=True)
class NetworkOptions:
    """The video segmentation network: ACCEL around DeepLabV2.

    Attributes:
        depth: of the ResNet: 18, 34, 50 or 101.
        width: channels of the ResNet's first stage; 64 is the published network.
        dilations: of the DeepLabV2 classifier; (6, 12, 18, 24) is the published one.
        normalization: "imagenet" (RGB, mean and std) or "caffe" (BGR, mean only); it belongs to the weights.
        stride_in: which convolution of a bottleneck takes the stride, "first" (Caffe's ResNet, the lineage's) or
            "second" (torchvision's); it belongs to the weights.
        auxiliary: add the lineage's second classifier, on layer3's output. Only supervised training uses it.
        level: stage of the ResNet whose output the features are that methods and feature-space metrics see.
        label_space: name of the classes the network predicts, e.g. viper15.

    Raises:
        ConfigError: for another depth, and a width or dilation below 1.
    """

    depth: int = 101
    width: int = 64
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    normalization: Literal["imagenet", "caffe"] = "imagenet"
    stride_in: StrideIn = "first"
    auxiliary: bool = False
    level: Level = "layer4"
    label_space: str = "viper15"

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS:
            known = ", ".join(map(str, BLOCKS))
            raise ConfigError(f"no ResNet of depth {self.depth}", where="network.depth", mend=f"choose one of: {known}")
        check_range("network.width", self.width, 1)
        if not self.dilations:
            raise ConfigError("none is given", where="network.dilations", mend="choose one or more")
        for dilation in self.dilations:
            check_range("network.dilations", dilation, 1)

    @property
    def space(self) -> LabelSpace:
        """The label space by its name."""
        return label_space(self.label_space)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for checkpoints that load with `weights_only=True`."""
        return {**asdict(self), "dilations": list(self.dilations)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkOptions:
        """The inverse of `to_dict`, options that an older version did not write at their defaults.

        Raises:
            ConfigError: for unknown names.
        """
        try:
            return cls(**{**values, "dilations": tuple(values["dilations"])})
        except (TypeError, KeyError) as error:
            raise ConfigError(f"these are not the options of a network: {dict(values)}") from error


def build_network(options: NetworkOptions) -> Accel:
    """ACCEL around a DeepLabV2, freshly initialised from the global torch generator."""
    segmenter = DeepLabV2(
        options.space.num_classes,
        depth=options.depth,
        width=options.width,
        dilations=options.dilations,
        normalization=NORMALIZATIONS[options.normalization],
        stride_in=options.stride_in,
        auxiliary=options.auxiliary,
        level=options.level,
    )
    return Accel(segmenter)
