"""What pseudo-labels are worth: against the labels of the training split, and only if it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stpl.data.pseudo_labels import PseudoLabels, last_round
from stpl.data.streets import open_split
from stpl.data.streets.reader import StreetsClips
from stpl.errors import ConfigError
from stpl.metrics.segmentation import intersection_over_union
from stpl.runs.fit import fit
from stpl.runs.record import read_record
from stpl.testing import TINY
from stpl.training.evaluation import nearest

Arguments = Callable[..., list[str]]
ROUNDS = ("--start_from=null", "--model.rounds=2", "--model.initial=0.05", "--model.share=0.5")


@pytest.mark.slow
def test_they_are_judged_after_the_run(tiny_run: Arguments, tiny_streets: Path) -> None:
    """Share and mIoU of the last round's labels, from the files on disk."""
    folder = fit(tiny_run("vat_vst_target", *ROUNDS, "--run.judge_labels=true"))
    record = read_record(folder)
    assert record is not None
    found = record["last"]["pseudo_labels"]
    made = last_round(folder)
    assert made is not None
    assert made.name == "round1"
    reader = StreetsClips(open_split(tiny_streets, "camera", "train", TINY))
    confusion = np.zeros((15, 15))
    labelled = total = 0
    for index in range(len(reader)):
        labels = PseudoLabels(made).of([reader.key(index)])[0][0].numpy()
        truth = nearest(reader.label(index)[None], labels.shape)[0].numpy()
        counted = (labels != 255) & (truth != 255)
        np.add.at(confusion, (truth[counted], labels[counted]), 1)
        labelled, total = labelled + (labels != 255).sum(), total + labels.size
    assert found["pseudo_share"] == pytest.approx(100 * labelled / total)
    iou = intersection_over_union(torch.from_numpy(confusion))
    assert found["pseudo_miou"] == pytest.approx(iou.nanmean().item())


@pytest.mark.slow
def test_a_run_that_makes_none_is_refused(tiny_run: Arguments) -> None:
    with pytest.raises(ConfigError, match="STPL makes no pseudo-labels of a whole split"):
        fit(tiny_run("stpl", "--start_from=null", "--run.judge_labels=true"))
