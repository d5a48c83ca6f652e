"""What networks of somebody else's and their layers give: where the logits are, and what the features may be.

Shape legend: B images, K classes, D feature channels, h×w the grid of logits or features.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import log2
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from stpl.errors import ConfigError, StplError, did_you_mean
from stpl.nn.foreign import output_of

_LOGITS = ("out", "logits")  # what networks call them that return more
_SHOWN, _DEPTH = 8, 4
_LEAST_CHANNELS, _COARSEST = 8, 32  # of a layer that may be features: channels, pixels a feature
_UNEVEN = 0.375  # octaves that a stride may lie off another axis's, or off a power of two times the finest
_WHERE = "network.architecture.logits"
_SAY = "say where the logits stand: a key, an attribute or a place (--logits)"
_PROBED = (128, 256)  # the largest frames that a network is compared with itself on
_EQUAL, _NEAR = 1e-3, 0.5  # difference of logits relative to their spread: the same, and the same but for dropout
_STIR = 0.02


class FeatureLayer(NamedTuple):
    """A layer whose output may be features."""

    name: str  # as `named_modules` has it
    channels: int
    stride: int  # pixels a feature
    weights: int = 0  # numbers in the layers that were called until it was done

    def __str__(self) -> str:
        return f"{self.name} ({self.channels} channels, 1/{self.stride})"


def candidates(net: nn.Module, frame_size: tuple[int, int]) -> list[FeatureLayer]:
    """Layers of a network whose output may be features, in the order in which they are called.

    A grid that is not the frame's with one stride for both axes is none: it is pooled to a size of its own, or has its
    channels last. The network takes normalised frames `[B,3,H,W]` of that height and width.
    """
    found: dict[str, FeatureLayer] = {}
    weights: dict[str, int] = {}

    def catch(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        weights[name] = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        grid = grid_in(output)
        if not isinstance(grid, Tensor) or grid.ndim != 4 or grid.shape[1] < _LEAST_CHANNELS:
            return
        rows, columns = (whole / part for whole, part in zip(frame_size, grid.shape[-2:], strict=True))
        if rows > 1 and min(grid.shape[-2:]) > 1 and abs(log2(rows / columns)) < _UNEVEN:
            found.pop(name, None)
            found[name] = FeatureLayer(name, grid.shape[1], max(1, round(rows)), sum(weights.values()))

    layers = [(name, layer) for name, layer in nn.Module.named_modules(net) if name]
    hooks = [layer.register_forward_hook(partial(catch, name)) for name, layer in layers]
    try:
        output_of(net, torch.zeros(1, 3, *frame_size))
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())


def grid_in(output: Any) -> Any:
    """What a layer returned, or the first of several things; of features it is `[B,D,h,w]`."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return output[0] if isinstance(output, tuple | list) and output else output


def proposed(found: Sequence[FeatureLayer], num_classes: int) -> FeatureLayer | None:
    """The layer to take where none is named: the deepest feature map, after which sizes only grow.

    Of the layers at the largest stride that are part of no other such layer, and before which at least half as many
    weights lie as before any of them (so no map that attention reads at a coarser grid, early in the network), it is
    the last of those with the most channels: the encoder's end, not what a decoder or a pyramid makes of it.
    """
    fit = [layer for layer in found if layer.channels != num_classes and layer.stride <= _COARSEST]
    finest = min((layer.stride for layer in fit), default=1)
    octaves = [log2(layer.stride / finest) for layer in fit]
    even = [(round(o), layer) for o, layer in zip(octaves, fit, strict=True) if abs(o - round(o)) < _UNEVEN]
    deep = [layer for octave, layer in even if octave == max(o for o, _ in even)]
    deep = [layer for layer in deep if not any(layer.name.startswith(f"{one.name}.") for one in deep)]
    deep = [layer for layer in deep if 2 * layer.weights >= max(one.weights for one in deep)]
    return max(reversed(deep), key=lambda layer: layer.channels, default=None)


def proposal(chosen: FeatureLayer, found: Sequence[FeatureLayer], num_classes: int) -> str:
    """One line for a user: the layer that was proposed, why, and the last other layer at each stride."""
    others = [layer for layer in found if layer.channels != num_classes and layer != chosen]
    parts = [layer for layer in others if layer.stride == chosen.stride and layer.name.startswith(f"{chosen.name}.")]
    ends = {layer.stride: str(layer) for layer in others if layer not in parts}
    listed = ", ".join(list(ends.values())[-_SHOWN:]) or "none"
    return f"{chosen}, the deepest map: after it sizes only grow; others, by --features: {listed}"


def no_such_layer(name: str, found: Sequence[FeatureLayer], layers: Mapping[str, Any]) -> ConfigError:
    """The error for a layer that is not there, or is not named, with those that could be meant."""
    best = sorted(found, key=lambda layer: -layer.channels)[:_SHOWN]
    shown = ", ".join(map(str, best)) or "(none gives a grid of features)"
    return ConfigError(
        f"the network has no layer '{name}'" if name else "no layer is named whose output the features are",
        where="network.architecture.features",
        mend=f"{did_you_mean(name, layers)}name one such as {shown}",
    )


def logits_in(output: Any, path: str) -> Tensor:
    """The logits `[B,K,h,w]` in what a network returned: a tensor, mapping, sequence or object.

    Args:
        output: what it returned.
        path: keys, attributes and places with a dot between; where it is empty, what is usual is looked for. Of a
            tensor it says nothing: some networks return more only in training.

    Raises:
        ConfigError: there are none.
    """
    found = output
    for part in filter(None, () if isinstance(output, Tensor) else (path or _usual(output)).split(".")):
        found = _part(found, part)
    if _is_grid(found):
        return found
    ids = isinstance(found, Tensor) and not found.is_floating_point()
    raise ConfigError(
        f"logits are [B,K,h,w], '{path}' of what the network returns is {kind_of(found)}; "
        f"it has {_listed(_names(output))}",
        where=_WHERE,
        mend="leave out its argmax: class ids are no logits" if ids else _SAY,
    )


def _is_grid(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()


def kind_of(value: Any) -> str:
    """What stands where a grid of floating-point numbers should: its type, its shape or the type of its numbers."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return str(list(value.shape)) if value.ndim != 4 else str(value.dtype).removeprefix("torch.")


def _usual(output: Any) -> str:
    """Where logits stand if nobody says it: alone, under a usual name, or first."""
    if isinstance(output, Tensor):
        return ""
    first = "0" if isinstance(output, tuple | list) and output else ""
    return next((name for name in _LOGITS if name in _names(output)), first)


def in_training(net: nn.Module, path: str, frame_size: tuple[int, int]) -> tuple[str, StplError | None]:
    """Where the logits stand in what a network returns while it trains; it is left as it was.

    Many return an auxiliary classifier beside the one that predicts, but only while they train, and some return it
    first. So what training returns is compared with the logits of evaluation, on the same frames, with nothing that
    draws numbers or takes the batch's statistics.

    Args:
        net: takes normalised frames `[B,3,H,W]`.
        path: where its user says that they stand, which holds wherever it leads to logits; empty if nothing is said.
        frame_size: height and width of frames that it takes.

    Returns:
        Their path for `logits_in`, and why the network can predict but not train, if that is so: it takes no batches,
        it fails in training, or it cannot be settled where the logits are.

    Raises:
        ConfigError: what it returns in evaluation are no logits of these frames.
    """
    with _stirred(net):
        try:
            frames, evaluated = _evaluated(net, frame_size)
        except ConfigError as error:
            return path, error
        logits = check_batch(logits_in(evaluated, path), frames)
        if not bool(logits.isfinite().all()):
            mend = "look for a division by zero, a logarithm of zero or an overflow in its forward pass"
            raise ConfigError("the network's output is not finite", where="network.architecture", mend=mend)
        try:
            trained = output_of(net, frames, _learns)
        except ConfigError as error:
            mend = f"let it take one tensor {list(frames.shape)} in training, too, or only predict with it"
            return path, ConfigError(f"in training {error.what}", where=error.where, mend=mend)
    if path and isinstance(evaluated, Tensor):  # then it is meant for training
        if isinstance(trained, Tensor):
            mend = "leave it out"
            raise ConfigError(f"the network returns its logits alone, and nothing at '{path}'", where=_WHERE, mend=mend)
        logits_in(trained, path)
        return path, None
    try:
        return _settled(logits, path, evaluated, trained), None
    except ConfigError as error:
        return path, error


def check_batch(logits: Tensor, frames: Tensor) -> Tensor:
    """The logits; raises `ConfigError` if they are not of as many images as were given."""
    if len(logits) == len(frames):
        return logits
    what = f"the network returns logits of {len(logits)} image(s) for {len(frames)} frames"
    mend = "let it return logits [B,K,h,w] for frames [B,3,H,W]"
    raise ConfigError(what, where="network.architecture", mend=mend)


def _settled(logits: Tensor, path: str, evaluated: Any, trained: Any) -> str:
    """The path of what is the logits among what training returns."""
    before, there = _grids(evaluated), _grids(trained)
    if path and path in there:
        return path
    usual = path or _usual(evaluated)
    apart = {name: _apart(grid, logits) for name, grid in there.items() if grid.shape[1] == logits.shape[1]}
    same = [name for name, distance in apart.items() if distance < _EQUAL]
    if same:
        return usual if usual in same else same[0]
    ranked = sorted(apart, key=lambda name: apart[name])
    if len(ranked) == 1 or (ranked and apart[ranked[0]] < min(_NEAR, apart[ranked[1]] / 2)):
        return ranked[0]
    if {name: grid.shape for name, grid in before.items()} == {name: grid.shape for name, grid in there.items()}:
        return usual
    raise ConfigError(
        f"in training the network returns {_listed(list(there) or _names(trained))}, and none of them is what it "
        "predicts in evaluation",
        where=_WHERE,
        mend=f"say where the logits stand in training, such as --logits={(ranked or ['out'])[0]}",
    )


@torch.no_grad()
def _apart(one: Tensor, logits: Tensor) -> float:
    """How far a grid of values is from logits, relative to their spread, on the coarser grid of both."""
    size = (min(one.shape[-2], logits.shape[-2]), min(one.shape[-1], logits.shape[-1]))
    mine, theirs = (adaptive_avg_pool2d(grid.float(), size) for grid in (one, logits))
    if mine.shape != theirs.shape:
        return float("inf")
    spread = (theirs - theirs.mean()).norm()
    return float((mine - theirs).norm() / spread.clamp(min=1e-12))


def _evaluated(net: nn.Module, size: tuple[int, int]) -> tuple[Tensor, Any]:
    """Frames, small ones if it takes them, and what a network returns for them in evaluation."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(2, 3, *shrunk(size, _PROBED), generator=generator)
    try:
        return frames, output_of(net, frames)
    except ConfigError:  # perhaps it takes frames of its own size alone
        frames = torch.randn(2, 3, *size, generator=generator)
        return frames, output_of(net, frames)


def shrunk(size: tuple[int, int], most: tuple[int, int]) -> tuple[int, int]:
    """Height and width of frames like those of `size` with at most about the pixels of `most`, in multiples of 32."""
    shrink = min(1.0, (most[0] * most[1] / (size[0] * size[1])) ** 0.5)
    height, width = (min(side, max(32, 32 * round(side * shrink / 32))) for side in size)
    return height, width


def _learns(layer: nn.Module) -> bool:
    """Whether a layer is set to training when a network is compared with itself: what decides which outputs there are.

    Layers without parts, and those of torch, are what draws numbers or takes the batch's statistics.
    """
    return any(True for _ in nn.Module.children(layer)) and not type(layer).__module__.startswith("torch.nn.")


@contextmanager
def _stirred(net: nn.Module) -> Iterator[None]:
    """Have no parameter be constant, so that no two outputs are equal because their heads begin at zero, say."""
    kept = [(tensor, tensor.detach().clone()) for tensor in (*nn.Module.parameters(net), *nn.Module.buffers(net))]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in nn.Module.parameters(net):
            values = parameter.data
            if values.numel() and not (values.isfinite().all() and values.min() < values.max()):
                drawn = torch.randn(values.shape, generator=generator).to(values)
                values.copy_(torch.nan_to_num(values, 0.0, 0.0, 0.0) + _STIR * drawn)
        yield
    finally:
        for tensor, before in kept:
            tensor.data.copy_(before)


def _grids(output: Any, place: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """All that may be logits in what a network returns, by path."""
    if _is_grid(output):
        return {".".join(place): output}
    if isinstance(output, Tensor) or len(place) == _DEPTH:
        return {}
    found: dict[str, Tensor] = {}
    for name in _names(output):
        if "." not in name:
            found |= _grids(_part(output, name), (*place, name))
    return found


def _part(found: Any, part: str) -> Any:
    try:
        if isinstance(found, Mapping):
            return found[part] if part in found else {str(key): value for key, value in found.items()}[part]
        if isinstance(found, tuple | list) and part.isdecimal():
            return found[int(part)]
        return getattr(found, part)
    except (KeyError, IndexError, AttributeError):
        what = f"what the network returns has no '{part}', but {_listed(_names(found))}"
        raise ConfigError(what, where=_WHERE, mend=_SAY) from None


def _names(found: Any) -> list[str]:
    if isinstance(found, Mapping):
        return [str(key) for key in found]
    if isinstance(found, tuple | list):
        return [str(place) for place in range(len(found))]
    return [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "") or "nothing by name"
