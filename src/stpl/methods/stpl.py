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

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from stpl.data.clip import BACKWARD, IGNORE, Batch, Clip, Wants
from stpl.errors import ConfigError
from stpl.losses.pixel_contrast import Denominator, EngineName, choose_engine, contrast_pixels
from stpl.losses.pixel_sets import Pixels
from stpl.nn.accel import clip_flow
from stpl.nn.batchnorm import statistics_kept
from stpl.nn.fusion import FUSIONS, Fusion, FusionName, HeadName, ProjectionHead
from stpl.nn.pixels import take
from stpl.nn.segmenter import Segmentation, grid_of, on_grid
from stpl.nn.warp import warp
from stpl.training.base import check_settings
from stpl.training.ranks import gather_ranks
from stpl.training.supervision import OnlinePseudoLabels

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
        self.key_scope, self.previous_gradient = key_scope, previous_gradient
        self.views = list(dict.fromkeys(name for pair in self.contrasts for name in (pair.query, pair.key)))
        self.wants = Wants(flows=(BACKWARD,), augmented=any("augmented" in name for name in self.views))
        fused = [name for name in self.views if "fused" in name]
        if fused and fused != self.views:
            raise ConfigError(
                f"contrasts mix fused and single-frame views: {sorted(self.views)}",
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
        now = self.network.segment(clip.frame())
        with torch.set_grad_enabled(self.previous_gradient):
            before = self.network.segment(clip.frame(-1))
        labels, confident = self.pseudo_labels(self._prediction(clip, now, before), clip)
        places, classes = self._kept(labels.flatten(1), confident.flatten(1))
        features = now.features, before.features
        flow = clip_flow(clip, grid_of(now.features))
        pixels = {name: self._embed(self._view(name, clip, features, flow), places) for name in self.views}
        return {
            f"{pair.query} ↔ {pair.key}": self._contrast(pixels[pair.query], pixels[pair.key], classes)
            for pair in self.contrasts
        }

    @torch.no_grad()
    def _prediction(self, clip: Clip, now: Segmentation, before: Segmentation) -> Tensor:
        """Fused logits of the clean clip on the features' grid, for the pseudo-labels."""
        fused = self.network.fuse(now.logits, before.logits, clip_flow(clip, grid_of(now.logits)))
        return on_grid(fused, grid_of(now.features))

    def _view(self, name: View, clip: Clip, features: tuple[Tensor, Tensor], flow: Tensor) -> Tensor:
        """A view `[B,C,h,w]`, from the features of the current and the previous frame and their flow `[B,2,h,w]`."""
        now, before = features
        match name:
            case "current":
                return now
            case "previous-warped":
                return warp(before, flow)
            case "augmented current":
                return self._encode_augmented(clip, -1)
            case "fused":
                return self._fused(warp(before, flow), now)
            case "augmented fused":
                with torch.set_grad_enabled(self.previous_gradient):
                    before = warp(self._encode_augmented(clip, -2), flow)
                return self._fused(before, self._encode_augmented(clip, -1))

    def _encode_augmented(self, clip: Clip, place: int) -> Tensor:
        assert clip.augmented is not None  # wanted
        with nullcontext() if self.batchnorm.views == "all" else statistics_kept(self.network):
            features: Tensor = self.network.encode(clip.augmented[:, place])
        return features

    def _fused(self, previous_warped: Tensor, current: Tensor) -> Tensor:
        assert self.fusion is not None  # made whenever a fused view is named
        fused: Tensor = self.fusion(previous_warped, current)
        return fused

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
        contrast = partial(
            contrast_pixels, temperature=self.temperature, denominator=self.denominator, engine=self.engine
        )
        if self.key_scope == "clip":
            clips = zip(queries, keys, classes, strict=True)
            return torch.stack([contrast(Pixels(q, c), Pixels(k, c)) for q, k, c in clips]).mean()
        queries, keys, classes = queries.flatten(0, 1), keys.flatten(0, 1), classes.flatten()
        if self.key_scope == "ranks":
            return contrast(Pixels(queries, classes), Pixels(gather_ranks(keys), gather_ranks(classes)))
        return contrast(Pixels(queries, classes), Pixels(keys, classes))
