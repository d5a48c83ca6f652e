"""The contrast of whole maps: features and labels of a batch in, pixels drawn, vectors normalised."""

import torch
from torch import Tensor
from torch.nn import functional as F

from stpl.data.clip import IGNORE
from stpl.losses.pixel_contrast import Denominator, pixel_contrast
from stpl.losses.pixel_sets import check_classes


def dense_pixel_contrast(
    maps: Tensor,
    labels: Tensor,
    second: Tensor | None = None,
    *,
    samples: int | None = None,
    generator: torch.Generator | None = None,
    temperature: float = 0.07,
    denominator: Denominator = "negatives",
    ignore_index: int = IGNORE,
) -> Tensor:
    """`pixel_contrast` of feature maps: each labelled pixel of the batch with all of them, or with a second view's.

    Vectors are normalised here, in float32 or wider. Memory is linear in the number of pixels, time is quadratic:
    `samples` bounds both.

    Args:
        maps: features `[B,D,h,w]`, the queries.
        labels: classes 0…254 or `ignore_index`, integer `[B,h,w]`, on the grid of the maps.
        second: features of another view of the same frames `[B,D,h,w]`, the keys; the maps themselves if not given.
        samples: number of labelled pixels to draw of the batch, the same in both views; all if there are fewer.
        generator: what draws them; torch's own if not given.
        temperature: τ > 0.
        denominator: see `stpl.losses.pixel_contrast`.
        ignore_index: label of pixels that take no part.

    Returns:
        Scalar, as `pixel_contrast`.

    Raises:
        ValueError: shapes do not fit, a label is no class, or `pixel_contrast` refuses a setting.

    Examples:
        >>> maps, labels = torch.eye(4).view(1, 4, 2, 2), torch.tensor([[[0, 0], [1, 255]]])
        >>> round(dense_pixel_contrast(maps, labels, temperature=1.0).item(), 4)  # the mean of -1/2, -1/2 and log 2 - 1
        -0.4356
    """
    views = [maps] if second is None else [maps, second]
    for view in views:
        _check_map(view, maps, labels)
    classes = _classes(labels, ignore_index)
    places = None if samples is None else _drawn(classes, samples, generator)
    chosen = classes if places is None else classes[places]
    vectors = [_vectors(view, places) for view in views]
    return pixel_contrast(vectors[0], vectors[-1], chosen, chosen, temperature=temperature, denominator=denominator)


def _check_map(view: Tensor, maps: Tensor, labels: Tensor) -> None:
    """Raise `ValueError` for maps that are none, views of two grids, and labels of another grid."""
    if view.ndim != 4 or view.shape != maps.shape or not view.is_floating_point():
        raise ValueError(f"maps are float [B,D,h,w], both views of one shape; got {view.dtype} {list(view.shape)}")
    if labels.shape != (len(view), *view.shape[2:]):
        mend = "bring labels onto that grid, F.interpolate(labels[:, None].float(), size, mode='nearest')[:, 0].long()"
        raise ValueError(f"labels {list(labels.shape)} are not on the grid of maps {list(view.shape)}: {mend}")
    check_classes(labels)


def _classes(labels: Tensor, ignore_index: int) -> Tensor:
    """Labels int64 `[B·h·w]` with 255 for the pixels that take no part; raises `ValueError` for what is no class."""
    classes = labels.flatten().long()
    ignored = classes == ignore_index
    odd = ~ignored & ((classes < 0) | (classes >= IGNORE))
    if bool(odd.any()):
        mend = f"give classes 0…254, and ignore_index={ignore_index} for pixels without one"
        raise ValueError(f"a label is {int(classes[odd][0])}: {mend}")
    return classes.masked_fill(ignored, IGNORE)


def _drawn(classes: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """Places of `samples` pixels, drawn evenly from those that take part; where these are fewer, others fill up."""
    if samples < 1:
        raise ValueError(f"samples is {samples}: give the number of pixels to draw, 1 or more, or None for all")
    device = classes.device if generator is None else generator.device
    drawn = torch.rand(len(classes), generator=generator, device=device, dtype=torch.float64).to(classes.device)
    return (drawn + (classes == IGNORE)).topk(min(samples, len(classes)), largest=False).indices


def _vectors(view: Tensor, places: Tensor | None) -> Tensor:
    """Unit vectors `[N,D]` of the pixels of maps `[B,D,h,w]` at these places, all if not given."""
    vectors = view.permute(0, 2, 3, 1).flatten(0, 2)
    vectors = vectors if places is None else vectors[places]
    with torch.autocast(view.device.type, enabled=False):
        return F.normalize(vectors.to(torch.promote_types(view.dtype, torch.float32)), dim=1)
