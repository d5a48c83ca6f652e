"""Any network as a segmenter: a module that somebody else built, asked for its logits, its features caught on the way.

Shape legend: B images, K classes, D feature channels, H×W pixels, h×w features.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stpl.errors import CheckpointError, ConfigError
from stpl.nn.segmenter import Normalization, Segmentation, Segmenter
from stpl.nn.state import of_network

_LOGITS = ("out", "logits")  # what networks call them that return more
_SHOWN = 8
_LEAST_CHANNELS = 8  # of features
_FINEST = 4  # pixels a feature, for a layer to be proposed

IN_MEMORY = "stpl.nn.own:lent"
"""What `OwnNetwork.build` is for a network that Python code holds, and that nothing by name builds."""

_LENT: ContextVar[nn.Module] = ContextVar("lent")


@dataclass(frozen=True)
class OwnNetwork:
    """How a network of your own is built and asked.

    Attributes:
        build: `package.module:callable`, called with `arguments`; returns an `nn.Module` that takes frames `[B,3,H,W]`.
        arguments: of the callable, by name; plain types.
        features: name of the layer, as `named_modules` has it, whose output `[B,D,h,w]` the features are.
        logits: where they stand in what the network returns: keys, attributes and places with a dot between, such as
            `out` or `0.logits`; empty if it returns them alone.
        mean: what is subtracted from frames in 0..255, for each channel in the order of `channels`.
        std: what they are divided by then.
        channels: "rgb" or "bgr", the order the network expects.
        classes: its classes, in its order; those of `network.label_space` if not given.
        palette: their colours, RGB; if not given, Cityscapes' by name, and others made up.
        frame_size: height and width of frames by which it is tried.
    """

    build: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    features: str = ""
    logits: str = ""
    mean: tuple[float, float, float] = Normalization.mean
    std: tuple[float, float, float] = Normalization.std
    channels: str = "rgb"
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    frame_size: tuple[int, int] = (128, 256)

    def __post_init__(self) -> None:
        for name in ("mean", "std", "classes", "palette", "frame_size"):
            object.__setattr__(self, name, _tuples(getattr(self, name)))  # lists in YAML
        if self.channels not in ("rgb", "bgr"):
            raise ConfigError(f"'{self.channels}' is no order", where="network.own.channels", mend="choose rgb or bgr")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            mend = "give three numbers each, those of std above 0"
            raise ConfigError("mean and std are of three channels", where="network.own", mend=mend)


def _tuples(value: Any) -> Any:
    """A list, and lists in it, as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


class Candidate(NamedTuple):
    """A layer whose output may be features.

    Attributes:
        name: as `named_modules` has it.
        channels: D.
        stride: pixels a feature.
    """

    name: str
    channels: int
    stride: int

    def __str__(self) -> str:
        return f"{self.name} ({self.channels} channels, 1/{self.stride})"


def build_module(own: OwnNetwork) -> nn.Module:
    """The network that `own.build` names, as its callable gives it.

    Raises:
        ConfigError: there is no such module or callable, it fails, or it returns no network.
    """
    module_name, _, name = own.build.partition(":")
    if not module_name or not name:
        mend = "write package.module:callable, such as my_networks:build"
        raise ConfigError(f"'{own.build}' names no callable", where="network.own.build", mend=mend)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that a file in it hides nothing that is installed
    try:
        called: Any = importlib.import_module(module_name)
        for part in name.split("."):
            called = getattr(called, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(str(error), where="network.own.build", mend="check the name, or install it") from error
    try:
        module = called(**own.arguments)
    except ConfigError:
        raise
    except Exception as error:  # whatever its author's code raises
        raise ConfigError(
            f"{own.build} fails: {_line(error)}", where="network.own.arguments", mend="call it so by yourself first"
        ) from error
    if not isinstance(module, nn.Module):
        what = type(module).__name__
        raise ConfigError(f"{own.build} gives a {what}, no nn.Module", where="network.own.build", mend="name another")
    return module


@contextmanager
def lending(module: nn.Module) -> Iterator[None]:
    """Within it, `IN_MEMORY` builds copies of `module`."""
    token = _LENT.set(module)
    try:
        yield
    finally:
        _LENT.reset(token)


def lent() -> nn.Module:
    """A copy of the network that Python code lends; raises `ConfigError` where none does."""
    module = _LENT.get(None)
    if module is None:
        mend = "load adapted.pt into it, or write a function that builds it (--model=package.module:callable)"
        raise ConfigError("this network was held by a Python program", where="network.own.build", mend=mend)
    return copy.deepcopy(module)


class OwnSegmenter(Segmenter):
    """A network of somebody else's, with the output of one of its layers as features.

    Args:
        net: takes normalised frames `[B,3,H,W]`.
        own: how it is asked.
        num_classes: channels that its logits must have.

    Raises:
        ConfigError: it does not take such frames, gives no logits or those of other classes, or the layer is not there
            or gives no features; the message names layers that do.
    """

    def __init__(self, net: nn.Module, own: OwnNetwork, num_classes: int) -> None:
        super().__init__()
        frame_size = own.frame_size
        self.net, self.path, self.level = net, own.logits, own.features
        self.normalization = Normalization(own.mean, own.std, own.channels)
        self.num_classes = num_classes
        self._caught: Tensor | None = None
        layers = dict(nn.Module.named_modules(net))
        if own.features not in layers or own.features == "":
            raise _no_such_layer(own.features, candidates(net, frame_size), layers)
        layers[own.features].register_forward_hook(self._catch)
        seen = _tried(self, frame_size)
        if seen.logits.shape[1] != num_classes:
            raise ConfigError(
                f"the network predicts {seen.logits.shape[1]} classes, {num_classes} are named",
                where="network.own.classes",
                mend="name its classes, in its order",
            )
        self.feature_dim = seen.features.shape[1]
        self.stride = max(1, round(frame_size[0] / seen.features.shape[-2]))

    def _catch(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self._caught = output[0] if isinstance(output, tuple | list) and output else output

    def _taken(self) -> Tensor | None:
        """What was caught, which need not be kept."""
        caught, self._caught = self._caught, None
        return caught

    def forward(self, frames: Tensor) -> Segmentation:
        """What the layer gave and the logits; see `Segmenter`."""
        self._caught = None
        logits = logits_in(self.net(self.normalize(frames)), self.path)
        features = self._taken()
        if not isinstance(features, Tensor) or features.ndim != 4:
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ConfigError(
                f"the layer {self.level} gives {shape}, not features [B,D,h,w]",
                where="network.own.features",
                mend="name a layer that gives a grid of features",
            )
        return Segmentation(features, logits)


def logits_in(output: Any, path: str) -> Tensor:
    """The logits `[B,K,h,w]` in what a network returned.

    Args:
        output: a tensor, mapping, sequence or object.
        path: keys, attributes and places with a dot between; where it is empty, what is usual is looked for.

    Raises:
        ConfigError: there are none.
    """
    found = output
    for part in filter(None, path.split(".")):
        found = _part(found, part)
    if not path and not isinstance(found, Tensor):
        usual = next((name for name in _LOGITS if name in _names(found)), None)
        found = _part(found, usual) if usual else found[0] if isinstance(found, tuple | list) and found else found
    if isinstance(found, Tensor) and found.ndim == 4:
        return found
    what = f"{list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise ConfigError(
        f"logits are [B,K,h,w], '{path}' of what the network returns is {what}; it has {_listed(_names(output))}",
        where="network.own.logits",
        mend="say where the logits stand: a key, an attribute or a place",
    )


def _part(found: Any, part: str) -> Any:
    try:
        if isinstance(found, Mapping):
            return found[part]
        if isinstance(found, tuple | list) and part.isdecimal():
            return found[int(part)]
        return getattr(found, part)
    except (KeyError, IndexError, AttributeError):
        raise ConfigError(
            f"what the network returns has no '{part}', but {_listed(_names(found))}",
            where="network.own.logits",
            mend="say where the logits stand: a key, an attribute or a place",
        ) from None


def _names(found: Any) -> list[str]:
    if isinstance(found, Mapping):
        return [str(key) for key in found]
    if isinstance(found, tuple | list):
        return [str(place) for place in range(len(found))]
    return [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "") or "nothing by name"


def candidates(net: nn.Module, frame_size: tuple[int, int]) -> list[Candidate]:
    """Layers of a network whose output may be features, in the order in which they are called.

    Args:
        net: takes normalised frames `[B,3,H,W]`.
        frame_size: height and width of frames it can take.
    """
    found: dict[str, Candidate] = {}

    def catch(name: str, output: Any) -> None:
        """Note a layer whose output may be features."""
        grid = output[0] if isinstance(output, tuple | list) and output else output
        fits = (
            isinstance(grid, Tensor) and grid.ndim == 4 and grid.shape[-2] < frame_size[0] and min(grid.shape[-2:]) > 1
        )
        if fits and grid.shape[1] >= _LEAST_CHANNELS:
            found.pop(name, None)
            found[name] = Candidate(name, grid.shape[1], max(1, round(frame_size[0] / grid.shape[-2])))

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: catch(name, output))
        for name, layer in nn.Module.named_modules(net)
        if name
    ]
    try:
        _asked(net, torch.zeros(1, 3, *frame_size))
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())


def proposed(found: Sequence[Candidate], num_classes: int) -> Candidate | None:
    """The layer to take where none is named: what the classifier reads, if it is not too fine a grid.

    That is the last one called whose output is no logits, of those at 1/4 of the frames or coarser; where all are
    finer, the last one of the coarsest.
    """
    fit = [layer for layer in found if layer.channels != num_classes]
    stride = min(_FINEST, max((layer.stride for layer in fit), default=1))
    return next((layer for layer in reversed(fit) if layer.stride >= stride), None)


def _no_such_layer(name: str, found: Sequence[Candidate], layers: Mapping[str, Any]) -> ConfigError:
    best = sorted(found, key=lambda layer: -layer.channels)[:_SHOWN]
    close = get_close_matches(name, layers, n=1)
    hint = f"did you mean '{close[0]}'? " if close and name else ""
    return ConfigError(
        f"the network has no layer '{name}'" if name else "no layer is named whose output the features are",
        where="network.own.features",
        mend=f"{hint}name one such as {', '.join(map(str, best)) or '(none gives a grid of features)'}",
    )


def _tried(segmenter: OwnSegmenter, frame_size: tuple[int, int]) -> Segmentation:
    """What a network makes of black frames, without learning anything from it."""
    return _asked(segmenter, torch.zeros(1, 3, *frame_size))  # type: ignore[no-any-return]


def _asked(net: nn.Module, frames: Tensor) -> Any:
    """What a network returns in evaluation mode; an operation without a deterministic form is no fault here."""
    modes = [(layer, layer.training) for layer in nn.Module.modules(net)]
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        for layer, _ in modes:
            layer.training = False
        with torch.no_grad():
            return net(frames)
    except ConfigError:
        raise
    except Exception as error:  # whatever its author's code raises
        raise _refused((frames.shape[-2], frames.shape[-1]), error) from error
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        for layer, mode in modes:
            layer.training = mode


def _refused(size: tuple[int, int], error: Exception) -> ConfigError:
    return ConfigError(
        f"the network does not take frames of {size[0]}×{size[1]} pixels: {_line(error)}",
        where="network.own",
        mend="give a size that it takes (--size=HEIGHT,WIDTH)",
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def own_weights(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put a state dict into a network of somebody else's; raises `CheckpointError` if it does not fit."""
    from stpl.nn.weights import check_finite, check_fit

    wanted = module.state_dict()
    if state.keys() != wanted.keys():
        state = of_network(dict(state), path)  # without what a training program wrapped around it
    check_fit(state, wanted, path, mend="give the weights of this network, and its arguments")
    check_finite(state, path)
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise CheckpointError(_line(error), where=path, mend="give the weights of this network") from error
