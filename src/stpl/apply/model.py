"""What `--model` may be: a checkpoint of the suite, or a network of your own by the function that builds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stpl.apply.network import Frame, checked, load_network, predict
from stpl.data.label_space import LabelSpace, label_space, own_classes
from stpl.errors import ConfigError, StplError, note
from stpl.nn import huggingface, weights
from stpl.nn.accel import Accel
from stpl.nn.finite import fault
from stpl.nn.layers import candidates, proposed
from stpl.nn.network import NetworkOptions, around
from stpl.nn.own import IN_MEMORY, OwnNetwork, OwnSegmenter, build_module, lending, own_weights
from stpl.nn.state import same
from stpl.nn.wrappers import plain, wrapped_as
from stpl.runs.experiments import load_yaml

HUGGING_FACE = "hf:"
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Model:
    """A network to adapt.

    Attributes:
        options: what it is, for checkpoints and command lines.
        frame_size: height and width of the frames it is to see.
        checkpoint: its weights, if a checkpoint of the suite holds them.
        network: the network itself, if it is of your own.
        origin: the network it is a copy of, if Python code holds that.
    """

    options: NetworkOptions
    frame_size: tuple[int, int]
    checkpoint: Path | None = None
    network: Accel | None = None
    origin: nn.Module | None = None

    def at_hand(self) -> AbstractContextManager[None]:
        """Within it, checkpoints of the network can be loaded even if only Python code holds it."""
        return nullcontext() if self.origin is None else lending(self.origin)

    @property
    def build(self) -> str | None:
        """What builds a network of your own."""
        return None if self.options.own is None else self.options.own.build

    @property
    def name(self) -> str:
        """What to call it: what builds it, the run that trained it, or its file."""
        if self.origin is not None:
            return type(plain(self.origin)).__name__
        if self.build is not None or self.checkpoint is None:
            return str(self.build)
        inside = self.checkpoint.parent.name == "checkpoints"
        return self.checkpoint.parents[2].name if inside else self.checkpoint.stem

    @property
    def accel(self) -> Accel:
        """The network in its ACCEL, in evaluation mode; that of DeepLabV2's checkpoint is loaded anew at each call."""
        if self.network is not None:
            return self.network.eval()
        assert self.checkpoint is not None
        return load_network(self.checkpoint)

    @property
    def module(self) -> nn.Module:
        """What the callable builds or Hugging Face loads; of a checkpoint of the suite, its segmenter.

        What Python code holds within wrappers (`torch.compile`, DataParallel, AveragedModel) comes within the same.
        """
        segmenter = self.accel.segmenter
        if not isinstance(segmenter, OwnSegmenter):
            return segmenter
        return segmenter.net if self.origin is None else wrapped_as(self.origin, segmenter.net)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes, in the order of the ids that it predicts."""
        return self.options.space.classes

    def predict(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Label maps uint8 `[H,W]` of frames uint8 `[H,W,3]` RGB in order, each at its own size, the first one's too.

        The network may use the frame before; the first one is its own.

        Raises:
            DataError: a frame is something else: floating-point, grey, with an alpha channel, a tensor.
        """
        frames = checked(frames)
        for first in frames:
            for (labels,) in predict([self.accel], chain([first, first], frames), self.frame_size):
                yield labels

    def adapted(self, checkpoint: Path) -> Model:
        """The same with the weights of a checkpoint that an adaptation of it wrote."""
        if self.network is None:
            return replace(self, checkpoint=checkpoint)
        with self.at_hand():
            return replace(self, network=load_network(checkpoint, self.build))

    def is_in(self, path: Path) -> bool:
        """Whether a checkpoint holds the very weights of the network."""
        assert self.network is not None
        kept, mine = weights.tensors(weights.read(path), path), self.network.state_dict()
        return kept.keys() == mine.keys() and all(same(kept[name], value) for name, value in mine.items())

    def hand_back(self, state: Mapping[str, torch.Tensor], folder: Path) -> Path:
        """Write weights of a network of your own in the form in which it came.

        Args:
            state: under the network's own names (`own_state`).
            folder: to write into.

        Returns:
            `adapted.pt`, the state dict; or the folder `adapted`, which `from_pretrained` reads.
        """
        assert self.network is not None
        own, segmenter = self.options.own, self.network.segmenter
        assert own is not None
        assert isinstance(segmenter, OwnSegmenter)
        if own.build != huggingface.BUILD:
            _write(folder / "adapted.pt", state)
            return folder / "adapted.pt"
        segmenter.net.load_state_dict(dict(state))
        huggingface.save(segmenter.net, str(own.arguments["name"]), folder / "adapted")
        return folder / "adapted"

    def save(self, path: Path) -> None:
        """Write a network of your own as a checkpoint of the suite, whole or not at all."""
        assert self.network is not None
        told = weights.description(self.options, self.frame_size, 0)
        _write(path, {"stpl": told, "state_dict": self.network.state_dict()})


def own_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The state dict of a network of your own, under its own names, from a checkpoint of the suite."""
    before = "segmenter.net."
    state = weights.tensors(weights.read(checkpoint), checkpoint)
    return {name.removeprefix(before): value for name, value in state.items() if name.startswith(before)}


def open_model(
    model: str | nn.Module,
    size: tuple[int, int] | None,
    *,
    state: Path | None = None,
    key: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    features: str | None = None,
    logits: str | None = None,
    classes: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    channels: str | None = None,
    build: str | None = None,
) -> Model:
    """The network that `model` names.

    Args:
        model: a checkpoint of the suite, the name of a shipped one, `package.module:callable`, `hf:` with a folder or
            a name on the hub of Hugging Face, or a YAML file that holds `model` and the rest (`read_network`); from
            Python also the network itself, which is copied.
        size: height and width of the frames it is to see; what a checkpoint was trained at if not given.
        state: weights of a network of your own; as its callable gives it if not given.
        key: which state dict, where the file holds several.
        arguments: of the callable.
        features: name of the layer whose output the features are; proposed if not given.
        logits: where the logits stand in what it returns.
        classes: a label space by name, or a YAML file with the classes (`read_classes`); if not given, what a network
            of Hugging Face says, and Cityscapes' 19 for another.
        mean: of its normalisation; if not given, what a network of Hugging Face says, and ImageNet's for another.
        std: likewise.
        channels: "rgb" or "bgr", likewise; "rgb" for another.
        build: for a checkpoint of a network of your own, what builds it: no file has a function called.

    Raises:
        StplError: for anything that cannot be used.
    """
    given = {"weights": state, "key": key, "arguments": arguments, "features": features, "logits": logits,
             "classes": classes, "mean": mean, "std": std, "channels": channels}  # fmt: skip
    if isinstance(model, str):
        if Path(model).suffix in _YAML:
            return open_model(**{"size": size, **read_network(Path(model))})
        located = weights.located(Path(model))
        if located.is_file() or ":" not in model:
            _refuse(given, tuple(given), "a checkpoint of the suite tells that itself")
            return _described(located, size, build)
    if size is None:
        raise ConfigError("the frames' size is not known", where="--size", mend="give it: --size=HEIGHT,WIDTH")
    own = replace(_source(model, given), features=features or "", logits=logits or "", frame_size=size)  # fmt: skip
    origin = model if isinstance(model, nn.Module) else None
    with nullcontext() if origin is None else lending(origin):
        module = build_module(own)
    if state is not None:
        own_weights(module, weights.of_file(state, key), state)
    if not own.features and (found := proposed(candidates(module, size), len(own.classes))) is not None:
        own = replace(own, features=found.name)
    options = NetworkOptions(own=own)
    network = around(module, options)
    if (bad := fault(module.state_dict())) is not None:
        raise ConfigError(f"its weights are of no use: {bad}", where="--model", mend="give it other weights")
    return Model(options, size, network=network, origin=origin)


def _described(checkpoint: Path, size: tuple[int, int] | None, build: str | None) -> Model:
    """What a checkpoint of the suite holds; a network of your own is loaded at once."""
    build = None if build is None else builder(build)
    options, size = weights.describe(checkpoint, build), size or weights.frame_size(checkpoint)
    if options.own is None:
        _refuse({"model": build}, ("model",), "the checkpoint is of DeepLabV2, which the suite builds itself")
        return Model(options, size, checkpoint)
    return Model(options, size, network=load_network(checkpoint, build))


def builder(model: str) -> str:
    """What builds the network that `--model` names, which may be a YAML file."""
    return str(read_network(Path(model))["model"]) if Path(model).suffix in _YAML else model


def _source(model: str | nn.Module, given: Mapping[str, Any]) -> OwnNetwork:
    """Where a network of your own comes from, with its classes and its normalisation."""
    space = read_classes(given["classes"]) if given["classes"] else None
    hub = None  # name of a network of Hugging Face
    if isinstance(model, nn.Module):
        _refuse(given, ("arguments",), "the network is there already")
        config = getattr(plain(model), "config", None)
        own, space = OwnNetwork(IN_MEMORY), space or huggingface.classes_told(config)
        hub = getattr(config, "_name_or_path", None)
    elif model.startswith(HUGGING_FACE):
        _refuse(given, ("weights", "key", "arguments"), "a network of Hugging Face brings them")
        hub = model.removeprefix(HUGGING_FACE)
        own, space = OwnNetwork(huggingface.BUILD, {"name": hub}), space or huggingface.classes_of(hub)
    else:
        own = OwnNetwork(model, dict(given["arguments"] or {}))
    if hub is not None:
        own = _as_its_processor(own, hub, given)
    space = space or read_classes("cityscapes19")
    said = {name: given[name] for name in ("mean", "std", "channels") if given[name] is not None}
    return replace(own, **said, classes=space.classes, palette=space.colours)


def _as_its_processor(own: OwnNetwork, name: str, given: Mapping[str, Any]) -> OwnNetwork:
    """A network of Hugging Face with the normalisation of its image processor; a note where that is not known."""
    if all(given[setting] is not None for setting in ("mean", "std", "channels")):
        return own
    known = huggingface.preprocessing_of(name) if name else None
    if known is not None:
        mine = known if given["mean"] is None and given["std"] is None else own
        return replace(own, mean=mine.mean, std=mine.std, channels=known.channels)
    if given["mean"] is None:
        mean, std = (",".join(f"{value:g}" for value in values) for values in (own.mean, own.std))
        assumed = f"mean {mean}, std {std} in 0…255, {given['channels'] or own.channels}"
        where = f"{HUGGING_FACE}{name}" if name else "the network"
        note(f"no image processor says its normalisation; assumed: {assumed} (--mean, --std, --channels)", where)
    return own


def _refuse(given: Mapping[str, object], names: Sequence[str], why: str) -> None:
    """Raise `ConfigError` for an option that would do nothing."""
    for name in names:
        if given[name] is not None:
            raise ConfigError(f"this does nothing here: {why}", where=f"--{name}", mend="leave it out")


def _write(path: Path, content: Mapping[str, object]) -> None:
    """Save a checkpoint, whole or not at all."""
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(content), partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer has errors of its own for a full disk
        partial.unlink(missing_ok=True)
        what = str(error).splitlines()[0]
        raise StplError(f"cannot be written: {what}", where=path, mend="free some space, or mend the rights") from error


def read_classes(name: str) -> LabelSpace:
    """A label space by its name, or from a YAML file: `classes`, and `palette` (RGB of each) if there is one.

    Raises:
        ConfigError: there is no such name or file, or it lists no classes.
    """
    path = Path(name)
    if path.suffix not in _YAML:
        return label_space(name)
    content = load_yaml(path)
    unknown = content.keys() - {"classes", "palette"}
    names = content.get("classes")
    if unknown or not isinstance(names, list):
        what = f"the key '{min(unknown)}' is unknown" if unknown else "lacks a list 'classes'"
        raise ConfigError(
            what, where=path, mend="write 'classes: [road, …]' and, if you like, 'palette: [[r, g, b], …]'"
        )
    return own_classes([str(entry) for entry in names], content.get("palette") or ())


def read_network(path: Path) -> dict[str, Any]:
    """The arguments of `open_model` that a YAML file holds under the names of the command line's options.

    Raises:
        ConfigError: it lacks `model`, or holds something else; a path in it is not there.
    """
    known = {"model": str, "size": tuple, "weights": Path, "key": str, "arguments": dict, "features": str,
             "logits": str, "classes": str, "mean": tuple, "std": tuple, "channels": str}  # fmt: skip
    content = load_yaml(path)
    unknown = sorted(content.keys() - known.keys())
    if unknown or "model" not in content:
        what = f"the key '{unknown[0]}' is unknown" if unknown else "lacks 'model'"
        raise ConfigError(what, where=path, mend=f"write some of: {', '.join(known)}")
    if Path(str(content["model"])).suffix in _YAML:
        raise ConfigError("names another file", where=path, mend="write what that one holds")
    try:
        found = {name: known[name](value) for name, value in content.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error), where=path, mend="see `stpl adapt --help` for what each takes") from error
    return {("state" if name == "weights" else name): value for name, value in found.items()}
