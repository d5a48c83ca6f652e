"""`stpl weights inspect` and `convert`: checkpoints of other programs, made into ours.

| layout | written by | recognised by |
|---|---|---|
| torchvision | torchvision's ResNet-18 to -101 | plain ResNet keys |
| caffe | `DeepLab_resnet_pretrained_*.pth`, with which AdaptSegNet and its heirs start | `Scale.` before each key |
| advent | ADVENT and others that sum all four dilations | `layer5`, `layer6` |
| adaptsegnet | AdaptSegNet, whose code returns after two of its four dilations | has the same keys as `advent` |
| accel | DA-VSN, TPS, CMOM | `layer5`, `layer6`, `sf_layer` |

In the last three, `layer6` classifies layer4's output and `layer5` is the auxiliary classifier of layer3's; only
AdaptSegNet's single-level network calls its one classifier `layer5`. An image network becomes the ACCEL network that
predicts the same: its score fusion is [I|0]. The classifiers of the first two are for other classes and stay out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from stpl.data.label_space import SPACES
from stpl.errors import CheckpointError, ConfigError
from stpl.nn import formats, weights
from stpl.nn.accel import no_fusion
from stpl.nn.deeplab import BLOCKS, DeepLabV2, StrideIn
from stpl.nn.network import NetworkOptions, build_network
from stpl.nn.state import COUNTER, TOP, candidates, find

LayoutName = Literal["torchvision", "caffe", "advent", "adaptsegnet", "accel"]
FRAME_SIZE = (512, 1024)  # at which the lineage evaluates: what a converted checkpoint says of its frames
_OURS = (
    (weights.BACKBONE, ""), ("segmenter.classifier.", "layer6."), ("segmenter.auxiliary.", "layer5."),
    ("score_fusion.", "sf_layer."),
)  # fmt: skip
_HEADS = ("layer5.", "layer6.", "sf_layer.")
_DILATIONS = {4: (6, 12, 18, 24), 2: (6, 12)}
_NAMES_SHOWN = 6


class ForeignLayout(NamedTuple):
    """What a layout implies for the network that its weights need."""

    title: str
    normalization: Literal["imagenet", "caffe"]
    stride_in: StrideIn
    classifies: bool  # whether it brings classifiers for the label space
    alike: LayoutName | None = None  # another layout that has the same keys


LAYOUTS: dict[LayoutName, ForeignLayout] = {
    "torchvision": ForeignLayout("torchvision's ResNet", "imagenet", "second", False, "caffe"),
    "caffe": ForeignLayout("Caffe's ResNet as DeepLabV2 takes it", "caffe", "first", False),
    "advent": ForeignLayout("ADVENT's DeepLabV2", "caffe", "first", True, "adaptsegnet"),
    "adaptsegnet": ForeignLayout("AdaptSegNet's DeepLabV2: the first two dilations only", "caffe", "first", True),
    "accel": ForeignLayout("ACCEL of DA-VSN, TPS and CMOM", "caffe", "first", True),
}


class Foreign(NamedTuple):
    """A checkpoint of another program, understood."""

    layout: LayoutName
    tensors: dict[str, Tensor]  # what can be converted, by the names of `accel`
    left_out: tuple[str, ...]  # keys that belong to its layout and are not converted
    architecture: DeepLabV2  # the image network of ours that takes the weights
    num_classes: int | None  # `None` without a classifier


def understand(path: Path, layout: LayoutName | Literal["auto"] = "auto", key: str | None = None) -> Foreign:
    """Read a foreign checkpoint and find out what it is.

    Args:
        path: a file that holds a state_dict, bare or under any key.
        layout: a key of `LAYOUTS` where the keys leave a choice (`adaptsegnet`, or `caffe` for plain ResNet keys).
        key: which state_dict, where the file holds several.

    Raises:
        CheckpointError: missing, torn, one of ours, of no known layout, or of another one than `layout`.
    """
    content = weights.read(path)
    if "stpl" in content:
        raise CheckpointError("this checkpoint is one of ours already", where=path, mend="use it as it is")
    state = weights.tensors(content, path, key)
    name = _recognised(state, layout, path)
    made = LAYOUTS[name]
    state = {key.removeprefix("Scale."): value for key, value in state.items()}
    if made.classifies and not _starting(state, "layer6."):
        state = {key.replace("layer5.", "layer6."): value for key, value in state.items()}
    unused: tuple[str, ...] = () if made.classifies else ("fc.", "layer5.")
    if name == "adaptsegnet":
        unused = tuple(f"{head}conv2d_list.{i}." for head in ("layer5.", "layer6.") for i in (2, 3))
    left_out = tuple(_starting(state, unused))
    kept = {key: value for key, value in state.items() if key not in left_out}
    classifier = _starting(kept, "layer6.conv2d_list.")
    branches = len({key.split(".")[2] for key in classifier})
    if branches and branches not in _DILATIONS:
        raise CheckpointError(f"its classifier has {branches} dilations, 2 or 4 are known", where=path)
    architecture = DeepLabV2(
        _depth(kept, path),
        width=len(kept["conv1.weight"]),
        dilations=_DILATIONS[branches or 4],
        normalization=made.normalization,
        stride_in=made.stride_in,
        auxiliary=bool(_starting(kept, "layer5.")),
    )
    return Foreign(name, kept, left_out, architecture, len(kept[classifier[0]]) if classifier else None)


def _starting(state: Mapping[str, Tensor], prefix: str | tuple[str, ...]) -> list[str]:
    return [key for key in state if key.startswith(prefix)]


def _recognised(state: Mapping[str, Tensor], given: LayoutName | Literal["auto"], path: Path) -> LayoutName:
    """The layout that keys show, or the given one where they leave that choice."""
    found: LayoutName = "torchvision"
    if "Scale.conv1.weight" in state:
        found = "caffe"
    elif "conv1.weight" not in state or not _starting(state, "layer4."):
        shown = ", ".join(list(state)[:_NAMES_SHOWN]) or "none at all"
        mend = f"give a checkpoint of one of: {', '.join(LAYOUTS)}"
        raise CheckpointError(f"its layout is not known; keys such as {shown}", where=path, mend=mend)
    elif "sf_layer.weight" in state:
        found = "accel"
    elif _starting(state, ("layer5.conv2d_list.", "layer6.conv2d_list.")):
        found = "advent"
    if given == "auto":
        return found
    possible = [name for name in (found, LAYOUTS[found].alike) if name is not None]
    if given not in possible:
        mend = f"give --layout={' or '.join(possible)}"
        raise CheckpointError(f"its keys are not of layout {given}", where=path, mend=mend)
    return given


def _depth(state: Mapping[str, Tensor], path: Path) -> int:
    blocks = tuple(len({key.split(".")[1] for key in _starting(state, f"layer{i}.")}) for i in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in state
    for depth, known in BLOCKS.items():
        if known == blocks and (depth >= 50) == bottleneck:
            return depth
    kind = "bottlenecks" if bottleneck else "blocks"
    what = f"a ResNet with {', '.join(map(str, blocks))} {kind} a stage"
    raise CheckpointError(what, where=path, mend=f"only depths {', '.join(map(str, BLOCKS))} are known")


def _translated(foreign: Foreign, options: NetworkOptions, holds: weights.Holds, path: Path) -> dict[str, Tensor]:
    """The weights by our names, with what may be absent: BatchNorm's counters, the score fusion of an image network."""
    given, wanted = foreign.tensors, _blueprint(options, holds)
    if holds == "backbone":
        given = {key: value for key, value in given.items() if not key.startswith(_HEADS)}
    fill = {key: torch.zeros((), dtype=torch.int64) for key in wanted if key.endswith(COUNTER)}
    if holds == "network" and foreign.layout != "accel":
        fill["score_fusion.weight"] = no_fusion(options.space.num_classes)
    names = {key: _their_name(key) for key in wanted}
    demanded = {names[key]: value for key, value in wanted.items() if key not in fill or names[key] in given}
    weights.check_fit(given, demanded, path, mend="see `stpl weights inspect`; it is no network of a known layout")
    full = {key: given[names[key]] if names[key] in given else fill[key] for key in wanted}
    return {key: value.float() if value.is_floating_point() else value for key, value in full.items()}


def _blueprint(options: NetworkOptions, holds: weights.Holds = "network") -> dict[str, Tensor]:
    """Keys and shapes, without memory."""
    with torch.device("meta"):
        state: dict[str, Tensor] = build_network(options).state_dict()
    return {key: value for key, value in state.items() if holds == "network" or key.startswith(weights.BACKBONE)}


def _their_name(key: str) -> str:
    ours, theirs = next(pair for pair in _OURS if key.startswith(pair[0]))
    return theirs + key.removeprefix(ours)


def describe(checkpoint: Path, layout: LayoutName | Literal["auto"] = "auto", key: str | None = None) -> dict[str, str]:
    """What a checkpoint is, foreign or one of ours: property → its value in words; see `understand`."""
    content = weights.read(checkpoint)
    if "stpl" in content:
        ours = weights.entry(checkpoint)
        made = ours["network"]["architecture"]
        options = ", ".join(f"{name}={value}" for name, value in made["init_args"].items())
        network = f"{made['class_path'].rpartition('.')[2]}, {options}, label_space={ours['network']['label_space']}"
        found = {"layout": "stpl", "holds": ours.get("holds", "network"), "network": network, "step": ours["step"]}
        return {**found, "classes": ", ".join(ours["classes"]), "origin": ours.get("origin", "trained by stpl")}
    found = _findings(understand(checkpoint, layout, key))
    chosen = find(content, key)[0]
    beside = ", ".join(name for name in candidates(content) if name != chosen)
    where = "the file itself" if chosen == TOP else chosen
    return found | {"state_dict": f"{where} (there is also {beside}: --key)" if beside else where}


def _findings(foreign: Foreign) -> dict[str, str]:
    layout, made = LAYOUTS[foreign.layout], foreign.architecture
    alike = ""
    if layout.alike is not None:
        alike = f" (by its keys it may also be --layout={layout.alike}: {LAYOUTS[layout.alike].title})"
    options = NetworkOptions(made, next(iter(SPACES)))
    known = {_their_name(key) for key in _blueprint(options, "network" if foreign.num_classes else "backbone")}
    known_absent = {key for key in known if key.endswith(COUNTER)} | {"sf_layer.weight"}
    channels = "BGR, mean only" if layout.normalization == "caffe" else "RGB, mean and standard deviation"
    where = {"first": "1×1 convolution, as in Caffe", "second": "3×3 convolution, as in torchvision"}[layout.stride_in]
    stride = f"a bottleneck's is in its {where}" if made.depth >= 50 else "in the first of two 3×3 convolutions"
    classes, classifiers = "none: only the backbone can be converted", "none"
    if foreign.num_classes is not None:
        spaces = ", ".join(name for name, space in SPACES.items() if space.num_classes == foreign.num_classes)
        fits = f"label spaces of that size: {spaces}" if spaces else "no label space has as many"
        levels = "of layer4 and layer3 (multi-level)" if made.auxiliary else "of layer4 (single-level)"
        fusion = "score fusion" if "sf_layer.weight" in foreign.tensors else "no score fusion: an image network"
        classes = f"{foreign.num_classes} ({fits})"
        classifiers = f"{levels}, {len(made.dilations)} dilations each, {fusion}"
    counts = {"backbone": sum(not key.startswith(_HEADS) for key in foreign.tensors)}
    counts |= {head.rstrip("."): len(_starting(foreign.tensors, head)) for head in _HEADS}
    parts = [f"{count} {name}" for name, count in counts.items() if count]
    return {
        "layout": f"{foreign.layout}: {layout.title}{alike}",
        "network": f"ResNet-{made.depth}, width {made.width}",
        "stride": stride,
        "normalisation": f"{layout.normalization}: {channels}",
        "classes": classes,
        "classifiers": classifiers,
        "tensors": f"{len(foreign.tensors)}: {', '.join(parts)}",
        "left out": _names(foreign.left_out),
        "missing": _names(sorted(known - known_absent - foreign.tensors.keys())),
        "unknown": _names(sorted(foreign.tensors.keys() - known)),
    }


def _names(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more if names else "nothing"


def convert(
    foreign: Foreign, checkpoint: Path, out: Path, label_space: str = "viper15", *, backbone_only: bool = False
) -> tuple[weights.Holds, dict[str, Any]]:
    """Write a foreign checkpoint as one of ours; what it holds, and the settings of a network that takes it.

    `out` must not exist. The label space is that of the classes it predicts, in their order.
    """
    if out.exists():
        raise ConfigError("this file exists already", where=out, mend="delete it, or give another --out")
    holds: weights.Holds = "backbone" if backbone_only or foreign.num_classes is None else "network"
    options = NetworkOptions(foreign.architecture, label_space)
    if holds == "network" and foreign.num_classes != options.space.num_classes:
        what = f"predicts {foreign.num_classes} classes, '{label_space}' has {options.space.num_classes}"
        mend = "give the --label_space it was trained for, or --backbone_only=true"
        raise CheckpointError(what, where=checkpoint, mend=mend)
    state = _translated(foreign, options, holds, checkpoint)
    weights.check_finite(state, checkpoint)
    origin = f"{checkpoint.name}, layout {foreign.layout}"
    description = weights.description(options, FRAME_SIZE, step=0, holds=holds, origin=origin)
    formats.write(out, {"state_dict": {f"network.{key}": value for key, value in state.items()}, "stpl": description})
    given = options.architecture.to_dict()["init_args"]
    if holds == "network":
        return holds, {f"architecture.{name}": value for name, value in given.items()} | {"label_space": label_space}
    return holds, {f"architecture.{name}": given[name] for name in options.architecture.of_backbone}
