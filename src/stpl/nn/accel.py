"""ACCEL (Jain et al., CVPR 2019) in the form of DA-VSN, TPS and STPL: one network for both frames, scores fused."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stpl.data.clip import BACKWARD, Clip
from stpl.nn.segmenter import Segmentation, Segmenter, grid_of
from stpl.nn.warp import resize_flow, warp

FrameScores = list[tuple[Tensor, Tensor]]
"""Logits `[B,K,h,w]` of the current frame and of the previous one, for each classifier."""


class Observation(NamedTuple):
    """What ACCEL makes of a batch of clips in evaluation."""

    features: Tensor  # of the current frame, `[B,D,h,w]`
    logits: Tensor  # fused, `[B,K,h',w']`: the prediction
    previous: Tensor  # logits of the previous frame by itself, on its own grid, `[B,K,h',w']`


class Accel(nn.Module):
    """Video segmentation around any image segmenter: logits of t fused with the warped logits of t-1.

    The score fusion is a 1×1 convolution without bias over [current, warped previous], initialised [I|0]: an untrained
    ACCEL predicts exactly what its segmenter predicts. The previous frame takes no gradient (released code of DA-VSN).
    """

    options: object = None
    """The `NetworkOptions` of which `stpl.nn.network` made it, for checkpoints."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.stride = segmenter.stride
        self.feature_dim = segmenter.feature_dim
        self.num_classes = segmenter.num_classes
        self.normalization = segmenter.normalization
        self.score_fusion = nn.Conv2d(2 * self.num_classes, self.num_classes, 1, bias=False)
        with torch.no_grad():
            self.score_fusion.weight.copy_(no_fusion(self.num_classes))

    @property
    def uses_previous(self) -> bool:
        """Whether the previous frame has a part in the prediction: it has none while the score fusion is [I|0]."""
        weight = self.score_fusion.weight
        return not torch.equal(weight, no_fusion(self.num_classes).to(weight))

    def segment(self, frames: Tensor) -> Segmentation:
        """Features and logits of frames uint8 `[B,3,H,W]` by themselves (before fusion)."""
        return self.segmenter(frames)

    def encode(self, frames: Tensor) -> Tensor:
        """Features `[B,D,h,w]` of frames uint8 `[B,3,H,W]`."""
        return self.segmenter.encode(frames)

    def fuse(self, current: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """Fuse logits `[B,K,h,w]` of t and t-1 by flow `[B,2,h,w]` on their grid."""
        fused: Tensor = self.score_fusion(torch.cat([current, warp(previous, flow)], dim=1))
        return fused

    def forward(self, clip: Clip) -> Tensor:
        """Fused logits `[B,K,h,w]` of the current frame of a batch of clips (T ≥ 2, with flow)."""
        with torch.no_grad():
            previous = self.segment(clip.frame(-1)).logits
        current = self.segment(clip.frame()).logits
        return self.fuse(current, previous, clip_flow(clip, grid_of(current)))

    def predict(self, clip: Clip) -> Tensor:
        """What `forward` gives; where the previous frame has no part in it, without that frame and flow.

        Nothing is added to the current frame's logits then but 0, and the labels are the same to the bit.
        """
        return self(clip) if self.uses_previous else self.segment(clip.frame()).logits

    @torch.no_grad()
    def observe(self, clip: Clip) -> Observation:
        """What `forward` gives in evaluation mode, and what it was made from.

        A frame that one clip of the batch ends with and the next begins with is encoded once. While BatchNorm uses the
        batch's statistics that would not be the same.
        """
        before, now = clip.frame(-1), clip.frame()
        batch = len(now)
        if batch == 1:
            others, rows = before, torch.ones(1, dtype=torch.int64, device=now.device)
        else:
            shared = torch.zeros(batch, dtype=torch.bool, device=now.device)
            shared[1:] = (before[1:] == now[:-1]).flatten(1).all(1)
            others, rows = before[~shared], torch.arange(batch, device=now.device) - 1
            rows[~shared] = batch + torch.arange(len(others), device=now.device)
        features, logits = self.segment(torch.cat([now, others]))
        current, previous = logits[:batch], logits[rows]
        fused = self.fuse(current, previous, clip_flow(clip, grid_of(logits)))
        return Observation(features[:batch], fused, previous)

    def fused_scores(self, clip: Clip) -> tuple[Tensor, ...]:
        """What `forward` gives, then the same of any classifier that only training uses.

        All share one score fusion (released code of DA-VSN and TPS).
        """
        return self.fuse_scores(self.frame_scores(clip), clip)

    def frame_scores(self, clip: Clip, previous_gradient: bool = False) -> FrameScores:
        """Logits of both frames by themselves, of the classifier that predicts and of any that only training uses."""
        with torch.set_grad_enabled(previous_gradient and torch.is_grad_enabled()):
            previous = self.segmenter.score(clip.frame(-1))
        return list(zip(self.segmenter.score(clip.frame()), previous, strict=True))

    def fuse_scores(self, pairs: FrameScores, clip: Clip) -> tuple[Tensor, ...]:
        """Fused logits of what `frame_scores` gave, with one score fusion for all classifiers."""
        flow = clip_flow(clip, grid_of(pairs[0][0]))
        return tuple(self.fuse(now, before, flow) for now, before in pairs)


class FrameByFrame(Accel):
    """ACCEL without its fusion: the prediction of the current frame by itself, at the cost of one pass.

    The previous frame is segmented only where its own prediction is asked for (`observe`, `frame_scores`). The score
    fusion is there for checkpoints, learns nothing and is not used.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(segmenter)
        self.score_fusion.requires_grad_(False)

    @property
    def uses_previous(self) -> bool:
        """It never has a part."""
        return False

    def fuse(self, current: Tensor, previous: Tensor, flow: Tensor) -> Tensor:
        """The logits of the current frame as they are."""
        return current

    def forward(self, clip: Clip) -> Tensor:
        """Logits `[B,K,h,w]` of the current frame; needs neither previous frame nor flow."""
        return self.segment(clip.frame()).logits

    def fused_scores(self, clip: Clip) -> tuple[Tensor, ...]:
        """What `forward` gives, then the same of any classifier that only training uses."""
        return tuple(self.segmenter.score(clip.frame()))


def no_fusion(num_classes: int) -> Tensor:
    """The score fusion `[K,2K,1,1]` that takes the current frame's logits and nothing of the previous one's: [I|0]."""
    identity = torch.eye(num_classes)
    return torch.cat([identity, torch.zeros_like(identity)], dim=1)[:, :, None, None]


def clip_flow(clip: Clip, size: tuple[int, int]) -> Tensor:
    """Flow `[B,2,*size]` from the current to the previous frame of clips; raises `ValueError` if they carry none."""
    if BACKWARD not in clip.flows:
        raise ValueError("this network needs clips with flow; set Wants(flows=(BACKWARD,))")
    return resize_flow(clip.flows[BACKWARD], size)
