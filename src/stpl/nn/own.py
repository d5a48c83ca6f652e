"""Any network as a segmenter: a module that somebody else built; a hook catches its features.

Shape legend: B images, K classes, D feature channels, H×W pixels, h×w features.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from io import BytesIO
from threading import get_ident
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stpl.errors import ConfigError, StplError, first_line
from stpl.nn import builder, normalization
from stpl.nn.batchnorm import without_synchronization
from stpl.nn.foreign import copied, output_of, plain, refused
from stpl.nn.outputs import candidates, check_batch, grid_in, in_training, kind_of, logits_in, no_such_layer
from stpl.nn.segmenter import Architecture, Normalization, Segmentation, Segmenter
from stpl.nn.state import EXTRA

IN_MEMORY = "stpl.nn.own:held_module"
"""What `OwnNetwork.builder` is for a network that Python code holds, and that nothing by name builds."""

_WHERE = "network.architecture"
_HELD: ContextVar[nn.Module] = ContextVar("held")

_Leaf = str | bool | int | float | None
_Inner = _Leaf | list[_Leaf] | dict[str, _Leaf]
_Middle = _Leaf | list[_Inner] | dict[str, _Inner]
Value = _Leaf | list[_Middle] | dict[str, _Middle]
"""What an argument of a callable may be. Each type is named, because where a configuration says `Any`, its parser makes
a number of the text '19'."""


@dataclass(frozen=True)
class OwnNetwork(Architecture):
    """How a network of your own is built, and what it returns. ACCEL's score fusion around it never learns.

    So the network alone is what an adaptation returns.

    Attributes:
        builder: `package.module:callable`, called with `arguments`; returns an `nn.Module` that takes frames
            `[B,3,H,W]`.
        arguments: of the callable, by name; plain types.
        features: name of the layer, as `named_modules` has it, whose output `[B,D,h,w]` the features are.
        logits: where they are in what the network returns: keys, attributes and places with a dot between, such as
            `out` or `0.logits`; empty if it returns them alone.
        mean: what is subtracted from frames in 0..255, for each channel in the order of `channels`.
        std: what they are divided by then; see `stpl.nn.normalization` for what neither can be.
        channels: "rgb" or "bgr", the order the network expects.
        frame_size: height and width of frames by which it is tried.
    """

    learns_fusion: ClassVar[bool] = False

    builder: str
    arguments: Mapping[str, Value] = field(default_factory=dict)
    features: str = ""
    logits: str = ""
    mean: tuple[float, float, float] = Normalization.mean
    std: tuple[float, float, float] = Normalization.std
    channels: str = "rgb"
    frame_size: tuple[int, int] = (128, 256)

    def __post_init__(self) -> None:
        where_mean, where_std = f"{_WHERE}.mean", f"{_WHERE}.std"
        object.__setattr__(self, "frame_size", tuple(self.frame_size))  # a list in a checkpoint
        object.__setattr__(self, "mean", normalization.three_numbers(self.mean, where_mean))
        object.__setattr__(self, "std", normalization.divisors(self.std, where_std))
        normalization.check_scale(self.mean, self.std, where_mean, where_std)
        normalization.channels(self.channels, f"{_WHERE}.channels")

    @property
    def title(self) -> str:
        """What builds it."""
        return self.builder

    def build(self, num_classes: int) -> "OwnSegmenter":
        """The network that the callable gives."""
        return OwnSegmenter(build_module(self), self, num_classes)


def build_module(own: OwnNetwork) -> nn.Module:
    """The network that `own.builder` names, in single precision on the CPU; both are decided elsewhere.

    Raises:
        ConfigError: there is no such module or callable, it fails, or it returns no network.
    """
    module = builder.call(own.builder, own.arguments, _WHERE)
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        what = type(module).__name__
        mend = "name what builds the network in Python"
        raise ConfigError(f"{own.builder} gives a {what}, no nn.Module of Python", where=f"{_WHERE}.builder", mend=mend)
    tensors = {**dict(nn.Module.named_parameters(module)), **dict(nn.Module.named_buffers(module))}
    empty = [name for name, tensor in tensors.items() if not is_lazy(tensor) and tensor.is_meta]
    if empty:
        mend = "build it outside of torch.device('meta'), and load its weights"
        raise ConfigError(f"{len(empty)} tensors hold no numbers, such as {empty[0]}", where=_WHERE, mend=mend)
    try:
        return module.float().cpu()
    except Exception as error:  # whatever its author's code raises
        what = f"it cannot be moved to the CPU in single precision: {first_line(error)}"
        raise ConfigError(what, where=_WHERE, mend="see that .float().cpu() works") from error


@contextmanager
def holding(module: nn.Module) -> Iterator[None]:
    """Within it, `IN_MEMORY` builds copies of `module`."""
    token = _HELD.set(module)
    try:
        yield
    finally:
        _HELD.reset(token)


def held_module() -> nn.Module:
    """A copy of the network that Python code holds, without wrappers; raises `ConfigError` where none does."""
    module = _HELD.get(None)
    if module is None:
        mend = "load adapted.pt into it, or write a function that builds it (--network=package.module:callable)"
        raise ConfigError("this network was held by a Python program", where=f"{_WHERE}.builder", mend=mend)
    return copied(plain(module))


class OwnSegmenter(Segmenter):
    """A network of somebody else's, with the output of one of its layers as features.

    Raises:
        ConfigError: it does not take normalised frames `[B,3,H,W]`, gives no logits or those of other classes, or the
            layer is not there or gives no features; the message names layers that do.
    """

    proposal = ""  # one line for a user: which layer was proposed for the features, why, and what others there are

    def __init__(self, net: nn.Module, own: OwnNetwork, num_classes: int) -> None:
        super().__init__()
        frame_size = own.frame_size
        self.net, self.path, self.level = without_synchronization(net), own.logits, own.features
        self.normalization = Normalization(own.mean, own.std, own.channels)
        self.num_classes = num_classes
        self._caught: dict[int, Any] = {}  # what the layer gave, by the thread whose pass it is
        layers = dict(nn.Module.named_modules(net))
        if own.features not in layers or own.features == "":
            raise no_such_layer(own.features, candidates(net, frame_size), layers)
        layers[own.features].register_forward_hook(self._catch)
        self.training_path = own.logits
        seen = output_of(self, torch.zeros(1, 3, *frame_size))
        _check_logits(seen.logits, num_classes)
        self.training_path, untrainable = in_training(net, own.logits, frame_size)
        self._untrainable = untrainable or _unwritable(net)
        self.feature_dim = seen.features.shape[1]
        self.stride = max(1, round(frame_size[0] / seen.features.shape[-2]))

    def _catch(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        thread = _thread()
        if thread in self._caught:  # otherwise somebody calls the network by itself
            self._caught[thread] = grid_in(output)

    def _asked(self, frames: Tensor) -> Any:
        if _traced():
            return self.net(frames)  # what fails there is an operation that has no form in a file
        try:
            return self.net(frames)
        except (StplError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever its author's code raises
            raise refused(frames.shape, error) from error

    def check_trainable(self) -> None:
        """Raise `ConfigError` for a network that can predict but not train."""
        if self._untrainable is not None:
            raise self._untrainable

    def forward(self, frames: Tensor) -> Segmentation:
        """What the layer gave and the logits; see `Segmenter`."""
        if self.net.training:
            self.check_trainable()
        thread = _thread()
        self._caught[thread] = None
        try:
            output = self._asked(self.normalize(frames))
        finally:
            features = self._caught.pop(thread)
        logits = logits_in(output, self.training_path if self.net.training else self.path)
        if not _traced():
            check_batch(logits, frames)
        if torch.is_grad_enabled() and not logits.requires_grad and any(p.requires_grad for p in self.parameters()):
            mend = "take torch.no_grad() and detach() out of its forward pass"
            raise ConfigError("its logits take no gradient, so nothing can learn", where=_WHERE, mend=mend)
        if not isinstance(features, Tensor) or features.ndim != 4:
            what = f"the layer {self.level} gives {kind_of(features)}, not features [B,D,h,w]"
            mend = "name a layer that gives a grid of features"
            raise ConfigError(what, where=f"{_WHERE}.features", mend=mend)
        return Segmentation(_float32(features), _float32(logits))


def _traced() -> bool:
    """Whether a program is being made of the network, for a file or for a compiler."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def _thread() -> int:
    """The thread that runs; a compiler, which does not know them, has one."""
    return 0 if torch.compiler.is_compiling() else get_ident()


def _float32(values: Tensor) -> Tensor:
    """Values of another precision in float32, unless it is autocast that asks for theirs."""
    if values.dtype == torch.float32:
        return values
    kind = values.device.type
    if torch.is_autocast_enabled(kind) and values.dtype == torch.get_autocast_dtype(kind):
        return values
    return values.float()


def _check_logits(logits: Tensor, num_classes: int) -> None:
    """Raise `ConfigError` unless they are logits of `num_classes` classes, and not what a softmax gives."""
    where, found = "network.classes", logits.shape[1]
    if found == 1:
        mend = "return those of background and class, torch.cat([torch.zeros_like(x), x], 1), and name both classes"
        raise ConfigError("it gives one logit a pixel, for one class; two or more are needed", where=where, mend=mend)
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        mend = "leave out its softmax, or say where the logits stand (--logits)"
        raise ConfigError("it gives probabilities, not logits", where=f"{_WHERE}.logits", mend=mend)
    if found != num_classes:
        what = f"the network predicts {found} classes, {num_classes} are named"
        raise ConfigError(what, where=where, mend="name its classes, in its order")


def _unwritable(net: nn.Module) -> StplError | None:
    """Why no checkpoint may hold a network, if that is so: its extra state is more than tensors and plain types."""
    for name, value in net.state_dict().items():
        if name.endswith(EXTRA):
            file = BytesIO()
            try:
                torch.save(value, file)
                torch.load(BytesIO(file.getvalue()), weights_only=True)
            except Exception:  # pickling runs its author's code
                what = f"'{name}' is a {type(value).__name__}, which no checkpoint may hold"
                mend = "let get_extra_state return tensors and plain types alone"
                return ConfigError(what, where=_WHERE, mend=mend)
    return None
