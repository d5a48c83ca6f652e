"""STPL and its relatives (paper §3): one method, in which a variant is a list of contrasts between named views.

| row of Table 3 | contrasts (query, key) |
|---|---|
| Duplicate CL | (current, current) |
| Temporal-only CL | (current, previous-warped) |
| Spatial-only CL | (current, augmented current) |
| Naive T+S CL | (current, previous-warped), (current, augmented current) |
| STPL | (fused, augmented fused) |

A view is a feature map on the grid of the current frame, so all of them share the pseudo-labels of the current frame.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from stpl.data.clip import BACKWARD, IGNORE, Batch, Clip, Wants
from stpl.errors import ConfigError
from stpl.losses.pixel_contrast import Denominator, EngineName, choose_engine, pixel_contrast
from stpl.nn.accel import Accel, clip_flow
from stpl.nn.batchnorm import Views, statistics_kept
from stpl.nn.fusion import FUSIONS, Fusion, FusionName
from stpl.nn.pixels import take
from stpl.nn.projection import HeadName, ProjectionHead
from stpl.nn.segmenter import Segmentation, grid_of, on_grid
from stpl.nn.warp import warp
from stpl.training.base import check_settings
from stpl.training.online_pseudo_labels import OnlinePseudoLabels
from stpl.training.ranks import gather_ranks

View = Literal["current", "previous-warped", "augmented current", "fused", "augmented fused"]


@dataclass(frozen=True)
class Contrast:
    """A pair of views: every confident pixel of `query` against all confident pixels of `key`."""

    query: View
    key: View


class STPL(OnlinePseudoLabels):
    """Source-free adaptation by pixel-level contrast (Lo et al., CVPR 2023).

    Open points of the paper are options; their defaults follow the evidence collected in `docs/methods/stpl.md`.

    Args:
        contrasts: the pairs of views; their losses are added (Eq. 4 for each).
        fusion: the operation f that makes the fused views (paper §3.1, Table 4).
        temperature: τ of Eq. 3.
        denominator: "negatives" is Eq. 3 as printed; "supcon" and "positive+negatives" are its relatives.
        engine: what computes Eq. 3 and 4: "sorted" (for CPUs), "triton" (for GPUs, needs a C compiler), "masked"
            (anywhere), or "auto": the best that can run here.
        key_scope: whether a query meets the keys of its own clip ("clip", Eq. 1 and 2), of the whole batch ("batch"),
            or of the batches of all ranks ("ranks"; ranks weigh the same, also where the per-class scope left one of
            them a few pixels more).
        head: the projection head: "mlp", "linear", or "none": the features themselves, normalised, are contrasted.
        embedding_dim: output channels of the projection head, if there is one.
        previous_gradient: let gradients flow through the previous frame too; ACCEL's released code does not.
    """

    recordable = True

    def __init__(
        self,
        *,
        contrasts: list[Contrast] | None = None,
        fusion: FusionName = "stam",
        temperature: float = 0.07,
        denominator: Denominator = "negatives",
        engine: EngineName = "auto",
        key_scope: Literal["clip", "batch", "ranks"] = "clip",
        head: HeadName = "mlp",
        embedding_dim: int = 128,
        previous_gradient: bool = False,
        **shared: Any,
    ) -> None:
        if temperature <= 0:
            raise ConfigError(f"{temperature} is not above 0", where="model.temperature", mend="choose one like 0.07")
        check_settings(1e-4, temperature=temperature)  # below, float32 cannot distinguish two similarities
        check_settings(1, embedding_dim=embedding_dim)
        super().__init__(**shared)
        self.contrasts = contrasts or [Contrast("fused", "augmented fused")]
        self.temperature, self.denominator, self.engine = temperature, denominator, engine
        self.key_scope = key_scope
        self.previous_gradient = previous_gradient
        names = {name for pair in self.contrasts for name in (pair.query, pair.key)}
        self.wants = Wants(flows=(BACKWARD,), augmented=any("augmented" in name for name in names))
        fused = {name for name in names if "fused" in name}
        if fused and fused != names:
            raise ConfigError(
                f"contrasts mix fused and single-frame views: {sorted(names)}",
                where="model.contrasts",
                mend="the projection head takes one width: use only fused, or only single-frame views",
            )
        dim = self.network.feature_dim
        self.fusion: Fusion | None = FUSIONS[fusion](dim) if fused else None
        self.projection = ProjectionHead(self.fusion.out_dim if self.fusion else dim, embedding_dim, kind=head)

    def on_fit_start(self) -> None:
        """Refuse an engine that cannot run here before the first step; raises `ConfigError`."""
        super().on_fit_start()
        try:
            choose_engine(torch.empty(0, self.projection.out_dim, device=self.device), self.engine)
        except ValueError as error:
            raise ConfigError(str(error), where="model.engine", mend="leave it out: the best one is chosen") from error

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """One contrast loss per pair of views."""
        clip = batch.target
        views = _Views(self.network, clip, self.fusion, self.previous_gradient, self.batchnorm.views)
        labels, confident = self.pseudo_labels(views.logits, clip)
        places, classes = self._kept(labels.flatten(1), confident.flatten(1))
        pixels: dict[View, Tensor] = {}
        for pair in self.contrasts:
            for name in (pair.query, pair.key):
                if name not in pixels:
                    pixels[name] = self._embed(views[name], places)
        return {
            f"{pair.query} ↔ {pair.key}": self._contrast(pixels[pair.query], pixels[pair.key], classes)
            for pair in self.contrasts
        }

    def _kept(self, labels: Tensor, confident: Tensor) -> tuple[Tensor, Tensor]:
        """Places of the confident pixels of `[B,h·w]` and their classes, both `[B,n]`.

        n is known beforehand, so that nothing is read back from the device: per-class quotas are rounded, by at most
        one pixel a class, and places beyond them are labelled `IGNORE`.
        """
        count, spare = labels.shape[1], 0 if self.confident_scope == "global" else self.network.num_classes
        kept = min(count, max(1, round(self.confident_proportion * count)) + spare)
        places = (~confident).to(torch.uint8).argsort(dim=1, stable=True)[:, :kept]
        return places, torch.where(confident, labels, IGNORE).gather(1, places)

    def _embed(self, features: Tensor, places: Tensor) -> Tensor:
        """Embeddings `[B,n,D]` of the pixels at `places` `[B,n]` of features `[B,C,h,w]`.

        The head maps each pixel alone, so those that take no part need not go through it.
        """
        embedding: Tensor = self.projection(take(features.permute(0, 2, 3, 1), places))
        return embedding

    def _contrast(self, queries: Tensor, keys: Tensor, classes: Tensor) -> Tensor:
        """Eq. 4 of queries and keys `[B,n,D]`, averaged over clips, or over the batch as if it were one clip."""
        options: dict[str, Any] = {
            "temperature": self.temperature,
            "denominator": self.denominator,
            "engine": self.engine,
        }
        if self.key_scope == "clip":
            clips = zip(queries, keys, classes, strict=True)
            return torch.stack([pixel_contrast(q, k, c, c, **options) for q, k, c in clips]).mean()
        queries, keys, classes = queries.flatten(0, 1), keys.flatten(0, 1), classes.flatten()
        if self.key_scope == "ranks":
            return pixel_contrast(queries, gather_ranks(keys), classes, gather_ranks(classes), **options)
        return pixel_contrast(queries, keys, classes, classes, **options)


class _Views:
    """The named views of a batch, each computed at most once and only if it is used; shapes `[B,C,h,w]`."""

    def __init__(
        self, network: Accel, clip: Clip, fusion: Fusion | None, previous_gradient: bool, statistics: Views
    ) -> None:
        self.network, self.clip, self.fusion = network, clip, fusion
        self.previous_gradient, self.statistics = previous_gradient, statistics

    def __getitem__(self, name: View) -> Tensor:
        # No table of bound methods: it would refer to this object, and the step's tensors would wait for the collector.
        match name:
            case "current":
                return self.current
            case "previous-warped":
                return self.previous_warped
            case "augmented current":
                return self.augmented_current
            case "fused":
                return self._fuse(self.previous_warped, self.current)
            case "augmented fused":
                return self._fuse(self.augmented_previous_warped, self.augmented_current)

    @cached_property
    def now(self) -> Segmentation:
        """What the network makes of the current frame."""
        return self.network.segment(self.clip.frame())

    @cached_property
    def before(self) -> Segmentation:
        """What it makes of the previous frame, on its own grid."""
        with torch.set_grad_enabled(self.previous_gradient):
            return self.network.segment(self.clip.frame(-1))

    @property
    def current(self) -> Tensor:
        """Features of the current frame."""
        return self.now.features

    @cached_property
    def flow(self) -> Tensor:
        """Flow `[B,2,h,w]` from the current to the previous frame, in units of the features' grid."""
        return self._flow(self.current)

    @cached_property
    def previous_warped(self) -> Tensor:
        """Features of the previous frame, on the current one's grid."""
        return warp(self.before.features, self.flow)

    @cached_property
    def augmented_current(self) -> Tensor:
        """Features of the augmented current frame."""
        return self._encode_augmented(-1)

    @cached_property
    def augmented_previous_warped(self) -> Tensor:
        """Features of the augmented previous frame, on the current one's grid; flow is that of the original clip."""
        with torch.set_grad_enabled(self.previous_gradient):
            return warp(self._encode_augmented(-2), self.flow)

    @cached_property
    def logits(self) -> Tensor:
        """Fused prediction of the original clip on the features' grid, without gradient, for the pseudo-labels."""
        current, previous = self.now.logits.detach(), self.before.logits.detach()
        with torch.no_grad():
            fused = self.network.fuse(current, previous, self._flow(current))
            return on_grid(fused, grid_of(self.current))

    def _flow(self, maps: Tensor) -> Tensor:
        return clip_flow(self.clip, grid_of(maps))

    def _encode_augmented(self, place: int) -> Tensor:
        assert self.clip.augmented is not None  # wants.augmented
        with nullcontext() if self.statistics == "all" else statistics_kept(self.network):
            return self.network.encode(self.clip.augmented[:, place])

    def _fuse(self, previous_warped: Tensor, current: Tensor) -> Tensor:
        assert self.fusion is not None  # made whenever a fused view is named
        fused: Tensor = self.fusion(previous_warped, current)
        return fused
