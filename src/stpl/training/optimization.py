"""Optimiser and schedule of all methods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, PolynomialLR

from stpl.errors import ConfigError, check_range
from stpl.nn.discriminator import Discriminator
from stpl.nn.segmenter import ParameterGroup

WITHOUT_DECAY = " without decay"
"""How the name of a group ends to which no weight decay applies."""
Factor = Callable[[int], float]
_LEARN_AT_ONCE = ("projection", "new", "discriminator")


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimiser and schedule; the defaults are STPL's (paper §4.1).

    Attributes:
        name: "sgd", "adamw" or "relative": SGD whose rate is the share of their norm by which a step changes the
            weights (see `RelativeSGD`), and so means the same for every network and loss.
        lr: initial learning rate; it decays by (1 - step/horizon)^power.
        momentum: of SGD.
        weight_decay: L2 penalty (SGD) or decoupled decay (AdamW); 5e-4 is the lineage's.
        head_factor: the classifiers learn at `head_factor·lr`; the lineage (ADVENT, DA-VSN, TPS) uses 10. Backbone and
            score fusion learn at `lr`.
        new_module_factor: modules that are not in the source checkpoint learn at `factor·lr`. The paper states one
            rate, with which a random projection head would hardly move; 10 is the lineage's factor for new heads.
        projection_factor: the projection head of a contrast learns at `factor·lr`; as other new modules if not given.
        warmup: steps at the beginning in which only new modules learn, as if on features that take no gradient.
        clip: largest norm of the gradients of the network with all that learns beside it, and of each discriminator;
            longer ones are shortened to it. The released code of DA-VSN, RDA and CMOM has 1.
        power: of the polynomial decay.
        horizon: step at which the decay reaches 0; the length of the run if not given. The lineage decays over
            250000 steps and stops at 40000 (TPS) or 120000 (DA-VSN), where 85 % and 56 % of the rate are left.
        schedule: "poly" decays all rates alike. "advent" repeats an error of ADVENT's released code that DA-VSN, TPS
            and CMOM share: it writes the decayed rate to the first group of parameters and 10 times that to the second,
            which is the score fusion there, and never touches the third, so the classifiers keep their initial rate.

    Raises:
        ConfigError: for a number below 0, a momentum above 1, or a horizon before step 1.
    """

    name: Literal["sgd", "adamw", "relative"] = "sgd"
    lr: float = 2.5e-6
    momentum: float = 0.9
    weight_decay: float = 5e-4
    head_factor: float = 1.0
    new_module_factor: float = 10.0
    projection_factor: float | None = None
    warmup: int = 0
    clip: float | None = None
    power: float = 0.9
    horizon: int | None = None
    schedule: Literal["poly", "advent"] = "poly"

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "head_factor", "new_module_factor", "power", "warmup"):
            check_range(f"optimizer.{name}", getattr(self, name))
        check_range("optimizer.projection_factor", self.projection_factor or 0)
        check_range("optimizer.clip", 1 if self.clip is None else self.clip, 1e-9)
        check_range("optimizer.momentum", self.momentum, 0, 1)
        check_range("optimizer.horizon", 1 if self.horizon is None else self.horizon, 1)


class RelativeSGD(torch.optim.SGD):
    """SGD after gradients were scaled by one number: to the norm of the weights that they belong to, all together.

    With rate ρ, a step without momentum changes the weights by the share ρ of their norm, whatever the scale of the
    loss and of the weights is; momentum μ makes it up to 1/(1-μ) times as much. (You et al., LARS, 2017, do so layer by
    layer, which also changes the direction.) The network is scaled as a whole, and each kind of module that is new
    beside it by itself: their gradients say nothing about its own. Parameters without gradient are left out. No number
    leaves the device.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Call `closure` once, scale, then take SGD's step."""
        loss = _called(closure)
        parts: dict[str, list[Tensor]] = {}
        for group in self.param_groups:
            part = parts.setdefault(group["name"] if group.get("name") in _LEARN_AT_ONCE else "network", [])
            part += [parameter for parameter in group["params"] if parameter.grad is not None]
        for moved in filter(None, parts.values()):
            gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
            scale = _norm(moved) / _norm(gradients).clamp(min=torch.finfo(torch.float32).tiny)
            torch._foreach_mul_(gradients, scale)
        super().step()
        return loss


@torch.enable_grad()
def _called(closure: Callable[[], float] | None) -> float | None:
    """The loss of the closure of `Optimizer.step`."""
    return None if closure is None else closure()


def _norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of all tensors together, float32 scalar on their device."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(tensors))).float())
    return norm


class Joint(torch.optim.Optimizer):
    """Several optimisers of different parameters as one, so that SGD and Adam take one step after one backward pass.

    Automatic optimisation, its count of steps, schedules per group, clipping, gradient scaling and checkpoints then see
    one optimiser: the groups of its parts are its groups, the very same objects, and its state is theirs.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._bind()

    def _bind(self) -> None:
        """Have the parts work on the groups and the state of the whole."""
        start = 0
        for part in self.parts:
            end = start + len(part.param_groups)
            part.param_groups, part.state, start = self.param_groups[start:end], self.state, end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of another; groups and state are new objects then, for the parts too."""
        super().load_state_dict(state_dict)
        self._bind()

    def step(self, closure: Any = None) -> Any:
        """Call `closure` once, then take a step of every part."""
        loss = _called(closure)
        for part in self.parts:
            part.step()
        return loss


def grouped(
    learning: Mapping[str, nn.Parameter], placed: Iterable[ParameterGroup], options: OptimizerOptions
) -> list[dict[str, Any]]:
    """Optimiser groups: backbone, score fusion, classifiers, projection head, other new modules.

    Args:
        learning: the parameters of a method, by name.
        placed: those of its segmenter, by how they learn.
        options: say at which rate.
    """
    factor = options.new_module_factor if options.projection_factor is None else options.projection_factor
    rates = {
        "backbone": options.lr,
        f"backbone{WITHOUT_DECAY}": options.lr,
        "score_fusion": options.lr,
        "classifiers": options.lr * options.head_factor,
        f"classifiers{WITHOUT_DECAY}": options.lr * options.head_factor,
        "projection": options.lr * factor,
        "new": options.lr * options.new_module_factor,
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    places = {
        id(parameter): group.name if group.decays else f"{group.name}{WITHOUT_DECAY}"
        for group in placed
        for parameter in group.parameters
    }
    for name, parameter in learning.items():
        kind = "projection" if name.startswith("projection.") else "new"
        outside = "score_fusion" if name.startswith("network.") else kind
        members[places.get(id(parameter), outside)].append(parameter)
    return [
        {"name": name, "params": members[name], "lr": lr}
        | ({"weight_decay": 0.0} if name.endswith(WITHOUT_DECAY) else {})
        for name, lr in rates.items()
        if members[name]
    ]


def build_optimizer(
    options: OptimizerOptions, groups: list[dict[str, Any]], discriminators: Sequence[Discriminator]
) -> torch.optim.Optimizer:
    """The optimiser of `groups` by the options, joined by an Adam for each discriminator."""
    main: torch.optim.Optimizer
    if options.name in ("sgd", "relative"):
        kind = torch.optim.SGD if options.name == "sgd" else RelativeSGD
        main = kind(groups, momentum=options.momentum, weight_decay=options.weight_decay)
    else:
        main = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
    others = []
    for discriminator in discriminators:
        own = discriminator.options
        group = {"name": "discriminator", "params": list(discriminator.parameters()), "lr": own.lr}
        others.append(torch.optim.Adam([group], betas=(own.beta1, own.beta2)))
    return Joint([main, *others]) if others else main


def learning_rates(
    optimizer: torch.optim.Optimizer, options: OptimizerOptions, steps: int, factor: Factor | None = None
) -> LRScheduler:
    """The schedule of `options` over a run of `steps` steps, times the `factor` of each step.

    Raises:
        ConfigError: if the horizon lies before the end of the run.
    """
    horizon = steps if options.horizon is None else options.horizon
    if horizon < steps:
        raise ConfigError(
            f"{horizon} is less than the {steps} steps of the run",
            where="optimizer.horizon",
            mend="choose a later step, or leave it out to decay over the run",
        )
    if options.schedule == "poly" and not options.warmup and factor is None:
        return PolynomialLR(optimizer, total_iters=horizon, power=options.power)

    def decayed(step: int) -> float:
        return float((1 - min(step, horizon) / horizon) ** options.power) * (factor(step) if factor else 1.0)

    def share(name: str, step: int) -> float:
        """Share of a group's initial rate at a step."""
        if step < options.warmup and name not in _LEARN_AT_ONCE:
            return 0.0
        if options.schedule == "advent" and name == "score_fusion":
            return 10 * decayed(step)
        if options.schedule == "advent" and name.removesuffix(WITHOUT_DECAY) == "classifiers":
            return factor(step) if factor else 1.0
        return decayed(step)

    return LambdaLR(optimizer, [partial(share, group["name"]) for group in optimizer.param_groups])
