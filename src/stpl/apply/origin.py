"""Where a network comes from and what it returns: one description for all commands and Python. It imports no torch."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stpl.apply import option_values as values
from stpl.errors import CheckpointError, ConfigError, shown, unknown
from stpl.nn import normalization
from stpl.nn.builder import check_found
from stpl.nn.checkpoint_files import existing, located
from stpl.option_types import Size
from stpl.yaml_files import load_yaml

if TYPE_CHECKING:
    from stpl.data.label_space import LabelSpace

HUGGING_FACE = "hf:"
_YAML = (".yaml", ".yml")
_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors", ".bin", ".tar")
_NETWORK = "a checkpoint, package.module:callable, hf:NAME, a YAML file, or from Python an nn.Module"

Kind = Literal["checkpoint", "callable", "hugging face", "python"]

_NOT_BUILT = "it is for the checkpoint of a network of your own"
_USELESS: dict[Kind, dict[str, str]] = {
    "checkpoint": dict.fromkeys(
        ("weights", "key", "arguments", "features", "logits", "classes", "mean", "std", "channels"),
        "a checkpoint of the suite says it",
    ),
    "callable": {"builder": _NOT_BUILT},
    "hugging face": dict.fromkeys(("weights", "key", "arguments"), "a network of Hugging Face brings them")
    | {"builder": _NOT_BUILT},
    "python": {"arguments": "the network is built already", "builder": _NOT_BUILT},
}
"""Options that would do nothing with a network of each kind, and why."""


@dataclass(frozen=True)
class NetworkOrigin:
    """Where a network comes from, and what it returns. Values are checked, as far as that needs no torch.

    A command has an option for each field, under its name. A YAML file given as `network` is read: what is given beside
    it wins over what it says.

    Attributes:
        network: a checkpoint of the suite; `streets` or `streets:3`, which the package ships;
            `package.module:callable`, which builds a network of your own; `hf:` with a folder or a name on the hub of
            Hugging Face; a YAML file that says all of this, by the names of these options; or, from Python, the network
            itself.
        builder: what builds the network of a checkpoint, if it is one of your own: as `network` has named it.
        weights: file with its state dict; the weights that the callable gives it if not given.
        key: which state dict, where the file holds several.
        arguments: of the callable, on the command line as JSON: '{"num_classes": 19}'.
        features: layer whose output the features are; proposed if not given.
        logits: where the logits are in what it returns, such as `out` or `0`.
        classes: a label space by name, or a YAML file with `classes` and, if you like, `palette`; those of the network
            if it comes from Hugging Face, else Cityscapes' 19, if not given.
        mean: what is subtracted from frames in 0..255, for each channel; ImageNet's, or what a network of Hugging Face
            brings, if not given.
        std: what they are divided by; given together with `mean`.
        channels: rgb or bgr, the order of its input, and of mean and std; rgb, or what a network of Hugging Face
            brings, if not given.
        size: height and width of the frames that it sees; what a checkpoint was trained at if not given.
        flow_estimator: of the optical flow between them: dis (OpenCV; on the CPU), raft or raft_small (torchvision), or
            package.module.Class of your own; dis if not given.

    Raises:
        StplError: a value is of another type or out of range, names nothing that exists, or would do nothing.
    """

    network: str | None = None  # the parser's type; the check takes an nn.Module too
    builder: str | None = None
    weights: Path | None = None
    key: str | None = None
    arguments: dict[str, Any] | None = None
    features: str | None = None
    logits: str | None = None
    classes: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channels: str | None = None
    size: Size | None = None
    flow_estimator: str | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        found, places = _with_files({name: value for name, value in given.items() if value is not None})
        for name in given:
            object.__setattr__(self, name, found.get(name))
        self._check_together(places)
        self._check_files(places)

    @property
    def kind(self) -> Kind:
        """What the network comes from."""
        if not isinstance(self.network, str):
            return "python"
        if _is_checkpoint(self.network):
            return "checkpoint"
        return "hugging face" if self.network.startswith(HUGGING_FACE) else "callable"

    @property
    def module(self) -> Any:
        """The network itself, where Python gives one, else `None`."""
        return self.network if self.kind == "python" else None

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint, or the name of a shipped one, if the network comes from one."""
        return Path(self.network) if isinstance(self.network, str) and self.kind == "checkpoint" else None

    def _check_together(self, places: Mapping[str, str]) -> None:
        """Refuse what would do nothing beside the rest, what lacks its other half, and a network without a size."""
        useless = dict(_USELESS[self.kind])
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
        """Refuse files, folders and packages that do not exist."""
        if self.checkpoint is not None:
            existing(self.checkpoint)
        if self.weights is not None and not self.weights.is_file():
            what = f"{'is a folder' if self.weights.is_dir() else 'no such file'} ({places['weights']})"
            raise CheckpointError(what, where=self.weights, mend="give the file of its weights")
        if self.classes is not None:
            read_classes(self.classes, places["classes"])
        if self.builder is not None:
            _check_builder(self.builder, places["builder"], nameless=True)
        elif isinstance(self.network, str) and self.checkpoint is None:
            _check_builder(self.network, places["network"])


def _check_builder(name: str, where: str, nameless: bool = False) -> None:
    """Refuse what names neither a callable nor a network of Hugging Face, or one that does not exist.

    `hf:` alone suffices where it may be nameless, because a checkpoint holds the name.
    """
    if not name.startswith(HUGGING_FACE):
        check_found(name, where)
        return
    place = name.removeprefix(HUGGING_FACE)
    if not place and not nameless:
        mend = "write hf:FOLDER, or hf:NAME of a network on the hub"
        raise ConfigError("names no network of Hugging Face", where=where, mend=mend)
    if place.startswith(("/", "./", "../", "~")) and not Path(place).is_dir():
        raise ConfigError(f"there is no folder {place}", where=where, mend="check the path")


def title_of(checkpoint: Path) -> str:
    """What to call a checkpoint: the experiment's name where a run wrote it, else the file's."""
    inside = checkpoint.parent.name == "checkpoints"
    return checkpoint.absolute().parents[2].name if inside else checkpoint.stem


def _with_files(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """All that is given directly and by YAML files, each value checked, and the place of each."""
    found = {name: _CHECKS[name](value, f"--{name}") for name, value in given.items()}
    places = {name: f"--{name}" for name in found}
    if "network" not in found:
        raise ConfigError("give a network", where="--network", mend=f"give {_NETWORK}")
    if _is_yaml(found["network"]):
        file = Path(found.pop("network"))
        written = read_network(file)
        found = {**written, **found}
        places = {**{name: f"{file}: {name}" for name in written}, **places, "network": f"{file}: network"}
    if _is_yaml(found.get("builder")):
        written = read_network(Path(found["builder"]))
        found["builder"] = str(written.get("builder", written["network"]))
    return found, places


def _is_yaml(name: object) -> bool:
    return isinstance(name, str) and Path(name).suffix in _YAML


def _is_checkpoint(name: str) -> bool:
    """Whether `name` is the path of a checkpoint, existing or not, or the name of a shipped one."""
    if name.startswith(HUGGING_FACE):
        return False
    if ":" not in name or Path(name).suffix in _CHECKPOINTS:
        return True
    with suppress(OSError):  # a name that is too long for a file
        if located(Path(name)).is_file():
            return True
    module, _, _ = name.rpartition(":")
    return ("/" in name or "\\" in name) and not module.endswith(".py")


def _network(value: Any, where: str) -> Any:
    """A text, or a network that Python holds."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        return value
    if not isinstance(value, str | os.PathLike):
        mend = f"give an object of it: {value.__name__}(…)" if isinstance(value, type) else f"give {_NETWORK}"
        raise ConfigError(f"{shown(value)} is no network", where=where, mend=mend)
    return values.text(os.fspath(value), where, f"a network: {_NETWORK}")


def _classes(value: Any, where: str) -> str:
    if not isinstance(value, str | os.PathLike):
        from stpl.data.label_space import SPACES

        mend = f"give one of {', '.join(SPACES)}, or a YAML file: 'classes: [road, …]'"
        raise ConfigError(f"{shown(value)} is no label space", where=where, mend=mend)
    return values.text(os.fspath(value), where, "a label space, or a YAML file")


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "network": _network,
    "builder": partial(values.text, what="package.module:callable, or a YAML file"),
    "weights": partial(values.path, what="a file of weights"),
    "key": partial(values.text, what="the name of a state dict"),
    "arguments": values.plain_arguments,
    "features": partial(values.text, what="the name of a layer"),
    "logits": partial(values.text, what="a key, an attribute or a place"),
    "classes": _classes,
    "mean": normalization.three_numbers,
    "std": normalization.divisors,
    "channels": normalization.channels,
    "size": values.size,
    "flow_estimator": partial(values.text, what="a flow estimator"),
}
"""For each field a function that returns a value as it is used, or raises `ConfigError` with the option's name."""


def read_network(path: Path) -> dict[str, Any]:
    """The fields of a `NetworkOrigin` that a YAML file has.

    Numbers may be written as on the command line, `size: 64,96`. Paths in it are relative to the working directory.

    Raises:
        ConfigError: it lacks `network`, or holds something else, or a value of another type.
    """
    content = load_yaml(path)
    for name in content:
        if name not in _CHECKS:
            raise unknown("key", name, _CHECKS, path)
    if "network" not in content:
        raise ConfigError("lacks 'network'", where=path, mend=f"write some of: {', '.join(_CHECKS)}")
    if _is_yaml(content["network"]):
        raise ConfigError("names another file", where=path, mend="write what that one holds")
    found = {}
    for name, value in content.items():
        where = f"{path}: {name}"
        if value is None:
            raise ConfigError("is empty", where=where, mend="write a value behind it, or leave it out")
        found[name] = _CHECKS[name](values.of_text(value) if name in ("mean", "std", "size") else value, where)
    return found


def read_classes(name: str, where: str = "--classes") -> "LabelSpace":
    """A label space by its name, or from a YAML file: `classes`, and `palette` (RGB of each) if there is one.

    Raises:
        ConfigError: there is no such name or file, or it lists no classes.
    """
    from stpl.data.label_space import SPACES, own_classes  # imports NumPy, which help of a verb needs not

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
    if colours == []:  # is refused, as null is
        colours = None
    return own_classes(names, colours, f"{path}: ")
