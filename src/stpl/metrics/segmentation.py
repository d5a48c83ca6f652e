"""Intersection over union from one confusion matrix over the whole data set, as Cityscapes and the lineage define it.

(`torchmetrics.segmentation.MeanIoU` averages per image and fails on label 255.)

The field scores these benchmarks in two ways, which are not comparable; a label space names its own (`protocol`).
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torchmetrics import Metric

from stpl.data.clip import IGNORE
from stpl.data.label_space import LabelSpace

PROTOCOLS = {
    # DA-VSN, TPS, CMOM, STPL: eval_video_UDA.py. Rider counts as person on VIPER; on SYNTHIA fence is left out of the
    # mean alone.
    "lineage": False,
    # UnifiedVideoDA: mmseg/core/evaluation/metrics.py, `intersect_and_union`. Rider is ignored on VIPER (the label
    # space's id map); fence is ignored on SYNTHIA, in truth and prediction. Its networks predict all 19 classes of
    # Cityscapes and gain by each one ignored; ours predict no other class, so only fence can be dropped by prediction.
    "unified": True,
}
"""By the name in `LabelSpace.protocol`: whether every pixel is left out whose truth *or prediction* is a class that is
not reported. Errors into such classes are then free, so the numbers come out higher."""


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = IGNORE) -> Tensor:
    """Pixel counts int64 `[K,K]` of train ids of any one shape: rows are the truth, columns the prediction.

    Pixels whose label is `ignore_index` are left out.

    Raises:
        ValueError: if the shapes differ, these are no integers, or a counted pixel's label or prediction is no class.

    Examples:
        >>> confusion_matrix(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 255]), num_classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    check_class_ids(prediction=prediction, label=label)
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape")
    cells = num_classes**2
    odd = (label < 0) | (label >= num_classes) | (prediction < 0) | (prediction >= num_classes)
    index = (label.long() * num_classes + prediction).masked_fill_(odd, cells)
    index = index.masked_fill_(label == ignore_index, cells + 1)  # a bin of its own is faster than a selection
    counts = torch.bincount(index.flatten(), minlength=cells + 2)
    if counts[cells]:
        mend = f"classes are 0…{num_classes - 1}, and {ignore_index} is a label to leave out"
        raise ValueError(f"{int(counts[cells])} pixels have a label or a prediction beyond the classes: {mend}")
    return counts[:cells].view(num_classes, num_classes)


def check_class_ids(**maps: Tensor) -> None:
    """Raise `ValueError` for the first of some maps that is no tensor of integers."""
    for name, found in maps.items():
        if not isinstance(found, Tensor):
            raise ValueError(f"the {name} is a {type(found).__name__}: give a tensor, as torch.as_tensor makes it")
        if found.is_floating_point() or found.is_complex():
            mend = "give class ids: logits [B,K,H,W] become such by .argmax(1), float ids by .long()"
            raise ValueError(f"the {name} is {str(found.dtype).removeprefix('torch.')} {list(found.shape)}: {mend}")


def intersection_over_union(confusion: Tensor) -> Tensor:
    """IoU per class in percent, float64 `[K]`: TP / (TP + FP + FN); NaN for a class in neither truth nor prediction.

    Examples:
        >>> intersection_over_union(torch.tensor([[1, 1], [0, 2]])).tolist()
        [50.0, 66.66666666666667]
    """
    confusion = confusion.double()
    intersection = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return 100 * intersection / union  # 0/0 is NaN, which is what "absent" means


class SegmentationMetrics(Metric):
    """Accumulates a confusion matrix, of all ranks, and computes mIoU, per-class IoU and accuracies in percent.

    Args:
        num_classes: number of classes K.
        ignore_index: label value to leave out.
        reported: train ids that enter the means; all if not given (SYNTHIA leaves out fence).
        dropped: train ids whose pixels are left out, by truth and by prediction.

    Examples:
        >>> metrics = SegmentationMetrics(num_classes=2)
        >>> metrics.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 255]]]))
        >>> {name: value.tolist() for name, value in metrics.compute().items() if name in ("miou", "iou")}
        {'miou': 50.0, 'iou': [50.0, 50.0]}
    """

    full_state_update = False
    confusion: Tensor

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = IGNORE,
        reported: Sequence[int] | None = None,
        dropped: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.dropped = list(dropped)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.reported = list(range(num_classes) if reported is None else reported)
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", default=zeros, dist_reduce_fx="sum")

    @classmethod
    def of(cls, space: LabelSpace) -> Self:
        """The metric of a label space, by the protocol that it names."""
        unreported = sorted(set(range(space.num_classes)) - set(space.reported))
        dropped = unreported if PROTOCOLS[space.protocol] else []
        return cls(space.num_classes, reported=space.reported, dropped=dropped)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count predictions `[B,H,W]` against labels `[B,H,W]`, both train ids."""
        counts = confusion_matrix(prediction, label, self.num_classes, self.ignore_index)
        counts[self.dropped] = 0
        counts[:, self.dropped] = 0
        self.confusion += counts

    def pixels(self) -> Tensor:
        """How many pixels were counted, of all ranks."""
        with self.sync_context():
            return self.confusion.sum()

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
