"""The contrast of maps against a loop over pixels, its drawing of pixels, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stpl.losses import dense_pixel_contrast
from stpl.testing import ReadBackError, no_read_back


def maps(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(ignored: int = 255) -> Tensor:
    drawn = torch.randint(0, 4, (2, 3, 4), generator=torch.Generator().manual_seed(9))
    return drawn.masked_fill(drawn == 3, ignored)


def loop(first: Tensor, truth: Tensor, second: Tensor, temperature: float, ignored: int) -> float:
    """Eq. 3 and 4 pixel by pixel, in Python floats, from maps that are not normalised."""
    pixels = [(b, y, x) for b in range(2) for y in range(3) for x in range(4) if truth[b, y, x] != ignored]

    def similarity(one: tuple[int, ...], other: tuple[int, ...]) -> float:
        q, k = first[one[0], :, one[1], one[2]].tolist(), second[other[0], :, other[1], other[2]].tolist()
        return math.fsum(a * b for a, b in zip(q, k, strict=True)) / (math.hypot(*q) * math.hypot(*k) * temperature)

    rows = []
    for query in pixels:
        same = [similarity(query, key) for key in pixels if truth[key] == truth[query]]
        others = math.fsum(math.exp(similarity(query, key)) for key in pixels if truth[key] != truth[query])
        rows.append(math.log(others) - math.fsum(same) / len(same))
    return math.fsum(rows) / len(rows)


@pytest.mark.parametrize("ignored", [255, -1, 3])
def test_equals_a_loop_over_pixels(ignored: int) -> None:
    truth = labels(ignored)
    found = dense_pixel_contrast(maps(), truth, ignore_index=ignored)
    assert found.item() == pytest.approx(loop(maps(), truth, maps(), 0.07, ignored), rel=1e-9)
    found = dense_pixel_contrast(maps(), truth, maps(1), temperature=0.5, ignore_index=ignored)
    assert found.item() == pytest.approx(loop(maps(), truth, maps(1), 0.5, ignored), rel=1e-9)


def test_gradients_reach_both_views_and_no_ignored_pixel() -> None:
    views = [maps().requires_grad_(), maps(1).requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, b: dense_pixel_contrast(a, labels(), b, temperature=0.5), views)
    dense_pixel_contrast(views[0], labels(), views[1]).backward()  # type: ignore[no-untyped-call]
    for view in views:
        assert view.grad is not None
        assert torch.equal(view.grad.abs().sum(1) > 0, labels() != 255)


def test_as_many_pixels_take_part_as_are_drawn() -> None:
    """The same in both views, of labelled pixels alone, by the generator; with enough of them, all."""
    drawn = []
    for seed in (0, 0, 1):
        view = maps().requires_grad_()
        truth = torch.arange(24).view(2, 3, 4).remainder(2).masked_fill(labels() == 255, 255)
        loss = dense_pixel_contrast(view, truth, samples=10, generator=torch.Generator().manual_seed(seed))
        loss.backward()  # type: ignore[no-untyped-call]
        assert view.grad is not None
        drawn.append(view.grad.abs().sum(1) > 0)
        assert drawn[-1].sum() == 10
        assert not drawn[-1][labels() == 255].any()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert (labels() != 255).sum() < 22
    some = dense_pixel_contrast(maps(), labels(), samples=22)
    assert some.item() == pytest.approx(dense_pixel_contrast(maps(), labels()).item(), rel=1e-9)


def test_every_pixel_is_drawn_as_often() -> None:
    generator, seen = torch.Generator().manual_seed(0), torch.zeros(2, 3, 4)
    truth = torch.arange(24).view(2, 3, 4).remainder(2)
    for _ in range(300):
        view = maps(dtype=torch.float32).requires_grad_()
        dense_pixel_contrast(view, truth, samples=12, generator=generator).backward()  # type: ignore[no-untyped-call]
        assert view.grad is not None
        seen += view.grad.abs().sum(1) > 0
    assert (seen - 150).abs().max() < 5 * math.sqrt(300 * 0.25)


def test_maps_in_half_precision_and_labels_of_any_integers() -> None:
    exact = dense_pixel_contrast(maps(), labels())
    for dtype in (torch.uint8, torch.int32, torch.int16):
        assert dense_pixel_contrast(maps(), labels().to(dtype)).item() == exact.item()
    half = dense_pixel_contrast(maps().bfloat16(), labels())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), abs=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        assert dense_pixel_contrast(maps().float(), labels()).item() == pytest.approx(exact.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((maps()[0], labels()), {}, r"maps are float \[B,D,h,w\]"),
        ((maps().long(), labels()), {}, "maps are float .* got torch.int64"),
        ((maps(), labels(), maps()[:1]), {}, "both views of one shape"),
        ((maps(), torch.zeros(2, 6, 8).long()), {}, r"labels \[2, 6, 8\] are not on the grid of maps .* bring labels"),
        ((maps(), labels().float()), {}, r"give labels.long\(\)"),
        ((maps(), labels(-1)), {}, "a label is -1: give classes 0…254, and ignore_index=255"),
        ((maps(), labels(300)), {}, "a label is 300"),
        ((maps(), labels()), {"ignore_index": -1}, "a label is 255"),
        ((maps(), labels()), {"samples": 0}, "samples is 0"),
        ((maps(), labels()), {"temperature": -1.0}, "temperature must be positive"),
        ((maps(), labels()), {"denominator": "all"}, "unknown denominator"),
    ],
)
def test_what_does_not_fit_is_named(arguments: tuple[Tensor, ...], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dense_pixel_contrast(*arguments, **options)


def test_it_says_that_it_reads_values() -> None:
    with pytest.raises(ReadBackError), no_read_back():
        dense_pixel_contrast(maps(), labels())
