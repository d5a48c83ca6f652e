"""Discriminators: which domain do maps come from? Trained against the network that makes the maps."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.func import functional_call

from stpl.errors import check_range


@dataclass(frozen=True)
class DiscriminatorOptions:
    """A discriminator and its optimiser, Adam; the defaults are those of ADVENT and DA-VSN.

    Attributes:
        width: channels of its first layer.
        lr: learning rate; it decays as the network's does.
        beta1: Adam's decay of the mean gradient.
        beta2: Adam's decay of the mean squared gradient.

    Raises:
        ConfigError: for a value out of range.
    """

    width: int = 64
    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99

    def __post_init__(self) -> None:
        check_range("discriminator.width", self.width, 1)
        check_range("discriminator.lr", self.lr)
        check_range("discriminator.beta1", self.beta1, 0, 1)
        check_range("discriminator.beta2", self.beta2, 0, 1)


class Discriminator(nn.Module):
    """Five 4×4 convolutions of stride 2 (Radford et al., DCGAN, as AdaptSegNet and ADVENT take it).

    A method that holds one as a sub-module trains it: its parameters are in an optimiser of their own. One backward
    pass serves both sides: the sum of losses on `frozen` and `detached` scores gives each the gradients of two separate
    passes (AdaptSegNet, ADVENT, DA-VSN), in which all optimisers step after all passes.

    Args:
        channels: of the maps; of both frames' maps together for a discriminator of sequences (DA-VSN).
        options: width and optimiser.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, channels: int, options: DiscriminatorOptions | None = None) -> None:
        super().__init__()
        self.options = options or DiscriminatorOptions()
        widths = [channels, *(self.options.width * factor for factor in (1, 2, 4, 8))]
        layers: list[nn.Module] = []
        for inside, outside in pairwise(widths):
            layers += [nn.Conv2d(inside, outside, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 2, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Scores `[B,1,h/32,w/32]` (logits) of maps `[B,C,h,w]`; sides of less than 32 are not possible."""
        scores: Tensor = self.layers(maps)
        return scores

    def frozen(self, maps: Tensor) -> Tensor:
        """As `forward`, with gradients for the maps and none for the discriminator."""
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        scores: Tensor = functional_call(self, fixed, (maps,))
        return scores

    def detached(self, maps: Tensor) -> Tensor:
        """As `forward`, with gradients for the discriminator and none for what made the maps."""
        return self(maps.detach())
