"""Intersection over union from one confusion matrix over the whole data set, as Cityscapes and the lineage define it.

(`torchmetrics.segmentation.MeanIoU` averages per image and fails on label 255.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from stpl.data.clip import IGNORE


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = IGNORE) -> Tensor:
    """Pixel counts int64 `[K,K]`: rows are the truth, columns the prediction; ignored pixels are left out.

    Args:
        prediction: predicted train ids, integer, any shape; each in 0..K-1.
        label: true train ids of the same shape, `ignore_index` where unknown.
        num_classes: K.
        ignore_index: label value to leave out.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape")
    keep = label != ignore_index
    index = label[keep].long() * num_classes + prediction[keep].long()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def intersection_over_union(confusion: Tensor) -> Tensor:
    """IoU per class in percent, float64 `[K]`: TP / (TP + FP + FN); NaN for a class in neither truth nor prediction."""
    confusion = confusion.double()
    intersection = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return 100 * intersection / union  # 0/0 is NaN, which is what "absent" means


class SegmentationMetrics(Metric):
    """Accumulates a confusion matrix and computes mIoU, per-class IoU and accuracies in percent.

    Under DDP the counts of all ranks are summed.

    Args:
        num_classes: number of classes K.
        ignore_index: label value to leave out.
        reported: train ids that enter the means; all if not given (SYNTHIA leaves out fence).
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int, ignore_index: int = IGNORE, reported: Sequence[int] | None = None) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.reported = list(range(num_classes) if reported is None else reported)
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", default=zeros, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count predictions `[B,H,W]` against labels `[B,H,W]`, both train ids."""
        self.confusion += confusion_matrix(prediction, label, self.num_classes, self.ignore_index)

    def compute(self) -> dict[str, Tensor]:
        """`miou`, `iou` `[K]`, `accuracy` (of pixels) and `class_accuracy` (mean recall), in percent.

        Means leave out classes that do not occur (NaN); a mean over nothing is NaN.
        """
        iou = intersection_over_union(self.confusion)
        counts = self.confusion.double()
        recall = 100 * counts.diagonal() / counts.sum(1)
        return {
            "miou": iou[self.reported].nanmean(),
            "iou": iou,
            "accuracy": 100 * counts.diagonal().sum() / counts.sum(),
            "class_accuracy": recall[self.reported].nanmean(),
        }
