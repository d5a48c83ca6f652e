"""What adaptation may do to BatchNorm: nothing, renew its statistics, or train it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stpl.errors import ConfigError, check_range

BatchNormPolicy = Literal["frozen", "statistics", "train"]
"""`frozen`: source statistics, affine parameters fixed. `statistics`: batch statistics normalise and move the running
ones, affine parameters fixed (the released code of DA-VSN and TPS). `train`: statistics and affine parameters move."""

Views = Literal["all", "original"]
"""The frames that statistics are of: original and augmented ones, or original ones alone."""


@dataclass(frozen=True)
class BatchNormOptions:
    """What training does to the network's BatchNorm layers.

    Attributes:
        policy: "frozen", "statistics" or "train", see `BatchNormPolicy`.
        momentum: share of a batch in the running statistics at each forward pass; 0.1 is the lineage's. Less makes the
            statistics of a short run steadier. `None` makes them the mean over all batches of the run, with nothing
            left of the statistics it started from.
        views: which frames move the running statistics: "all" that the method looks at, augmented ones too (the
            lineage's code), or the "original" ones alone. Each view is normalised by its own statistics either way.
        evaluation: which statistics weights that have moved are evaluated and kept with: "running" are those that
            came about on the way, as in the lineage, and lag behind the weights; "renewed" are estimated anew for
            these very weights, see `renew`.
        renewal_batches: batches that renewed statistics are the mean of.
        synchronized: of several processes, whether batch statistics are those of all their batches together
            (SyncBatchNorm, GPUs only). Otherwise each process normalises by its own batch, and only the running
            statistics are averaged over processes.

    Raises:
        ConfigError: for a momentum outside [0, 1], with which variances would fall below 0, or no batch to renew from.
    """

    policy: BatchNormPolicy = "statistics"
    momentum: float | None = 0.1
    views: Views = "all"
    evaluation: Literal["running", "renewed"] = "running"
    renewal_batches: int = 20
    synchronized: bool = False

    def __post_init__(self) -> None:
        check_range("batchnorm.renewal_batches", self.renewal_batches, 1)
        if self.momentum is not None:
            check_range("batchnorm.momentum", self.momentum, 0, 1)


class LocalBatchNorm(_BatchNorm):
    """What SyncBatchNorm is within one process: BatchNorm of inputs `[B,C,…]` of any number of dimensions."""

    _check_input_dim = nn.SyncBatchNorm._check_input_dim


def without_synchronization(module: nn.Module) -> nn.Module:
    """The module with each SyncBatchNorm in it as a `LocalBatchNorm`, in place and under the same names.

    SyncBatchNorm needs GPUs and a process group. Where both are there, `BatchNormOptions.synchronized` asks for it.
    """
    for layer in batchnorm_layers(module):
        if type(layer) is nn.SyncBatchNorm:
            # Its class alone is another: tensors, hooks and whoever else holds the layer need not know.
            layer.__class__ = LocalBatchNorm  # type: ignore[assignment]
    return module


def apply_batchnorm(module: nn.Module, options: BatchNormOptions) -> None:
    """Set mode, momentum and `requires_grad` of every BatchNorm in `module`; call it after each `module.train()`."""
    layers = batchnorm_layers(module)
    for layer in layers:
        layer.train(options.policy != "frozen")
        # 1: a pass leaves its own statistics, and `_EqualShares` mixes them with those before.
        layer.momentum = 1.0 if options.momentum is None else options.momentum
        for parameter in layer.parameters():
            parameter.requires_grad_(options.policy == "train")
    if options.momentum is None and layers:
        home = _home(module, set(layers))
        if not any(isinstance(getattr(hook, "__self__", None), _EqualShares) for hook in home._forward_hooks.values()):
            shares = _EqualShares(layers)
            home.register_forward_pre_hook(shares.before)
            home.register_forward_hook(shares.after)


def batchnorm_layers(module: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm in `module`."""
    # Not `module.modules()`: some networks call a part of theirs `modules`.
    return [layer for layer in nn.Module.modules(module) if isinstance(layer, _BatchNorm)]


def forget_batches(module: nn.Module) -> None:
    """Have every BatchNorm in `module` count its batches from 0, as at the start of a run."""
    for layer in batchnorm_layers(module):
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.zero_()


def _home(module: nn.Module, layers: set[_BatchNorm]) -> nn.Module:
    """The smallest part of `module` that holds all `layers`: the one that is called once a pass."""
    for child in nn.Module.children(module):
        if layers <= set(batchnorm_layers(child)):
            return _home(child, layers)
    return module


class _EqualShares:
    """Gives the nth batch since `forget_batches` the share 1/n, for all layers of a network at once.

    n is read on the device. PyTorch's own way (`momentum=None`) reads it back at every layer; a number that the host
    counts would be frozen into a recorded CUDA graph and have a compiled network compiled anew at every step.
    """

    def __init__(self, layers: list[_BatchNorm]) -> None:
        self.layers = layers
        self.earlier: list[torch.Tensor] = []

    def _running(self) -> list[torch.Tensor]:
        # `data`: autograd need not know, because the backward pass of batch statistics does not read running ones.
        return [buffer.data for buffer in statistics_of(self.layers)]

    @torch.no_grad()
    def before(self, home: nn.Module, inputs: tuple[object, ...]) -> None:
        if _moves(self.layers[0]):
            self.earlier = list(torch._foreach_mul(self._running(), 1.0))

    @torch.no_grad()
    def after(self, home: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        """Mix the statistics of a pass with the earlier ones: share·new + (1 - share)·earlier."""
        if _moves(self.layers[0]):
            counted = self.layers[0].num_batches_tracked
            assert counted is not None
            share, running = 1.0 / counted, self._running()
            torch._foreach_mul_(running, share)
            torch._foreach_mul_(self.earlier, 1.0 - share)
            torch._foreach_add_(running, self.earlier)
            self.earlier = []


def _moves(layer: _BatchNorm) -> bool:
    """Whether a forward pass moves the running statistics of a layer, and is counted."""
    return layer.training and layer.track_running_stats and layer.num_batches_tracked is not None


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Have forward passes leave the running statistics of `module` alone; what normalises is the same as otherwise."""
    layers = [layer for layer in batchnorm_layers(module) if _moves(layer)]
    for layer in layers:
        layer.track_running_stats = False  # with it, a layer in training mode gets no running statistics
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@torch.no_grad()
def renew(module: nn.Module, passes: Iterable[Callable[[], object]]) -> None:
    """Estimate the statistics of `module` anew for the weights as they are; modes and counts stay as they were.

    They are the mean over passes of each batch's mean and unbiased variance, as a running average forms them.

    Args:
        module: whose BatchNorm layers are renewed, in place.
        passes: one or more functions without arguments, each of which has `module` see a batch.

    Raises:
        ConfigError: there is no pass; the statistics are as they were.

    Examples:
        >>> net = nn.BatchNorm1d(1)
        >>> renew(net, [lambda: net(torch.tensor([[1.0], [3.0]])), lambda: net(torch.tensor([[5.0], [7.0]]))])
        >>> net.running_mean.tolist(), net.running_var.tolist()
        ([4.0], [2.0])
    """
    layers = batchnorm_layers(module)
    before = [(layer.training, layer.momentum, layer.num_batches_tracked) for layer in layers]
    buffers = statistics_of(layers)
    totals = [torch.zeros_like(buffer, dtype=torch.float64) for buffer in buffers]
    count = 0
    try:
        for layer in layers:
            layer.train()
            layer.momentum, layer.num_batches_tracked = 1.0, None  # a pass leaves its own statistics, uncounted
        for call in passes:
            call()
            count += 1
            for total, buffer in zip(totals, buffers, strict=True):
                total += buffer
    finally:
        for layer, (training, momentum, counted) in zip(layers, before, strict=True):
            layer.train(training)
            layer.momentum, layer.num_batches_tracked = momentum, counted
    if buffers and not count:
        mend = "give one or more, such as [lambda: network(frames)]"
        raise ConfigError("there is no pass to renew statistics from", where="renew", mend=mend)
    for total, buffer in zip(totals, buffers, strict=True):
        buffer.copy_(total / count)


def statistics_of(layers: Iterable[_BatchNorm]) -> list[torch.Tensor]:
    """The running means and variances of layers."""
    buffers = (buffer for layer in layers for buffer in (layer.running_mean, layer.running_var))
    return [buffer for buffer in buffers if buffer is not None]


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Replace the running statistics of `module` by their mean over all processes, where there are several.

    Call it once a step, after the backward pass, which must find the statistics as the forward pass left them. Running
    statistics are linear in those of the batches: the mean is what one process keeps whose batches are as small.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    layers = [layer for layer in batchnorm_layers(module) if layer.training]
    buffers = statistics_of(layers)
    if buffers:
        together = torch.cat(buffers)
        distributed.all_reduce(together)
        together /= distributed.get_world_size()
        for buffer, mean in zip(buffers, torch.split(together, [len(b) for b in buffers]), strict=True):
            buffer.copy_(mean)
