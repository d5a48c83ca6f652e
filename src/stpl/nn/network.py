"""From options to a network: the one place that puts ACCEL around a segmenter."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from torch import nn

from stpl.data.label_space import CITYSCAPES_19, LabelSpace, label_space, own_classes
from stpl.errors import ConfigError
from stpl.nn.accel import Accel, FrameByFrame
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.foreign import plain
from stpl.nn.outputs import candidates, proposal, proposed
from stpl.nn.own import IN_MEMORY, OwnNetwork, OwnSegmenter
from stpl.nn.segmenter import Architecture, Segmenter


@dataclass(frozen=True)
class NetworkOptions:
    """The video segmentation network: ACCEL around an image segmentation network.

    Attributes:
        architecture: the image network, by the class path of its options.
        label_space: name of the classes that it predicts, e.g. viper15.
        classes: its classes, in its order, in place of a label space that has a name.
        palette: their colours, RGB; if not given, Cityscapes' by name, and others made up.
        fusion: of the scores of both frames: "learned", or "none" for a network that predicts frame by frame. Networks
            of your own always do.

    Raises:
        ConfigError: for classes or colours that cannot be.
    """

    architecture: Architecture = field(default_factory=DeepLabV2)
    label_space: str = "viper15"
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    fusion: Literal["learned", "none"] = "learned"

    @property
    def space(self) -> LabelSpace:
        """The label space by its name, or that of the classes."""
        return own_classes(self.classes, self.palette) if self.classes else label_space(self.label_space)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for checkpoints that load with `weights_only=True`."""
        plain: dict[str, Any] = {"architecture": self.architecture.to_dict(), "label_space": self.label_space}
        if self.classes:
            plain |= {"classes": list(self.classes), "palette": [list(colour) for colour in self.palette]}
        if self.fusion != "learned":
            plain["fusion"] = self.fusion
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, for architectures whose module is imported: the text of a file imports nothing.

        Raises:
            ConfigError: for unknown names.
        """
        try:
            given = dict(values)
            path, options = given["architecture"]["class_path"], given["architecture"]["init_args"]
            given["architecture"] = architectures()[path](**options)
            colours = tuple((red, green, blue) for red, green, blue in given.pop("palette", ()))
            return cls(**given | {"classes": tuple(given.get("classes", ())), "palette": colours})
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"these are not the options of a network: {dict(values)}") from error


def architectures(kind: type[Architecture] = Architecture) -> dict[str, type[Architecture]]:
    """The architectures whose modules are imported, by class path."""
    found = {f"{one.__module__}.{one.__qualname__}": one for one in kind.__subclasses__()}
    for one in list(found.values()):
        found |= architectures(one)
    return found


def build_network(options: NetworkOptions) -> Accel:
    """ACCEL around the architecture, freshly initialised from the global torch generator.

    Raises:
        ConfigError: a network of your own cannot be built or called; see `OwnSegmenter`.
    """
    return around(options.architecture.build(options.space.num_classes), options)


def around(segmenter: Segmenter, options: NetworkOptions) -> Accel:
    """ACCEL around a segmenter that the architecture has built."""
    fuses = options.architecture.learns_fusion and options.fusion == "learned"
    accel = Accel(segmenter) if fuses else FrameByFrame(segmenter)
    accel.options = options
    return accel


def around_own(module: nn.Module, own: OwnNetwork, space: LabelSpace) -> Accel:
    """ACCEL around a network of your own, which is not copied; where no layer is named, one is proposed for features.

    Raises:
        ConfigError: it cannot be called, or `own` or `space` does not describe it; see `OwnSegmenter`.
    """
    found = [] if own.features else candidates(module, own.frame_size)
    chosen = proposed(found, space.num_classes)
    own = own if chosen is None else replace(own, features=chosen.name)
    options = NetworkOptions(own, classes=space.classes, palette=space.colours)
    segmenter = OwnSegmenter(module, own, space.num_classes)
    segmenter.proposal = "" if chosen is None else proposal(chosen, found, space.num_classes)
    return around(segmenter, options)


def as_accel(network: object) -> tuple[NetworkOptions, Accel]:
    """A network with its options: built of `NetworkOptions`, or an `nn.Module` itself, which is not copied.

    A module that is no `Accel` (of `build_network` or `stpl.load`) maps frames with ImageNet's normalisation to logits
    of the 19 classes of Cityscapes; `stpl.load` takes any other.

    Raises:
        ConfigError: it cannot be built or called.
    """
    if isinstance(network, NetworkOptions):
        return network, build_network(network)
    if not isinstance(network, nn.Module):
        what = f"it is a {type(network).__name__}, neither NetworkOptions nor an nn.Module"
        raise ConfigError(what, where="network", mend="give options, a module, or stpl.load(…).network")
    accel = network if isinstance(network, Accel) else around_own(plain(network), OwnNetwork(IN_MEMORY), CITYSCAPES_19)
    if not isinstance(accel.options, NetworkOptions):
        mend = "let build_network or stpl.load put it together"
        raise ConfigError("this ACCEL does not say which network is in it", where="network", mend=mend)
    return accel.options, accel
