"""Operations over all pixels of wide features, with few passes over them: STAM's gates, the choice of pixels.

At 65×129 a stack of two ResNet-101 features has 34 million values. So sums are matrix products with ones, the gradient
of a maximum goes to one place (one of them, where several are equal), and x, its mean and its maximum share a backward
pass. Features are `[B,h,w,C]`: the channels of a pixel lie side by side, as in the memory format `channels_last`.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Over = Literal["pixels", "channels"]


def pool(x: Tensor, over: Over) -> tuple[Tensor, Tensor, Tensor]:
    """Features `[B,h,w,C]`, contiguous, with their mean and maximum over pixels `[B,C]` or over channels `[B,h,w]`.

    Go on with the features that it returns: their gradient is then made in one pass with those of the other two.
    """
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Pool.apply
    return apply(x, over)


def reweigh(x: Tensor, weights: Tensor) -> Tensor:
    """Multiply features `[B,h,w,C]`, contiguous, by weights of their channels, `[B,C]`, or of their pixels, `[B,h,w]`.

    Weights are cast to the dtype of x, which the result has too.
    """
    apply: Callable[..., Tensor] = _Reweigh.apply
    return apply(x, weights.to(x.dtype))


def take(x: Tensor, places: Tensor) -> Tensor:
    """Features `[B,n,C]` of some pixels of x `[B,h,w,C]`, at indices `[B,n]` into h·w, distinct in each image."""
    apply: Callable[..., Tensor] = _Take.apply
    return apply(x, places)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, over: Over) -> tuple[Tensor, Tensor, Tensor]:
        peak, places = _peak(x, over)
        ctx.over = over
        ctx.save_for_backward(places)
        return x.view_as(x), _mean(x, over), peak

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_peak: Tensor) -> tuple[Tensor, None]:
        """The gradients of all three results in one pass; that of the maximum at its places."""
        (places,) = ctx.saved_tensors
        grad = grad.contiguous() + _spread(grad_mean / _count(grad, ctx.over), ctx.over)
        grad.view(-1).index_add_(0, places, grad_peak.flatten())
        return grad, None


class _Reweigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        return x * _spread(weights, _shared_by(weights))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Of the features in one pass, and of the weights as a sum over what shares each."""
        x, weights = ctx.saved_tensors
        over, grad = _shared_by(weights), grad.contiguous()
        product = grad * x
        grad_weights = _mean(product, over) * _count(x, over)
        return torch.mul(grad, _spread(weights, over), out=product), grad_weights


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        first = torch.arange(0, x.shape[:-1].numel(), x.shape[1] * x.shape[2], device=x.device).view(-1, 1)
        rows = (places + first).flatten()
        ctx.shape = x.shape
        ctx.save_for_backward(rows)
        return x.flatten(0, 2).index_select(0, rows).view(*places.shape, x.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Zero but at the places, which are distinct, so that copying is adding."""
        (rows,) = ctx.saved_tensors
        spread = grad.new_zeros(ctx.shape)
        spread.view(-1, ctx.shape[-1]).index_copy_(0, rows, grad.flatten(0, 1))
        return spread, None


def _shared_by(weights: Tensor) -> Over:
    """What shares a weight: the pixels where each channel has one, `[B,C]`, and the channels otherwise."""
    return "pixels" if weights.dim() == 2 else "channels"


def _spread(values: Tensor, over: Over) -> Tensor:
    """`[B,C]` or `[B,h,w]` as `[B,1,1,C]` or `[B,h,w,1]`."""
    return values[:, None, None] if over == "pixels" else values[..., None]


def _count(x: Tensor, over: Over) -> int:
    return x[0, :, :, 0].numel() if over == "pixels" else x.shape[-1]


def _mean(x: Tensor, over: Over) -> Tensor:
    """Mean as a product with equal weights: a power of two, so that no precision is lost and no sum overflows."""
    count = _count(x, over)
    share = 2.0 ** -math.frexp(count)[1]
    weights = x.new_full((1, count), share)
    with torch.autocast(x.device.type, enabled=False):
        mean = weights @ x.flatten(1, 2) if over == "pixels" else x.flatten(0, 2) @ weights.T
    shape = (len(x), x.shape[-1]) if over == "pixels" else x.shape[:-1]
    return mean.view(shape) * (1 / (count * share))


def _peak(x: Tensor, over: Over) -> tuple[Tensor, Tensor]:
    """Maximum, and its places in the flat x; over pixels by rows first, which is far faster than `max` along them."""
    if over == "channels":
        peak, channel = x.max(3)
        return peak, torch.arange(0, x.numel(), x.shape[-1], device=x.device) + channel.flatten()
    batch, _, width, channels = x.shape
    peak, row = x.amax(2).max(1)
    column = x.gather(1, row[:, None, None].expand(-1, 1, width, -1))[:, 0].argmax(1)
    first = torch.arange(0, x.numel(), x[0].numel(), device=x.device).view(batch, 1)
    return peak, (first + (row * width + column) * channels + torch.arange(channels, device=x.device)).flatten()
