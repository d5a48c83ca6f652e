"""Whether predictions of a video stay the same where the scene does.

Shape legend: B clips, N clips of a data set, K classes, H×W pixels. Label maps hold train ids, 255 = unknown. Flow is
backward flow on the grid of the current frame (see `stpl.data.clip.Clip`).
"""

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from stpl.data.clip import IGNORE
from stpl.data.label_space import LabelSpace
from stpl.metrics.segmentation import SegmentationMetrics, check_class_ids

WINDOWS = (1, 2, 3, 4)
"""Labelled frames that a tube of VPQ^s spans."""

FRAMES_APART = 5
"""Most frames from one clip of a video to the next: the labelled frames of Cityscapes-VPS lie so far apart."""


def propagate(labels: Tensor, flow: Tensor) -> Tensor:
    """Bring label maps `[B,H,W]` of the previous frame onto the current one by flow `[B,2,H,W]`, to the nearest pixel.

    out(x, y) = labels(x+dx, y+dy); 255 where the flow leaves the image. This is `prop` of UnifiedVideoDA (Kareer et
    al., TMLR 2024) but for three things of its code: places are rounded and not cut off to whole pixels, which would
    shift everything by half a pixel; a flow of exactly 0 is a valid flow; and of several pixels that look up the same
    place none is discarded.

    Raises:
        ValueError: for labels that are no integers, or not on the grid of the flow.

    Examples:
        >>> propagate(torch.tensor([[[3, 4, 5]]]), torch.tensor([[[[1.0] * 3], [[0.0] * 3]]])).tolist()
        [[[4, 5, 255]]]
    """
    check_class_ids(labels=labels)
    if labels.ndim != 3 or flow.shape != (len(labels), 2, *labels.shape[1:]):
        shapes = f"labels {list(labels.shape)} and flow {list(flow.shape)}"
        raise ValueError(f"{shapes} are not on one grid: give [B,H,W] and [B,2,H,W]")
    height, width = labels.shape[-2:]
    ys = torch.arange(height, device=labels.device, dtype=flow.dtype)[:, None]
    x = (torch.arange(width, device=labels.device, dtype=flow.dtype) + flow[:, 0]).round().long()
    y = (ys + flow[:, 1]).round().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = (y * width + x).where(inside, torch.zeros_like(x))
    found = labels.flatten(1).gather(1, place.flatten(1)).view_as(labels)
    return found.where(inside, torch.full_like(found, IGNORE))


def photometric_occlusion(frames: Tensor, warped_previous: Tensor) -> Tensor:
    """Bool `[B,H,W]`: pixels that the previous frame does not explain, exp(-‖x_t - W(x_{t-1})‖₂) ≤ 0.7, RGB in [0, 1].

    Both are `[B,3,H,W]`, uint8 or float in 0..255. The test of VAT-VST (Shin et al. 2021, Eq. 10, with its threshold;
    the scale of the norm is not given there and 1 here). It also finds wrong flow, and it misses occlusions by
    something of the same colour.
    """
    distance = ((frames.float() - warped_previous.float()) / 255).square().sum(1).sqrt()
    return (-distance).exp() <= 0.7


class TemporalConsistency(Metric):
    """Does the previous frame's prediction, brought along the flow, agree with the current one, and with the truth?

    All are mean IoUs over one confusion matrix of the whole data set, in percent, by the label space's protocol; ŷ' is
    the propagated prediction of the previous frame (`propagate`), ŷ that of the current frame, y its label:

    | name | compares | on pixels | of |
    |---|---|---|---|
    | `mtc` | ŷ' with ŷ | that are not occluded | ours, after Liu et al., ECCV 2020 (temporal consistency) |
    | `pl_predconsis` | ŷ' with ŷ | all | UnifiedVideoDA, §4.4 |
    | `pl_warped` | ŷ' with y | all with a label | UnifiedVideoDA, §4.5 |
    | `pl_consistency` | ŷ with y | with a label, where ŷ' = ŷ | UnifiedVideoDA, Eq. 1 |

    Pixels whose flow leaves the image never count. The last two also come as `…_accuracy`, the class-wise mean, and
    `pl_consistency_kept` is the share of labelled pixels where ŷ' = ŷ. UnifiedVideoDA looks at later frames as well,
    this class at the previous one (its k = -1).

    `mtc` has the idea of Liu et al., but its numbers cannot be compared with their released tool's (`tool/eval_tc.py`).
    That masks neither occlusions nor places outside the image, so a flawless prediction loses points wherever something
    comes into view; and it divides by all 19 classes, so one that occurs in no clip at all counts as 0.
    """

    full_state_update = False

    def __init__(self, space: LabelSpace) -> None:
        super().__init__()
        self.mtc, self.pl_predconsis = SegmentationMetrics.of(space), SegmentationMetrics.of(space)
        self.pl_warped, self.pl_consistency = SegmentationMetrics.of(space), SegmentationMetrics.of(space)

    def update(
        self, prediction: Tensor, previous: Tensor, flow: Tensor, occluded: Tensor, label: Tensor | None = None
    ) -> None:
        """Compare a batch of predictions and labels, train ids `[B,H,W]`.

        Args:
            prediction: ŷ.
            previous: prediction of the previous frame, on its own grid.
            flow: `[B,2,H,W]` in pixels.
            occluded: bool `[B,H,W]`: pixels of the current frame that the previous one does not show.
            label: y.
        """
        brought = propagate(previous, flow)
        self.mtc.update(prediction, brought.masked_fill(occluded, IGNORE))
        self.pl_predconsis.update(prediction, brought)
        if label is not None:
            self.pl_warped.update(brought, label.masked_fill(brought == IGNORE, IGNORE))
            self.pl_consistency.update(prediction, label.masked_fill(brought != prediction, IGNORE))

    def compute(self) -> dict[str, Tensor]:
        """The numbers in the table above, scalars in percent; those that need labels only if there were any."""
        numbers = {"mtc": self.mtc.compute()["miou"], "pl_predconsis": self.pl_predconsis.compute()["miou"]}
        if self.pl_warped.update_called:
            warped, kept = self.pl_warped.compute(), self.pl_consistency.compute()
            numbers |= {"pl_warped": warped["miou"], "pl_warped_accuracy": warped["class_accuracy"]}
            numbers |= {"pl_consistency": kept["miou"], "pl_consistency_accuracy": kept["class_accuracy"]}
            numbers["pl_consistency_kept"] = 100 * self.pl_consistency.pixels() / self.pl_warped.pixels()
        return numbers

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        for part in (self.mtc, self.pl_predconsis, self.pl_warped, self.pl_consistency):
            part.reset()


def clip_confusions(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """One confusion matrix per clip, int64 `[B,K+1,K]`, of train ids `[B,H,W]`.

    Rows are the truth, the last one for pixels of unknown truth; columns are the prediction.

    Raises:
        ValueError: if these are no integers, or a prediction is no class.
    """
    check_class_ids(prediction=prediction, label=label)
    if bool(((prediction < 0) | (prediction >= num_classes) | (label < 0)).any()):
        raise ValueError(f"a prediction or a label is none of the classes 0…{num_classes - 1}")
    clips = torch.arange(len(label), device=label.device).view(-1, 1, 1)
    index = (clips * (num_classes + 1) + label.long().clamp(max=num_classes)) * num_classes + prediction
    size = (len(label), num_classes + 1, num_classes)
    return torch.bincount(index.flatten(), minlength=size[0] * size[1] * size[2]).view(size)


def stretches(keys: Sequence[str]) -> list[int]:
    """Number the stretches of uninterrupted video in a sequence of clips, in order from 0.

    Clips' names end in the number of their frame, such as `drive/0003/07` and `frankfurt_000000_000294`. A stretch ends
    where more than `FRAMES_APART` lie between two of them, as between the snippets of Cityscapes.

    Examples:
        >>> stretches(["a_000019", "a_000024", "a_000150", "b_000151"])
        [0, 0, 1, 2]
    """
    breaks = (not continues(earlier, later) for earlier, later in pairwise(keys))
    return list(accumulate(map(int, breaks), initial=0))[: len(keys)]


def continues(earlier: str, later: str) -> bool:
    """Whether `later` names a frame of the same video that comes after `earlier`, by at most `FRAMES_APART`."""
    found = [re.fullmatch(r"(.*?)(\d+)", key, re.DOTALL) for key in (earlier, later)]
    if found[0] is None or found[1] is None:
        return False
    return found[0][1] == found[1][1] and 0 < int(found[1][2]) - int(found[0][2]) <= FRAMES_APART


def video_quality(confusions: Tensor, stretch: Tensor, window: int) -> Tensor:
    """VPQ^s per class (Shin et al., VAT-VST §5.1; Kim et al., CVPR 2020 for VPQ): PQ of tubes, a class being one tube.

    A tube is what a class covers in `window` successive labelled frames; windows slide by one frame, within a stretch.
    Predicted and true tube of a class match if their IoU, without predicted pixels of unknown truth, is above 0.5. With
    all windows of all videos together, PQ = sum of the matched IoUs / (TP + FP/2 + FN/2). An unmatched prediction
    that lies on unknown truth by more than half is no FP.

    Args:
        confusions: `[N,K+1,K]`, as `clip_confusions` makes them, in the order of the video.
        stretch: integers `[N]` from `stretches`.
        window: s.

    Returns:
        Percent, float64 `[K]`; NaN for a class that is neither true nor predicted in any window.
    """
    count, classes = len(confusions) - window + 1, confusions.shape[2]
    if count < 1:
        return torch.full((classes,), torch.nan, dtype=torch.float64, device=confusions.device)
    whole = stretch[:count] == stretch[window - 1 :]
    tubes = torch.stack([confusions[i : i + count] for i in range(window)]).sum(0)[whole].double()
    both = tubes.diagonal(dim1=1, dim2=2)
    true, predicted, unknown = tubes[:, :classes].sum(2), tubes.sum(1), tubes[:, classes]
    iou = (both / (true + predicted - both - unknown)).nan_to_num(0)
    matched = iou > 0.5
    missed = (true > 0) & ~matched
    wrong = (predicted > 0) & ~matched & (unknown <= predicted / 2)
    return 100 * (iou * matched).sum(0) / (matched + missed / 2 + wrong / 2).sum(0)


class VideoQuality(Metric):
    """VPQ^s of VAT-VST, and the confusion matrix of every clip from which it is computed.

    VAT-VST evaluates Cityscapes-VPS, whose labelled frames lie 5 apart, over windows of 1 to 4 of them: k = 0, 5, 10
    and 15 frames (Kim et al.). Here windows are made of the clips of a stretch of video, whatever their distance, and
    those count that fit into it. Classes that are not reported stay out of the means.

    Under DDP its numbers are those of this process: keys are no tensors, and torchmetrics brings together only these.
    """

    full_state_update = False
    confusions: list[Tensor]

    def __init__(self, space: LabelSpace) -> None:
        super().__init__(sync_on_compute=False)
        self.num_classes, self.reported = space.num_classes, list(space.reported)
        self.keys: list[str] = []
        self.add_state("confusions", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, label: Tensor, keys: Sequence[str]) -> None:
        """Count a batch: predictions and labels `[B,H,W]`, both train ids, and the names of its clips."""
        self.confusions.append(clip_confusions(prediction, label, self.num_classes))
        self.keys += keys

    def compute(self) -> dict[int, Tensor]:
        """Window → mean over classes in percent, for the windows that occur."""
        means = {window: quality[self.reported].nanmean() for window, quality in self.of_classes().items()}
        return {window: mean for window, mean in means.items() if not mean.isnan()}

    def of_classes(self) -> dict[int, Tensor]:
        """Window → percent of every class, float64 `[K]`, NaN where `video_quality` has it."""
        confusions = dim_zero_cat(self.confusions)
        stretch = torch.tensor(stretches(self.keys), device=confusions.device)
        return {window: video_quality(confusions, stretch, window) for window in WINDOWS}

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.keys = []
