"""Where a network comes from and how it is asked: one description for all verbs and Python. It imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stpl.apply import option_values as values
from stpl.data.label_space import SPACES, LabelSpace, own_classes
from stpl.errors import CheckpointError, ConfigError, unknown
from stpl.nn import builder, normalization
from stpl.nn.checkpoint_files import existing, located
from stpl.yaml_files import load_yaml

if TYPE_CHECKING:
    from torch import nn

HUGGING_FACE = "hf:"
_YAML = (".yaml", ".yml")
_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors", ".bin", ".tar")

Kind = Literal["checkpoint", "callable", "hugging face", "python"]

_USELESS: dict[Kind, tuple[tuple[str, ...], str]] = {
    "checkpoint": (
        ("weights", "key", "arguments", "features", "logits", "classes", "mean", "std", "channels"),
        "a checkpoint of the suite tells that itself",
    ),
    "callable": ((), ""),
    "hugging face": (("weights", "key", "arguments"), "a network of Hugging Face brings them"),
    "python": (("arguments",), "the network is there already"),
}
"""Options that would do nothing with a network of each kind, and why."""


@dataclass(frozen=True)
class NetworkSource:
    """Where a network comes from, and how it is asked. What it holds is checked, as far as that needs no torch.

    A YAML file given as `model` is read: what is given beside it wins over what it says. A `model` that is a checkpoint
    becomes `checkpoint`.

    Attributes:
        checkpoint: a checkpoint of the suite, or the name of a shipped one, such as `streets` or `streets:3`.
        model: `package.module:callable`, `hf:` with a folder or a name on the hub of Hugging Face, or from Python the
            network itself. With `checkpoint`: what builds its network, if that is one of your own.
        weights: file with its state dict; the weights that the callable gives it if not given.
        key: which state dict, where the file holds several.
        arguments: of the callable.
        features: layer whose output the features are; proposed if not given.
        logits: where the logits stand in what it returns.
        classes: a label space by name, or a YAML file with the classes (`read_classes`).
        mean: of frames in 0..255 for each channel; ImageNet's, or what the network's own files say, if not given.
        std: likewise; given together with `mean`.
        channels: rgb or bgr, the order of its input, and of mean and std; rgb, or what its own files say, if not given.
        size: height and width of the frames that it sees; what a checkpoint was trained at if not given.

    Raises:
        StplError: something is of another type or out of range, is not there, or would do nothing.
    """

    checkpoint: Path | None = None
    model: str | nn.Module | None = None
    weights: Path | None = None
    key: str | None = None
    arguments: Mapping[str, Any] | None = None
    features: str | None = None
    logits: str | None = None
    classes: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channels: str | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        found, places = _with_file({name: value for name, value in given.items() if value is not None})
        for name in given:
            object.__setattr__(self, name, found.get(name))
        self._check_together(places)
        self._check_files(places)

    @property
    def kind(self) -> Kind:
        """What the network comes from."""
        if self.checkpoint is not None:
            return "checkpoint"
        if not isinstance(self.model, str):
            return "python"
        return "hugging face" if self.model.startswith(HUGGING_FACE) else "callable"

    @property
    def space(self) -> LabelSpace | None:
        """Its classes, if they are given."""
        return None if self.classes is None else read_classes(self.classes)

    def _check_together(self, places: Mapping[str, str]) -> None:
        """Refuse what would do nothing beside the rest, what lacks its other half, and a network without a size."""
        names, why = _USELESS[self.kind]
        useless = dict.fromkeys(names, why)
        if self.weights is None:
            useless.setdefault("key", "it chooses among the state dicts of --weights")
        for name, reason in useless.items():
            if getattr(self, name) is not None:
                raise ConfigError(f"this does nothing here: {reason}", where=places[name], mend="leave it out")
        if (self.mean is None) != (self.std is None):
            name, other = ("mean", "std") if self.std is None else ("std", "mean")
            mend = "give both, for frames in 0…255, such as --mean=123.7,116.3,103.5 --std=58.4,57.1,57.4"
            raise ConfigError(f"is given without {other}", where=places[name], mend=mend)
        if self.mean is not None and self.std is not None:
            normalization.check_scale(self.mean, self.std, places["mean"], places["std"])
        if self.kind != "checkpoint" and self.size is None:
            raise ConfigError("the frames' size is not known", where="--size", mend="give it: --size=HEIGHT,WIDTH")

    def _check_files(self, places: Mapping[str, str]) -> None:
        """Refuse files, folders and packages that are not there."""
        if self.checkpoint is not None:
            existing(self.checkpoint)
        if self.weights is not None and not self.weights.is_file():
            what = "is a folder" if self.weights.is_dir() else "no such file"
            raise CheckpointError(
                f"{what} ({places['weights']})", where=self.weights, mend="give the file of its weights"
            )
        if self.classes is not None:
            read_classes(self.classes, places["classes"])
        if self.model is not None:
            _check_model(self.model, places["model"], beside=self.checkpoint is not None)


def _check_model(model: str | nn.Module, where: str, beside: bool) -> None:
    """Refuse what names neither a callable nor a network of Hugging Face, or one that is not there."""
    if not isinstance(model, str):
        if beside:
            mend = "give the checkpoint's weights to the network, or name what builds it"
            raise ConfigError("a network and a checkpoint are given", where=where, mend=mend)
    elif model.startswith(HUGGING_FACE):
        name = model.removeprefix(HUGGING_FACE)
        if not name and not beside:
            mend = "write hf:FOLDER, or hf:NAME of a network on the hub"
            raise ConfigError("names no network of Hugging Face", where=where, mend=mend)
        if name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
            raise ConfigError(f"there is no folder {name}", where=where, mend="check the path")
    elif builder.is_name(model):
        builder.check_found(model, where)
    elif beside:
        what = f"'{model}' builds no network, and the checkpoint is given already"
        raise ConfigError(
            what, where=where, mend="give one of --checkpoint and --model, or name what builds its network"
        )
    else:
        raise builder.no_name(model, where)


def _with_file(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """All that is given, and by a YAML file that `model` names; each value checked; and where each stands."""
    found = {name: _CHECKS[name](value, f"--{name}") for name, value in given.items()}
    places = {name: f"--{name}" for name in found}
    if "checkpoint" not in found and "model" not in found:
        raise ConfigError("give a network", where="--model", mend="give --checkpoint=FILE, or --model=…")
    if "checkpoint" in found and found["checkpoint"].suffix in _YAML:
        mend = f"give it as --model={found['checkpoint']}"
        raise ConfigError("is a description of a network, no checkpoint", where=found["checkpoint"], mend=mend)
    if _is_file(found.get("model")):
        file = Path(found["model"])
        written = read_network(file)
        if "checkpoint" in found:
            written = {"model": written["model"]}  # the checkpoint holds the rest
        found = {**written, **found, "model": written["model"]}
        places = {**{name: f"{file}: {name}" for name in written}, **places}
    if "checkpoint" not in found and _is_checkpoint(found["model"]):
        found["checkpoint"] = Path(found.pop("model"))
    return found, places


def _is_file(model: object) -> bool:
    return isinstance(model, str) and Path(model).suffix in _YAML


def _is_checkpoint(model: object) -> bool:
    """Whether `model` is the path of a checkpoint, there or not, or the name of a shipped one."""
    if not isinstance(model, str) or model.startswith(HUGGING_FACE):
        return False
    if ":" not in model or Path(model).suffix in _CHECKPOINTS:
        return True
    with suppress(OSError):  # a name that is too long for a file
        if located(Path(model)).is_file():
            return True
    module, _, _ = model.rpartition(":")
    return ("/" in model or "\\" in model) and not module.endswith(".py")


def _model(value: Any, where: str) -> Any:
    """A text, or a network that Python holds."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        return value
    if isinstance(value, type):
        mend = f"give an object of it: {value.__name__}(…)"
        raise ConfigError(f"{values.shown(value)} is no network", where=where, mend=mend)
    what = "a network: a checkpoint, package.module:callable, hf:NAME, a YAML file, or from Python an nn.Module"
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{values.shown(value)} is no network", where=where, mend=f"give {what}")
    return values.text(os.fspath(value), where, what)


def _channels(value: Any, where: str) -> str:
    normalization.check_channels(value if isinstance(value, str) else values.shown(value), where)
    return str(value)


def _classes(value: Any, where: str) -> str:
    if not isinstance(value, str | os.PathLike):
        mend = f"give one of {', '.join(SPACES)}, or a YAML file: 'classes: [road, …]'"
        raise ConfigError(f"{values.shown(value)} is no label space", where=where, mend=mend)
    return values.text(os.fspath(value), where, "a label space, or a YAML file")


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "checkpoint": lambda value, where: values.path(value, where, "a checkpoint"),
    "model": _model,
    "weights": lambda value, where: values.path(value, where, "a file of weights"),
    "key": lambda value, where: values.text(value, where, "the name of a state dict"),
    "arguments": values.plain_arguments,
    "features": lambda value, where: values.text(value, where, "the name of a layer"),
    "logits": lambda value, where: values.text(value, where, "a key, an attribute or a place"),
    "classes": _classes,
    "mean": normalization.three_numbers,
    "std": normalization.divisors,
    "channels": _channels,
    "size": values.size,
}
"""What makes of a value, and of the name of its option, the value to use, or raises `ConfigError`."""


def builder_of(model: str) -> str:
    """What builds the network that `--model` names, which may be a YAML file."""
    return str(read_network(Path(model))["model"]) if _is_file(model) else model


def read_network(path: Path) -> dict[str, Any]:
    """What a YAML file says of a network, under the names of the command line's options; see `NetworkSource`.

    Numbers may be written as on the command line, `size: 64,96`. Paths in it are relative to the working directory.

    Raises:
        ConfigError: it lacks `model`, or holds something else, or a value of another type.
    """
    known = [name for name in _CHECKS if name != "checkpoint"]
    content = load_yaml(path)
    for name in content:
        if name not in known:
            raise unknown("key", name, known, path)
    if "model" not in content:
        raise ConfigError("lacks 'model'", where=path, mend=f"write some of: {', '.join(known)}")
    if _is_file(content["model"]):
        raise ConfigError("names another file", where=path, mend="write what that one holds")
    found = {}
    for name, value in content.items():
        if value is None:
            raise ConfigError("is empty", where=f"{path}: {name}", mend="write a value behind it, or leave it out")
        numbers = name in ("mean", "std", "size")
        found[name] = _CHECKS[name](values.of_text(value) if numbers else value, f"{path}: {name}")
    return found


def read_classes(name: str, where: str = "--classes") -> LabelSpace:
    """A label space by its name, or from a YAML file: `classes`, and `palette` (RGB of each) if there is one.

    Args:
        name: of the label space or the file.
        where: name of the option.

    Raises:
        ConfigError: there is no such name or file, or it lists no classes.
    """
    path = Path(name)
    if path.suffix not in _YAML:
        if name not in SPACES:
            raise unknown("label space", name, SPACES, where)
        return SPACES[name]
    content = load_yaml(path)
    for key in content:
        if key not in ("classes", "palette"):
            raise unknown("key", key, ("classes", "palette"), path)
    names = content.get("classes")
    if not isinstance(names, list):
        mend = "write 'classes: [road, …]' and, if you like, 'palette: [[r, g, b], …]'"
        raise ConfigError("lacks a list 'classes'", where=path, mend=mend)
    colours = content.get("palette", ())
    if "palette" in content and colours == []:
        colours = None
    return own_classes(names, colours, f"{path}: ")
