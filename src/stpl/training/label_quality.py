"""What pseudo-labels of a split are worth: the only place that compares them with its true labels."""

from pathlib import Path

from stpl.data.clip import IGNORE, ClipReader
from stpl.data.label_space import LabelSpace
from stpl.data.pseudo_labels import PseudoLabels
from stpl.metrics.segmentation import SegmentationMetrics
from stpl.nn.segmenter import grid_of
from stpl.training.evaluation import nearest


def judge(folder: Path, reader: ClipReader, space: LabelSpace) -> dict[str, float]:
    """`pseudo_share`, the share of pixels that have a label in a finished folder, and `pseudo_miou`, that of these.

    Both are in percent. The mIoU is that of the labelled pixels whose truth is known: P-mIoU of VAT-VST, Table 7.

    Raises:
        DataError: a clip of the reader has no label, true or false.
    """
    store, metric = PseudoLabels(folder), SegmentationMetrics.of(space)
    labelled = pixels = 0
    for index in range(len(reader)):
        labels, _ = store.of([reader.key(index)])
        known = labels != IGNORE
        truth = nearest(reader.label(index)[None], grid_of(labels))
        metric.update(labels.where(known, 0), truth.where(known, IGNORE))
        labelled, pixels = labelled + int(known.sum()), pixels + known.numel()
    return {"pseudo_share": 100 * labelled / pixels, "pseudo_miou": float(metric.compute()["miou"])}
