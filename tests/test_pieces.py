"""Plausible wrong input to functions that other programs call: a right answer, or an error of one clear line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

import stpl
from random_clips import clips
from stpl.data import flow as flows
from stpl.errors import ConfigError, DataError
from stpl.losses import (
    confident_pixels,
    cross_entropy,
    domain_loss,
    entropy_map,
    instance_contrast,
    pixel_contrast,
    tube_matching,
)
from stpl.losses.pixel_contrast import contrast_pixels
from stpl.losses.pixel_sets import Pixels
from stpl.metrics import SegmentationMetrics, propagate
from stpl.metrics.selection import InformationMaximization, soft_neighborhood_density
from stpl.metrics.temporal import clip_confusions
from stpl.nn import renew, resize_flow, warp
from stpl.testing import no_read_back
from stpl.training.loaders import check_frames

Z = torch.eye(3)
Y = torch.tensor([0, 1, 1])
MAP = torch.zeros(1, 3, 4, 5)
IDS = torch.zeros(1, 4, 5).long()
FLOW = torch.zeros(1, 2, 4, 5)
ARRAY = np.zeros((2, 4, 5), np.float32)
Call = Callable[[], Any]

REFUSED: dict[str, tuple[Call, type[Exception], str]] = {
    "a label of -1": (lambda: pixel_contrast(Z, Z, Y, Y - 1), ValueError, "of the keys is -1: give classes 0…254"),
    "a label of 300": (lambda: pixel_contrast(Z, Z, Y + 299, Y), ValueError, "of the queries is 299"),
    "float labels": (lambda: pixel_contrast(Z, Z, Y.float(), Y), ValueError, "labels are classes, integers"),
    "long vectors": (lambda: pixel_contrast(2 * Z, Z, Y, Y), ValueError, "queries has the length 2: give unit vec"),
    "logits for vectors": (lambda: pixel_contrast(Z, Z + 0.1, Y, Y), ValueError, "a vector of the keys has the length"),
    "dense maps": (lambda: pixel_contrast(MAP, MAP, IDS, IDS), ValueError, "maps .* to stpl.losses.dense_pixel_contra"),
    "labels of the other side": (lambda: pixel_contrast(Z, Z[:2], Y, Y), ValueError, "do not fit"),
    "a temperature of NaN": (lambda: pixel_contrast(Z, Z, Y, Y, temperature=math.nan), ValueError, "got nan"),
    "a temperature that learns": (
        lambda: pixel_contrast(Z, Z, Y, Y, temperature=nn.Parameter(torch.ones(()))),  # type: ignore[arg-type]
        ValueError,
        "a plain number, got a Parameter",
    ),
    "weights of other pixels": (lambda: instance_contrast(Z, Z, torch.ones(2)), ValueError, "do not fit"),
    "classes of other pixels": (lambda: instance_contrast(Z, Z, torch.ones(3), Y[:2]), ValueError, "of 3 pixels"),
    "logits without a batch": (lambda: confident_pixels(MAP[0], 0.5), ValueError, r"logits are \[B,K,h,w\]"),
    "entropy without a batch": (lambda: entropy_map(MAP[0]), ValueError, r"got \[3, 4, 5\]"),
    "entropy of one class": (lambda: entropy_map(MAP[:, :1]), ValueError, "two classes or more"),
    "labels at another size": (lambda: cross_entropy(MAP, IDS[:, :2]), ValueError, "are not on one grid"),
    "soft labels": (lambda: cross_entropy(MAP, MAP), ValueError, "labels are classes, integers"),
    "labels without frames": (lambda: tube_matching(MAP[None], IDS), ValueError, r"give \[B,T,K,H,W\]"),
    "a third domain": (lambda: domain_loss(MAP, "Source"), ValueError, "'Source' is unknown, choose"),  # type: ignore[arg-type]
    "a third kind": (lambda: domain_loss(MAP, "source", "l1"), ValueError, "'l1' is unknown"),  # type: ignore[arg-type]
    "frames of bytes": (lambda: warp(MAP.byte(), FLOW), ValueError, "features are torch.uint8: give frames as floats"),
    "flow as images": (lambda: warp(MAP, FLOW.permute(0, 2, 3, 1)), ValueError, "differ in grid"),
    "flow with confidence": (lambda: warp(MAP, MAP), ValueError, "differ in grid"),
    "flow without a batch": (lambda: resize_flow(FLOW[0], (2, 2)), ValueError, "this is no flow"),
    "flow to one row": (lambda: resize_flow(FLOW, (1, 5)), ValueError, "give sides of 2 or more"),
    "renewal from nothing": (lambda: renew(nn.BatchNorm2d(3), []), ConfigError, "renew: there is no pass"),
    "float predictions": (
        lambda: SegmentationMetrics(3).update(MAP, IDS), ValueError, r"the prediction is float32 .*argmax\(1\)"
    ),
    "float labels of metrics": (lambda: SegmentationMetrics(3).update(IDS, MAP[:, 0]), ValueError, "the label is flo"),
    "arrays": (lambda: SegmentationMetrics(3).update(IDS.numpy(), IDS), ValueError, "is a ndarray: give a tensor"),  # type: ignore[arg-type]
    "a prediction of -1": (lambda: SegmentationMetrics(3).update(IDS - 1, IDS), ValueError, "20 pixels have a label"),
    "a prediction of K": (lambda: SegmentationMetrics(3).update(IDS + 3, IDS), ValueError, "beyond the classes"),
    "a label of K": (lambda: SegmentationMetrics(3).update(IDS, IDS + 3), ValueError, "beyond the classes"),
    "a label of -1 in metrics": (lambda: SegmentationMetrics(3).update(IDS, IDS - 1), ValueError, "classes are 0…2"),
    "a video's prediction of K": (lambda: clip_confusions(IDS + 3, IDS, 3), ValueError, "none of the classes 0…2"),
    "labels on another grid": (lambda: propagate(IDS[:, :2], FLOW), ValueError, "are not on one grid"),
    "scores for labels": (lambda: propagate(MAP[:, 0], FLOW), ValueError, "the labels is float32"),
    "logits of other classes": (lambda: InformationMaximization(4).update(MAP), ValueError, "of 4 classes, got"),
    "a lonely vector": (lambda: soft_neighborhood_density(Z[:1]), ValueError, "two vectors or more"),
    "flow [H,W,2] resized": (lambda: flows.resize(ARRAY.transpose(1, 2, 0), (2, 2)), DataError, r"is an array \[2,H,W"),
    "flow [H,W,2] mirrored": (lambda: flows.flip(ARRAY.transpose(1, 2, 0)), DataError, "dx before dy"),
    "flows of two sizes": (lambda: flows.consistent(ARRAY, ARRAY[:, :2]), DataError, "4×5 and 2×5"),
    "a tensor of flow": (lambda: flows.flip(FLOW[0]), DataError, "got Tensor"),  # type: ignore[arg-type]
    "a tensor written": (lambda: flows.write("x.flo", FLOW[0]), DataError, "got Tensor"),  # type: ignore[arg-type]
    "float frames of flow": (lambda: flows.estimate(np.zeros((32, 32, 3)), np.zeros((32, 32, 3))), DataError, "uint8"),  # type: ignore[arg-type]
    "float frames of clips": (
        lambda: check_frames(clips(1).map(lambda x: x.float() / 255)), DataError, "uint8 RGB in 0…255, these are fl"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_is_refused_in_one_line(case: str) -> None:
    call, kind, said = REFUSED[case]
    with pytest.raises(kind, match=said) as caught:
        call()
    assert type(caught.value) is kind
    assert len(str(caught.value).splitlines()) <= 2  # the second is the mend
    assert len(str(caught.value)) < 260


def test_frames_that_a_network_cannot_label_are_refused_before_it_sees_them() -> None:
    network, frame = stpl.load("streets"), np.full((64, 128, 3), 128, np.uint8)
    wrong: dict[str, Any] = {
        "float32": frame.astype(np.float32) / 255, r"uint8 \[3, 64, 128\]": frame.transpose(2, 0, 1),
        r"uint8 \[64, 128\]": frame[..., 0], "Tensor": torch.from_numpy(frame), "int64": frame.astype(np.int64),
    }  # fmt: skip
    for said, one in wrong.items():
        with pytest.raises(DataError, match=rf"frame 1 is a .*{said}"):
            list(network.predict([frame, one]))
    with pytest.raises(DataError, match="frame 0"):
        list(network.predict(frame))  # one frame, whose rows are no frames
    assert list(network.predict([])) == []
    small, large = network.predict([frame, np.full((100, 90, 3), 7, np.uint8)])
    assert (small.shape, large.shape) == ((64, 128), (100, 90))


def test_what_is_unusual_and_right() -> None:
    """Labels of any integers; vectors of zeros; NaN stays NaN; predictions are not looked at where no label is."""
    expected = pixel_contrast(Z, Z, Y, Y)
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.bool):
        assert torch.equal(pixel_contrast(Z, Z, Y.to(dtype), Y), expected)
    assert torch.equal(pixel_contrast(Z.half(), Z, Y, Y), expected)
    assert pixel_contrast(torch.zeros(3, 3), Z, Y, Y).isfinite()
    assert pixel_contrast(torch.full((3, 3), math.nan), Z, Y, Y).isnan()
    loose, ignored = torch.cat([Z, 9 * Z[:1]]), torch.cat([Y, torch.tensor([255])])
    assert torch.equal(pixel_contrast(loose, loose, ignored, ignored), expected)
    metrics = SegmentationMetrics(2, ignore_index=-1)
    metrics.update(torch.tensor([0, 1, 255]).byte(), torch.tensor([0, 0, -1]).to(torch.int8))
    assert metrics.compute()["accuracy"] == 50
    assert cross_entropy(MAP, IDS.byte()) == cross_entropy(MAP, IDS)


def test_half_precision_keeps_unit_vectors_unit() -> None:
    vectors = torch.randn(2000, 300, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16):
        unit = normalize(vectors.to(dtype), dim=1)
        assert pixel_contrast(unit, unit, torch.arange(2000) % 7, torch.arange(2000) % 7).isfinite()


def test_a_flow_of_nan_makes_its_pixel_nan_and_no_other() -> None:
    features, flow = torch.rand(1, 3, 4, 5), FLOW.clone()
    flow[0, 0, 1, 2] = math.nan
    flow[0, 1, 3, 3] = math.inf
    found = warp(features, flow)
    assert found[0, :, 1, 2].isnan().all()
    found[0, :, 1, 2] = features[0, :, 1, 2]
    torch.testing.assert_close(found, features)  # infinity looks up the border, which here is the pixel itself


def test_statistics_stay_where_nothing_renews_them() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ConfigError):
        renew(net, iter(()))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    renew(nn.Sequential(nn.Conv2d(3, 3, 1)), [])  # it has none


def test_flow_files_by_a_path_as_text(tmp_path: Path) -> None:
    for suffix in ("flo", "npy", "png"):
        flows.write(f"{tmp_path}/a.{suffix}", ARRAY + 1)
        assert np.array_equal(flows.read(f"{tmp_path}/a.{suffix}"), ARRAY + 1)
        assert flows.probe(f"{tmp_path}/a.{suffix}") == (4, 5)
        assert flows.unknown_pixels(f"{tmp_path}/a.{suffix}") == 0
    assert flows.FlowCache(str(tmp_path)).folder == tmp_path / "flow_dis"  # type: ignore[arg-type]


def test_a_training_step_looks_at_no_value() -> None:
    with no_read_back():
        contrast_pixels(Pixels(Z, Y), Pixels(Z, Y), engine="masked")
        warp(MAP, FLOW)
        check_frames(clips(1))
