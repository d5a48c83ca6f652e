"""Learning-rate groups, schedules and the auxiliary loss of the DA-VSN lineage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stpl.data.clip import BACKWARD, Batch, Clip
from stpl.errors import ConfigError
from stpl.methods import STPL, SelfTraining, Supervised
from stpl.nn.batchnorm import BatchNormOptions
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions
from stpl.training import Method, OptimizerOptions
from stpl.training.optimization import RelativeSGD, learning_rates

SMALL = NetworkOptions(DeepLabV2(18, 8, (1, 2), auxiliary=True))
LINEAGE = OptimizerOptions(lr=2.5e-4, head_factor=10.0, horizon=250_000)
FROZEN = BatchNormOptions("frozen")


def clip() -> Clip:
    generator = torch.Generator().manual_seed(5)
    frames, augmented = torch.randint(0, 256, (2, 2, 2, 3, 40, 56), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 15, (2, 40, 56), generator=generator)
    label[:, :9] = 255
    return Clip(frames, {BACKWARD: torch.randn(2, 2, 40, 56, generator=generator)}, {0: label}, augmented=augmented)


def test_groups_are_the_lineage_s() -> None:
    """Backbone and score fusion at lr, classifiers at 10·lr, modules of the method at their own; nothing forgotten."""
    method = STPL(network=SMALL, optimizer=LINEAGE)
    groups = {group["name"]: group for group in method.parameter_groups()}
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates == pytest.approx(
        {"backbone": 2.5e-4, "score_fusion": 2.5e-4, "classifiers": 2.5e-3, "projection": 2.5e-3, "new": 2.5e-3}
    )
    segmenter, network = method.network.segmenter, method.network
    expected = {
        "backbone": segmenter.get_submodule("backbone").parameters(),
        "score_fusion": network.score_fusion.parameters(),
        "classifiers": [p for name in ("classifier", "auxiliary") for p in segmenter.get_submodule(name).parameters()],
        "projection": method.projection.parameters(),
        "new": [] if method.fusion is None else method.fusion.parameters(),
    }
    for name, parameters in expected.items():
        assert {id(p) for p in groups[name]["params"]} == {id(p) for p in parameters}
    assert sum(len(group["params"]) for group in groups.values()) == len(list(method.parameters()))
    assert "new" not in {group["name"] for group in Supervised(network=SMALL, optimizer=LINEAGE).parameter_groups()}


def rates(options: OptimizerOptions, steps: int, taken: int) -> list[dict[str, float]]:
    """The rate of every group at each of the first steps."""
    optimizer = torch.optim.SGD(Supervised(network=SMALL, optimizer=options).parameter_groups())
    schedule = learning_rates(optimizer, options, steps)
    found = []
    for _ in range(taken):
        found.append({group["name"]: group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        schedule.step()
    return found


def test_the_decay_ends_at_the_horizon() -> None:
    assert [r["backbone"] for r in rates(OptimizerOptions(lr=1.0), 4, 5)] == pytest.approx(
        [(1 - s / 4) ** 0.9 for s in range(5)]
    )
    assert [r["backbone"] for r in rates(OptimizerOptions(lr=1.0, horizon=10), 4, 5)] == pytest.approx(
        [(1 - s / 10) ** 0.9 for s in range(5)]
    )


def test_advent_s_error_is_repeated_on_request_only() -> None:
    """Against what its `adjust_learning_rate` does: it writes into the first two of the lineage's three groups."""

    def adjust(groups: list[dict[str, float]], step: int) -> None:
        rate = 2.5e-4 * (1 - step / 250_000) ** 0.9
        groups[0]["lr"] = rate
        if len(groups) > 1:
            groups[1]["lr"] = rate * 10

    options = OptimizerOptions(lr=2.5e-4, head_factor=10.0, horizon=250_000, schedule="advent")
    groups = [{"lr": 2.5e-4}, {"lr": 2.5e-4}, {"lr": 2.5e-3}]
    for step, found in enumerate(rates(options, 40_000, 3)):
        adjust(groups, step)
        assert list(found) == ["backbone", "score_fusion", "classifiers"]
        assert list(found.values()) == pytest.approx([group["lr"] for group in groups], rel=1e-12)
    correct = rates(LINEAGE, 40_000, 3)[2]
    assert correct["classifiers"] == pytest.approx(10 * correct["score_fusion"])
    assert correct["classifiers"] < 2.5e-3


def test_a_horizon_inside_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 is less than the 4 steps"):
        rates(OptimizerOptions(horizon=3), 4, 1)


def test_the_auxiliary_classifier_is_trained_at_a_tenth() -> None:
    torch.manual_seed(0)
    method, batch = Supervised(network=SMALL, optimizer=LINEAGE, batchnorm=FROZEN).train(), clip()
    with torch.no_grad():
        method.network.score_fusion.weight.normal_()  # so that the fusion of the auxiliary scores is seen, too
    losses = method.losses(Batch(batch))

    def expected(logits: Tensor) -> float:
        large = F.interpolate(logits, batch.labels[0].shape[-2:], mode="bilinear", align_corners=True)
        return F.cross_entropy(large, batch.labels[0], ignore_index=255).item()

    main, auxiliary = (expected(logits) for logits in method.network.fused_scores(batch))
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {"cross_entropy": main, "auxiliary": 0.1 * auxiliary}, rel=1e-5
    )
    assert list(
        Supervised(network=NetworkOptions(DeepLabV2(18, 8, (1, 2))), optimizer=LINEAGE).losses(Batch(batch))
    ) == ["cross_entropy"]


@pytest.mark.parametrize("make", [STPL, SelfTraining])
def test_adaptation_leaves_the_auxiliary_classifier_alone(make: Callable[..., Method]) -> None:
    method = make(network=SMALL, optimizer=LINEAGE, batchnorm=FROZEN).train()
    torch.autograd.backward(list(method.losses(Batch(clip())).values()))
    assert all(p.grad is None for p in method.network.segmenter.get_submodule("auxiliary").parameters())
    assert any(p.grad is not None for p in method.network.segmenter.get_submodule("backbone").parameters())


def test_relative_rate_is_the_share_by_which_weights_change() -> None:
    """Whatever the scale of the loss; the direction is the gradient's, all tensors taken together."""
    for scale in (1e-6, 1.0, 1e4):
        weights = [torch.nn.Parameter(torch.tensor(value)) for value in ([3.0, 0.0], [4.0])]
        idle = torch.nn.Parameter(torch.ones(3))
        before = [parameter.detach().clone() for parameter in weights]
        optimizer = RelativeSGD([*weights, idle], lr=0.01)
        for parameter, gradient in zip(weights, ([1.0, 2.0], [2.0]), strict=True):
            parameter.grad = scale * torch.tensor(gradient)
        optimizer.step()
        change = torch.cat([now.detach() - then for now, then in zip(weights, before, strict=True)])
        assert torch.allclose(change, -0.01 * 5 / 3 * torch.tensor([1.0, 2.0, 2.0]))
        assert torch.equal(idle, torch.ones(3))


def test_a_new_module_has_a_share_of_its_own() -> None:
    """However large its gradients are, they leave the network its share."""
    values = {"backbone": [3.0, 4.0], "classifiers": [12.0], "projection": [2.0], "new": [1.0]}
    weights = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in values.items()}
    groups = [
        {"name": name, "params": [weight], "lr": 0.1 if name == "projection" else 0.01}
        for name, weight in weights.items()
    ]
    optimizer = RelativeSGD(groups, lr=0.01)
    for name, weight in weights.items():
        weight.grad = torch.full_like(weight, 1e6 if name in ("projection", "new") else 1.0)
    optimizer.step()
    together = 0.01 * 13 / 3**0.5  # backbone and classifiers
    expected = {"backbone": together, "classifiers": together, "projection": 0.1 * 2, "new": 0.01 * 1}
    for name, weight in weights.items():
        torch.testing.assert_close(
            torch.tensor(values[name]) - weight.detach(), torch.full_like(weight, expected[name])
        )


def test_no_gradient_moves_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = RelativeSGD([weight], lr=0.01)
    weight.grad = torch.zeros(2)
    assert optimizer.step(lambda: 2.0) == 2.0
    assert torch.equal(weight, torch.ones(2))
