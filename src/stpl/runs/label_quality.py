"""What the pseudo-labels of a finished run are worth: its training split's labels are opened for this alone."""

from pathlib import Path

from stpl.data.clip import IGNORE
from stpl.data.pseudo_labels import PseudoLabels, last_round
from stpl.errors import ConfigError
from stpl.metrics.segmentation import SegmentationMetrics
from stpl.nn.segmenter import grid_of
from stpl.runs.build import SuiteCLI
from stpl.training.evaluation import nearest
from stpl.training.offline_pseudo_labels import OfflinePseudoLabels


def check_judged(cli: SuiteCLI) -> None:
    """Raise `ConfigError` if pseudo-labels are to be judged, and the method makes none or the data has no labels."""
    makes = isinstance(cli.model, OfflinePseudoLabels) and cli.model.labels is None
    if cli.recorder.options.judge_labels and not (makes and cli.datamodule.labelled):
        what = f"{type(cli.model).__name__} makes no pseudo-labels of a whole split that has labels to compare with"
        raise ConfigError(what, where="run.judge_labels", mend="leave it out, or choose such a method, as IAST or VST")


def judge(cli: SuiteCLI, folder: Path) -> dict[str, float]:
    """Of the labels of a run's last round: `pseudo_share`, the share of pixels that have one; `pseudo_miou`, theirs.

    Both are in percent. The mIoU is that of the labelled pixels whose truth is known: P-mIoU of VAT-VST, Table 7.
    """
    made = last_round(folder)
    assert made is not None  # the run has ended
    store = PseudoLabels(made)
    reader, metric = cli.datamodule.reader("train", "target"), SegmentationMetrics.of(cli.model.options.space)
    labelled = pixels = 0
    for index in range(len(reader)):
        labels, _ = store.of([reader.key(index)])
        known = labels != IGNORE
        truth = nearest(reader.label(index)[None], grid_of(labels))
        metric.update(labels.where(known, 0), truth.where(known, IGNORE))
        labelled, pixels = labelled + int(known.sum()), pixels + known.numel()
    return {"pseudo_share": 100 * labelled / pixels, "pseudo_miou": float(metric.compute()["miou"])}
