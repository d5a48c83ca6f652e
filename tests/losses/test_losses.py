from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stpl.losses.confidence import Scope, confident_pixels
from stpl.losses.cross_entropy import cross_entropy


def logits(batch: int = 2, classes: int = 5, height: int = 6, width: int = 7) -> torch.Tensor:
    return torch.randn(batch, classes, height, width, generator=torch.Generator().manual_seed(3)) * 2


@pytest.mark.parametrize("proportion", [0.1, 0.5, 0.7, 1.0])
def test_global_keeps_the_most_confident_share_of_each_frame(proportion: float) -> None:
    x = logits()
    labels, kept = confident_pixels(x, proportion)
    confidence = x.softmax(1).amax(1)
    assert torch.equal(labels, x.argmax(1))
    for frame in range(len(x)):
        assert kept[frame].sum() == round(proportion * 42)
        if proportion < 1:
            assert confidence[frame][kept[frame]].min() >= confidence[frame][~kept[frame]].max()


@pytest.mark.parametrize("proportion", [0.3, 0.7])
def test_per_class_keeps_that_share_of_each_class(proportion: float) -> None:
    x = logits()
    labels, kept = confident_pixels(x, proportion, "class")
    confidence = x.softmax(1).amax(1)
    for frame in range(len(x)):
        for c in set(labels[frame].flatten().tolist()):
            mine = labels[frame] == c
            n = int(mine.sum())
            expected = confidence[frame][mine].sort(descending=True).values[: max(1, round(proportion * n))]
            found = confidence[frame][mine & kept[frame]].sort(descending=True).values
            assert torch.equal(found, expected)


def test_pseudo_labels_carry_no_gradient() -> None:
    labels, kept = confident_pixels(logits().requires_grad_(), 0.5)
    assert not labels.requires_grad
    assert not kept.requires_grad


@pytest.mark.parametrize(("proportion", "scope"), [(0.0, "global"), (1.1, "global"), (0.5, "frame")])
def test_bad_confidence_arguments(proportion: float, scope: Scope) -> None:
    with pytest.raises(ValueError, match=r"confident proportion|scope"):
        confident_pixels(logits(), proportion, scope)


def test_cross_entropy_is_torch_s_where_pixels_count() -> None:
    x, labels = logits(), torch.randint(0, 5, (2, 6, 7), generator=torch.Generator().manual_seed(0))
    labels[0, :3] = 255
    assert cross_entropy(x, labels).item() == pytest.approx(F.cross_entropy(x, labels, ignore_index=255).item())


def test_cross_entropy_of_nothing_is_zero_with_zero_gradients() -> None:
    x = logits().requires_grad_()
    loss = cross_entropy(x, torch.full((2, 6, 7), 255))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()
