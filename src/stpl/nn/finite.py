"""Are there numbers to go on with? NaN and infinity in weights, statistics and losses."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

_VARIANCE = "running_var"
_NEVER = torch.iinfo(torch.int64).max


@torch.no_grad()
def fault(state: Mapping[str, Any]) -> str | None:
    """Which tensor of a state dict holds NaN, infinity, or (by its name) a variance below 0; `None` if none does.

    What is no tensor (extra state) is not looked at. The device is asked once if nothing is wrong.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.numel()}
    numbers = [value for value in tensors.values() if value.is_floating_point()]
    variances = [value.min() for name, value in tensors.items() if name.endswith(_VARIANCE)]
    if not numbers:
        return None
    sound = get_total_norm(numbers, float("inf")).isfinite()
    if variances:
        sound = sound & (torch.stack(variances).min() >= 0)
    if bool(sound):
        return None
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return f"{name} holds {'NaN' if bool(value.isnan().any()) else 'infinity'}"
        if name.endswith(_VARIANCE) and bool(value.min() < 0):
            return f"{name} holds a variance below 0 ({float(value.min()):.3g})"
    return None


class LossWatch:
    """Remembers on the device which loss was the first that was not finite, and at which step.

    Looking at a loss would have the host wait for the device at every step; remembering does not.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._first: Tensor | None = None

    def see(self, step: int, names: Sequence[str], losses: Tensor) -> None:
        """Take the losses `[N]` of a step, counted from 1, under their N names; every step has the same."""
        self._names, count = tuple(names), len(names)
        places = torch.arange(step * count, (step + 1) * count, device=losses.device)
        first = places.masked_fill(losses.detach().isfinite(), _NEVER).min()
        self._first = first if self._first is None else torch.minimum(self._first, first)

    def first(self, device: torch.device) -> Tensor:
        """Where the first was, for `described`, on `device`. Of several processes, the least is what counts."""
        return torch.full((), _NEVER, device=device) if self._first is None else self._first

    def described(self, first: Tensor) -> tuple[int, str] | None:
        """Step and name of the loss that `first` stands for, `None` if all were finite; waits for the device."""
        place = int(first)
        return None if place == _NEVER else (place // len(self._names), self._names[place % len(self._names)])
