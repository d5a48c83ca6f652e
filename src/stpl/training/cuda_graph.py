"""A step's losses and gradients as CUDA graphs: recorded once, replayed at every step.

A step of a ResNet-101 is some 5000 small launches, for which Python needs longer than the GPU for the work (117 ms
against 48 on one H100 at 512×1024). A graph is launched at once. It is right for every method whose `losses` reads
nothing on the host but the shapes of its batch: numbers drawn or steps counted in Python would repeat themselves.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stpl.data.clip import Batch
from stpl.errors import ConfigError

T = TypeVar("T")
Losses = Callable[[Batch], dict[str, Tensor]]
_WARM_STEPS = 2  # before recording: kernels are compiled and libraries choose theirs


class RecordedLosses:
    """`losses` of a method on a GPU, recorded at the first batch of each shape and replayed for all others of it.

    The replayed losses have a gradient like any others, but their backward pass writes `grad` of the parameters itself:
    torch would copy each gradient. Hooks on gradients, which distributed training needs, do not see them.
    """

    def __init__(self, method: nn.Module, losses: Losses) -> None:
        self._method, self._losses = method, losses
        self._recordings: dict[tuple[object, ...], _Recording] = {}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch, as `Method.losses` returns them.

        Raises:
            ConfigError: if they cannot be recorded.
        """
        signature = tuple((name, tensor.shape, tensor.dtype) for name, tensor in batch.tensors().items())
        if signature not in self._recordings:
            try:
                self._recordings[signature] = _Recording(self._method, self._losses, batch)
            except torch.OutOfMemoryError:
                raise  # it would not fit otherwise either
            except RuntimeError as error:
                what = f"this step cannot be recorded as a CUDA graph ({str(error).splitlines()[0]})"
                raise ConfigError(what, where="run.cuda_graph", mend="set it to false") from error
        return self._recordings[signature].replay(batch)


class _Recording:
    """The graphs for batches of one shape; inputs, losses and gradients stay in the same memory."""

    def __init__(self, method: nn.Module, losses: Losses, batch: Batch) -> None:
        self._losses = losses
        self._batch = batch.map(torch.clone)
        self._parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self._anchor = torch.zeros((), device=batch.target.frames.device, requires_grad=True)
        self._found: dict[str, Tensor] = {}
        before = {name: buffer.clone() for name, buffer in method.named_buffers()}
        capture = Capture()
        capture.warm_up(self._once, _WARM_STEPS)
        self.forward, values = capture(self._go_forward)
        self.values, self._names = values.detach(), list(self._found)
        self.incoming = torch.ones_like(self.values)
        self.backward, self.gradients = capture(self._go_backward) if self._found else (lambda: None, [])
        for name, buffer in method.named_buffers():
            buffer.copy_(before[name])  # what warming up and recording did to them

    def replay(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of another batch."""
        mine = self._batch.tensors()
        for name, tensor in batch.tensors().items():
            mine[name].copy_(tensor)
        apply: Callable[..., Tensor] = _Replay.apply
        return dict(zip(self._names, apply(self._anchor, self).unbind(), strict=True))

    def _once(self) -> None:
        self.incoming = torch.ones_like(self._go_forward())
        if self._found:
            self._go_backward()

    def _go_forward(self) -> Tensor:
        """The losses as one tensor. Weights are cast once for all passes of a step, and anew at every replay."""
        torch.clear_autocast_cache()
        self._found = self._losses(self._batch)
        torch.clear_autocast_cache()
        return torch.stack(list(self._found.values())) if self._found else torch.zeros(0, device=self._anchor.device)

    def _go_backward(self) -> list[tuple[nn.Parameter, Tensor]]:
        """The parameters that have a gradient, with it."""
        losses, incoming = list(self._found.values()), list(self.incoming.unbind())
        found = torch.autograd.grad(losses, self._parameters, incoming, allow_unused=True)
        return [(parameter, grad) for parameter, grad in zip(self._parameters, found, strict=True) if grad is not None]


class _Replay(torch.autograd.Function):
    """Joins a recording to the graph of autograd."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, recording: _Recording) -> Tensor:
        """The losses, in memory of their own; `anchor` is there because it wants a gradient."""
        ctx.recording = recording
        recording.forward()
        return recording.values.detach().clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        """Fills the parameters' `grad`."""
        recording: _Recording = ctx.recording
        recording.incoming.copy_(grad)
        recording.backward()
        for parameter, gradient in recording.gradients:
            if parameter.grad is None or parameter.grad is gradient:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
        return None, None


class Capture:
    """Records what actions do, on one stream and in one pool of memory, to be replayed in the order of recording.

    Warming up takes the same stream: autograd notes on which one a parameter was first used.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, action: Callable[[], object], times: int) -> None:
        """Repeat an action without recording it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(times):
                action()
        torch.cuda.current_stream().wait_stream(self._stream)

    def __call__(self, action: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """A function that does again what `action` does, and its result, which that renews in place.

        Errors are looked for in this thread alone: the loader's goes on pinning memory meanwhile.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = action()
        return graph.replay, result
