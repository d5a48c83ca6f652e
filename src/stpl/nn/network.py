"""From options to a network: the one place that composes backbone, head and ACCEL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from stpl.data.label_space import LabelSpace, label_space, own_classes
from stpl.errors import ConfigError, check_range
from stpl.nn.accel import Accel
from stpl.nn.batchnorm import without_synchronization
from stpl.nn.deeplab import DeepLabV2, Level
from stpl.nn.own import OwnNetwork, OwnSegmenter, build_module
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
        own: a network of your own in place of DeepLabV2; all but the label space says nothing of it then.

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
    own: OwnNetwork | None = None

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
        """The label space by its name, or of the classes that a network of your own names."""
        own = self.own
        return own_classes(own.classes, own.palette) if own and own.classes else label_space(self.label_space)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for checkpoints that load with `weights_only=True`."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.own is None:
            del plain["own"]
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkOptions:
        """The inverse of `to_dict`, options that an older version did not write at their defaults.

        Raises:
            ConfigError: for unknown names.
        """
        try:
            own = values.get("own")
            rest = {name: value for name, value in values.items() if name != "own"}
            made = {**rest, "dilations": tuple(rest["dilations"])}
            return cls(**made, own=None if own is None else OwnNetwork(**own))
        except (TypeError, KeyError) as error:
            raise ConfigError(f"these are not the options of a network: {dict(values)}") from error


def build_network(options: NetworkOptions) -> Accel:
    """ACCEL around a DeepLabV2, freshly initialised from the global torch generator, or around a network of your own.

    Raises:
        ConfigError: a network of your own cannot be built or asked; see `OwnSegmenter`.
    """
    if options.own is not None:
        return around(build_module(options.own), options)
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


def around(module: nn.Module, options: NetworkOptions) -> Accel:
    """ACCEL around a network of your own. Its score fusion never learns: the network alone is what is handed back."""
    assert options.own is not None
    accel = Accel(OwnSegmenter(without_synchronization(module), options.own, options.space.num_classes))
    accel.score_fusion.requires_grad_(False)
    return accel
