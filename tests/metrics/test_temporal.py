from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix as scikit_confusion
from sklearn.metrics import jaccard_score, recall_score
from torch import Tensor

from stpl.data.clip import BACKWARD, Wants
from stpl.data.label_space import SYNTHIA_12, VIPER_15, LabelSpace
from stpl.data.streets import open_split
from stpl.data.streets.reader import StreetsClips
from stpl.metrics.temporal import (
    TemporalConsistency,
    VideoQuality,
    clip_confusions,
    continues,
    photometric_occlusion,
    propagate,
    stretches,
    video_quality,
)
from stpl.testing import TINY

TRIO = LabelSpace("trio", ("a", "b", "c"), {})


def propagated_by_loops(labels: NDArray[Any], flow: NDArray[Any]) -> NDArray[Any]:
    found = np.full_like(labels, 255)
    batch, height, width = labels.shape
    for b, y, x in np.ndindex(batch, height, width):
        i, j = round(y + flow[b, 1, y, x]), round(x + flow[b, 0, y, x])
        if 0 <= i < height and 0 <= j < width:
            found[b, y, x] = labels[b, i, j]
    return found


def maps(batch: int = 3, height: int = 9, width: int = 13, classes: int = 4, seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    previous = rng.integers(0, classes, (batch, height, width))
    flow = rng.normal(0, 2, (batch, 2, height, width))
    brought = propagated_by_loops(previous, flow)
    prediction = np.where((rng.random(brought.shape) < 0.7) & (brought != 255), brought, previous)
    label = np.where(rng.random(brought.shape) < 0.6, prediction, rng.integers(0, classes, brought.shape))
    label[rng.random(brought.shape) < 0.15] = 255
    occluded = rng.random(brought.shape) < 0.2
    arrays = {"prediction": prediction, "previous": previous, "flow": flow, "occluded": occluded, "label": label}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_propagation_is_that_of_double_loops() -> None:
    given = maps()
    found = propagate(given["previous"], given["flow"]).numpy()
    np.testing.assert_array_equal(found, propagated_by_loops(given["previous"].numpy(), given["flow"].numpy()))
    assert (found == 255).any()


def test_propagation_by_hand() -> None:
    """Everything moved one pixel to the right and half a pixel less than one down: look up left and above."""
    labels = torch.arange(6).view(1, 2, 3)
    flow = torch.tensor([-1.0, -0.6]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    assert propagate(labels, flow).tolist() == [[[255, 255, 255], [255, 0, 1]]]


def test_exact_flow_brings_true_labels_onto_true_labels(tiny_streets: Path) -> None:
    """Direction, sign and grid, on rendered video: what was visible before keeps its class."""
    split = open_split(tiny_streets, "camera", "val", TINY, 1)
    clips = StreetsClips(split, flow="exact")
    first, second = (clips.read(i, Wants(flows=(BACKWARD,), labels=(0,), visible=(0,))) for i in (0, 1))
    assert continues(str(first.key), str(second.key))
    assert torch.equal(second.visible[0], torch.from_numpy(np.array(split.array("visible")[0, 2])))
    brought = propagate(first.labels[0][None], second.flows[BACKWARD][None])[0]
    kept = (brought != 255) & second.visible[0]
    agreement = (brought == second.labels[0])[kept].float().mean().item()
    assert agreement > 0.97
    wrong_way = propagate(first.labels[0][None], -second.flows[BACKWARD][None])[0]
    assert (wrong_way == second.labels[0])[kept].float().mean().item() < agreement - 0.02


def test_visibility_is_read_only_if_wanted_and_known(tiny_streets: Path) -> None:
    split = open_split(tiny_streets, "camera", "val", TINY, 1)
    assert not StreetsClips(split).read(0, Wants()).visible
    assert StreetsClips(split).visible(0, -1) is None, "nothing is known of a drive's first frame"


def test_occlusion_is_a_large_change_of_colour() -> None:
    """exp(-d) ≤ 0.7 from d = 0.357 on: 91 of 255 in one channel, 53 in all three."""
    before = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    now = before.clone()
    now[0, 0, 0, 0], now[0, 0, 0, 1], now[0, :, 0, 2], now[0, :, 0, 3] = 90, 91, 52, 53
    assert photometric_occlusion(now, before).tolist() == [[[False, True, False, True]]]


def pooled(batches: list[dict[str, Tensor]], name: str) -> NDArray[Any]:
    return np.concatenate([batch[name].numpy().ravel() for batch in batches])


def by_scikit(space: LabelSpace, truth: NDArray[Any], guess: NDArray[Any]) -> tuple[float, float]:
    keep = (truth != 255) & (guess != 255)
    truth, guess = truth[keep], guess[keep]
    present = [c for c in space.reported if c in truth or c in guess]
    true = [c for c in space.reported if c in truth]
    iou = 100 * jaccard_score(truth, guess, labels=present, average=None)
    return iou.mean(), 100 * recall_score(truth, guess, labels=true, average=None).mean()


@pytest.mark.parametrize("space", [VIPER_15, SYNTHIA_12])
def test_consistency_equals_scikit_learn_s(space: LabelSpace) -> None:
    """Over several batches, with an unreported class (fence of SYNTHIA) and absent ones."""
    batches, metric = [maps(seed=seed) for seed in range(3)], TemporalConsistency(space)
    for batch in batches:
        metric.update(**batch)
        batch["brought"] = torch.from_numpy(propagated_by_loops(batch["previous"].numpy(), batch["flow"].numpy()))
    found = {name: value.item() for name, value in metric.compute().items()}
    names = ("prediction", "brought", "label", "occluded")
    prediction, brought, label, occluded = (pooled(batches, name) for name in names)
    agree = np.where(brought == prediction, label, 255)
    expected = {
        "mtc": by_scikit(space, np.where(occluded, 255, brought), prediction)[0],
        "pl_predconsis": by_scikit(space, brought, prediction)[0],
        "pl_warped": by_scikit(space, label, brought)[0],
        "pl_warped_accuracy": by_scikit(space, label, brought)[1],
        "pl_consistency": by_scikit(space, agree, prediction)[0],
        "pl_consistency_accuracy": by_scikit(space, agree, prediction)[1],
        "pl_consistency_kept": 100 * (agree != 255).sum() / ((label != 255) & (brought != 255)).sum(),
    }
    assert found == pytest.approx(expected)


def test_consistency_by_hand() -> None:
    """A row of four pixels that stands still: a a b b before, a b b b now; the truth is a a b ?; the last is hidden."""
    metric = TemporalConsistency(TRIO)
    row = {"previous": [0, 0, 1, 1], "prediction": [0, 1, 1, 1], "label": [0, 0, 1, 255]}
    given = {name: torch.tensor([[values]]) for name, values in row.items()}
    hidden = torch.tensor([[[False, False, False, True]]])
    metric.update(flow=torch.zeros(1, 2, 1, 4), occluded=hidden, **given)
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx({
        "mtc": 50,  # a: 1 of {0, 1}; b: 1 of {1, 2}, without the hidden pixel
        "pl_predconsis": 100 * (1 / 2 + 2 / 3) / 2,
        "pl_warped": 100,
        "pl_warped_accuracy": 100,
        "pl_consistency": 100,
        "pl_consistency_accuracy": 100,
        "pl_consistency_kept": 100 * 2 / 3,
    })  # fmt: skip


def test_consistency_without_labels_and_after_a_reset() -> None:
    metric, given = TemporalConsistency(VIPER_15), maps()
    metric.update(**given)
    whole = metric.compute()
    metric.reset()
    del given["label"]
    metric.update(**given)
    found = metric.compute()
    assert set(found) == {"mtc", "pl_predconsis"}
    assert found["mtc"] == whole["mtc"]


def test_confusions_per_clip_are_scikit_learn_s() -> None:
    given = maps(batch=4)
    found = clip_confusions(given["prediction"], given["label"], 4)
    for matrix, prediction, label in zip(found, given["prediction"], given["label"], strict=True):
        truth = label.numpy().ravel().copy()
        truth[truth == 255] = 4
        expected = scikit_confusion(truth, prediction.numpy().ravel(), labels=range(5))
        np.testing.assert_array_equal(matrix.numpy(), expected[:, :4])


def test_stretches_of_uninterrupted_video() -> None:
    keys = ["v/0000/01", "v/0000/02", "v/0001/01", "v/0001/02", "v/0001/04", "lindau_000000_000019", "odd"]
    assert stretches(keys) == [0, 0, 1, 1, 1, 2, 3]
    assert stretches(["000004", "000005", "000006", "000012"]) == [0, 0, 0, 1]
    assert stretches(["000019", "000024", "000024", "000020"]) == [0, 0, 1, 2]
    assert stretches([]) == []
    assert not continues("odd", "odd")
    assert continues("a/09", "a/10")


def quality_by_segments(
    clips: list[tuple[NDArray[Any], NDArray[Any]]], videos: list[int], window: int, classes: int
) -> dict[int, float]:
    """VPQ as the evaluation of Cityscapes-VPS computes it: tubes stacked in time, matched pair by pair."""
    total: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for start in range(len(clips) - window + 1):
        if len(set(videos[start : start + window])) > 1:
            continue
        prediction, truth = (np.stack(parts) for parts in zip(*clips[start : start + window], strict=True))
        void, matched_true, matched_predicted = truth == 255, set(), set()
        for true in set(truth.ravel()) - {255}:
            for predicted in set(prediction.ravel()):
                if true != predicted:
                    continue
                both = ((truth == true) & (prediction == predicted)).sum()
                union = (prediction == predicted).sum() + (truth == true).sum() - both
                iou = both / (union - (void & (prediction == predicted)).sum())
                if iou > 0.5:
                    total[true][0] += iou
                    total[true][1] += 1
                    matched_true.add(true)
                    matched_predicted.add(predicted)
        for true in set(truth.ravel()) - {255} - matched_true:
            total[true][3] += 1
        for predicted in set(prediction.ravel()) - matched_predicted:
            area = prediction == predicted
            if (void & area).sum() / area.sum() <= 0.5:
                total[predicted][2] += 1
    return {c: 100 * s / (tp + fp / 2 + fn / 2) for c, (s, tp, fp, fn) in total.items() if tp + fp + fn and c < classes}


@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_video_quality_equals_that_of_segments(window: int) -> None:
    rng = np.random.default_rng(0)
    videos = [0] * 6 + [1] * 4 + [2] + [3] * 5
    clips = []
    for video in videos:
        truth = rng.integers(0, 5 if video != 1 else 3, (6, 7))
        prediction = np.where(rng.random(truth.shape) < 0.72, truth, rng.integers(0, 5, truth.shape))
        truth[rng.random(truth.shape) < 0.2] = 255
        truth[(prediction == 4) & (rng.random(truth.shape) < 0.6)] = 255
        clips.append((prediction, truth))
    predictions, truths = (torch.from_numpy(np.stack(parts)) for parts in zip(*clips, strict=True))
    found = video_quality(clip_confusions(predictions, truths, 6), torch.tensor(videos), window).tolist()
    expected = quality_by_segments(clips, videos, window, 6)
    assert len(expected) == 5
    assert [found[c] for c in range(5)] == pytest.approx([expected[c] for c in range(5)])
    assert math.isnan(found[5])  # never true, never predicted


def quality(rows: list[tuple[list[int], list[int]]], window: int) -> list[float]:
    prediction, label = (torch.tensor([[values] for values in part]) for part in zip(*rows, strict=True))
    return video_quality(clip_confusions(prediction, label, 3), torch.zeros(len(rows)), window).tolist()


def test_video_quality_by_hand() -> None:
    """An IoU of just 1/2 does not match; and tubes can match where a frame alone does not."""
    half = ([0, 0, 1, 1], [0, 1, 1, 1])  # a: 1/2, no match; b: 2/3, a match
    assert quality([half], 1)[:2] == pytest.approx([0, 100 * 2 / 3])
    perfect = ([0, 0, 1, 1], [0, 0, 1, 1])
    assert quality([half, perfect], 2)[:2] == pytest.approx([100 * 3 / 4, 100 * 4 / 5])
    assert quality([half, perfect], 1)[:2] == pytest.approx([100 * 1 / 2, 100 * (2 / 3 + 1) / 2])


def test_predictions_on_unknown_truth_cost_nothing() -> None:
    """Class b is predicted only where the truth is unknown: by more than half, so it is no error; by half, it is."""
    assert quality([([0, 1, 1, 1], [0, 255, 255, 0])], 1)[0] == pytest.approx(0)  # a: IoU 1/2
    assert math.isnan(quality([([0, 0, 1, 1], [0, 0, 255, 255])], 1)[1])
    assert quality([([0, 0, 1, 1], [0, 0, 255, 0])], 1)[1] == 0
    assert quality([([0, 0, 0, 0], [0, 0, 255, 255])], 1)[0] == 100


def test_the_metric_makes_windows_within_videos_only() -> None:
    metric, given = VideoQuality(TRIO), maps(batch=5, classes=3)
    keys = ("x/1", "x/2", "x/3", "y/1", "y/2")
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(given["label"].where(given["label"] != 255, 0)[part], given["label"][part], keys[part])
    found = metric.compute()
    assert set(found) == {1, 2, 3}
    assert all(value == 100 for value in found.values())
    metric.reset()
    metric.update(given["prediction"], given["label"], [f"z/{6 * i}" for i in range(5)])
    assert set(metric.compute()) == {1}
    expected = video_quality(clip_confusions(given["prediction"], given["label"], 3), torch.arange(5), 1).nanmean()
    assert metric.compute()[1] == expected


def test_labelled_frames_of_cityscapes_vps_make_all_four_windows() -> None:
    """Six labelled frames a snippet, 5 apart; the next snippet of the sequence begins 101 frames after its end."""
    rng = np.random.default_rng(1)
    numbers = [*range(279, 305, 5), *range(410, 436, 5)]
    truth = rng.integers(0, 3, (len(numbers), 6, 7))
    prediction = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(0, 3, truth.shape))
    metric = VideoQuality(TRIO)
    keys = [f"frankfurt_000000_{number:06d}" for number in numbers]
    metric.update(torch.from_numpy(prediction), torch.from_numpy(truth), keys)
    videos = [0] * 6 + [1] * 6
    for window, found in metric.of_classes().items():
        expected = quality_by_segments(list(zip(prediction, truth, strict=True)), videos, window, 3)
        assert found.tolist() == pytest.approx([expected[c] for c in range(3)])
        assert metric.compute()[window] == pytest.approx(sum(expected.values()) / 3)
