"""What a run leaves beside its checkpoints: the groups of its record, their lines in metrics.csv, and its arrays."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from fake_trial import record_of
from stpl.data.clip import BACKWARD, Clip, Wants, collate
from stpl.data.label_space import SYNTHIA_12_UNIFIED, VIPER_15
from stpl.data.streets import open_split
from stpl.data.streets.reader import StreetsClips
from stpl.errors import RecordError, StplError
from stpl.nn.accel import Observation
from stpl.nn.deeplab import DeepLabV2
from stpl.nn.network import NetworkOptions, build_network
from stpl.nn.segmenter import Segmentation
from stpl.runs.artifacts import write_arrays
from stpl.runs.fit import fit
from stpl.runs.record import GROUPS, RECORD, RunKey, RunRecord, flat, read_record
from stpl.runs.recorder import Recorder, RunOptions
from stpl.testing import TINY
from stpl.training.evaluation import ClipSamples, Evaluator, nearest

KEY = RunKey("streets", "stpl", 0)
Loaded = dict[str, dict[str, NDArray[Any]]]


def load(directory: Path) -> Loaded:
    found: Loaded = {}
    for path in sorted(directory.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            found[path.stem] = dict(arrays)
    return found


@pytest.fixture(scope="module")
def run(tiny_streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """Runs an experiment once and remembers its folder."""
    directory = tmp_path_factory.mktemp("run")

    def once(arguments: list[str]) -> Path:
        if not (directory / RECORD).exists():
            fit([*arguments, f"--run.directory={directory}"])
        return directory

    return once


@pytest.fixture
def finished(run: Callable[[list[str]], Path], tiny_run: Callable[..., list[str]]) -> Path:
    """The folder of a run of four steps, evaluated at 0, 2 and 4."""
    return run(tiny_run("source", "--data.init_args.domain=target"))


def record(directory: Path) -> RunRecord:
    found = read_record(directory)
    assert found is not None
    return found


@pytest.mark.slow
def test_every_evaluation_has_its_groups(finished: Path) -> None:
    found = record(finished)
    for evaluation in (found["last"], found["selected"], found["best"], *found["selections"].values()):
        assert evaluation is not None
        assert set(evaluation) >= set(GROUPS) - {"weights", "pseudo_labels"}  # a source model has none of them
        assert set(evaluation["scores"]) == {
            "information_maximization", "soft_neighborhood_density", "negative_entropy"
        }  # fmt: skip
        assert evaluation["score"] == evaluation["scores"]["information_maximization"]
        names = {"sigma_intra", "sigma_inter", "sigma_intra_normalized", "sigma_inter_normalized", "silhouette"}
        assert set(evaluation["feature_space"]) == {*names, "purity", "linear_probe", "nearest_mean"}
        assert set(evaluation["temporal"]) >= {"mtc", "pl_predconsis", "pl_warped", "pl_consistency", "vpq_mean"}
        assert set(evaluation["temporal"]["vpq"]) == {"1", "2"}  # tiny drives have three frames: two clips
        assert set(evaluation["vpq"]) == set(evaluation["iou"])
        assert all(0 <= value <= 100 for value in evaluation["feature_space"]["purity"].values())


@pytest.mark.slow
def test_each_score_selects_its_own_evaluation(finished: Path) -> None:
    """Against the curves in metrics.csv, read independently."""
    with (finished / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"].startswith("val/")]
    found = record(finished)
    assert found["selections"]["information_maximization"] == found["selected"]
    for name, evaluation in found["selections"].items():
        curve = {int(row["step"]): float(row["value"]) for row in rows if row["name"] == f"val/{name}"}
        assert len(curve) == 3
        assert evaluation["step"] == max(curve, key=lambda step: curve[step])
    last = {row["name"].removeprefix("val/"): float(row["value"]) for row in rows if row["step"] == "4"}
    assert last == flat(found["last"])
    assert {"sigma_intra", "purity@10", "mtc", "vpq@2", "negative_entropy", "iou/road", "miou"} <= set(last)


@pytest.mark.slow
def test_arrays_of_the_last_step(finished: Path) -> None:
    found, said = load(finished), record(finished)
    assert set(found) == {"evaluation", "features", "samples", "statistics"}
    assert {int(arrays["step"]) for arrays in found.values()} == {4}
    confusions = found["evaluation"]["confusions"]
    assert confusions.dtype == np.int32
    assert confusions.shape == (len(found["evaluation"]["keys"]), 15, 15)
    counts = confusions.sum(0).astype(float)
    present = counts.sum(0) + counts.sum(1) > 0
    iou = np.diag(counts)[present] / (counts.sum(0) + counts.sum(1) - np.diag(counts))[present]
    assert 100 * iou.mean() == pytest.approx(said["last"]["miou"])
    features, classes = found["features"]["features"], found["features"]["classes"]
    assert [array.dtype.name for array in (features, classes)] == ["float16", "uint8"]
    assert features.shape == (len(classes), 64)
    assert np.bincount(classes).max() <= 500
    assert not [path for path in finished.iterdir() if path.name.endswith((".tmp", ".partial"))]


@pytest.mark.slow
def test_samples_are_whole_clips_of_the_evaluation(finished: Path, tiny_streets: Path) -> None:
    samples = load(finished)["samples"]
    assert samples["keys"].tolist() == [f"camera-val/000{drive}/0{frame}" for drive in (0, 1) for frame in (1, 2)]
    clips = StreetsClips(open_split(tiny_streets, "camera", "val", TINY, 1))
    for index, (frame, label) in enumerate(zip(samples["frames"], samples["labels"], strict=True)):
        clip = clips.read(index, Wants(labels=(0,)))
        np.testing.assert_array_equal(frame, clip.frames[-1].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(label, clip.labels[0].numpy())
    assert samples["predictions"].shape == samples["labels"].shape
    assert samples["predictions"].max() < 15


def observed(clip: Clip) -> Observation:
    """What a network might see, as a function of each clip by itself."""
    now, before = (F.avg_pool2d(clip.frames[:, i].float(), 8) for i in (-1, -2))
    logits = [torch.cat([image.sin(), image.cos(), (image / 50).sin(), image.flip(1).cos(), -image / 99], 1)
              for image in (now, before)]  # fmt: skip
    return Observation(now.repeat(1, 4, 1, 1), *logits)


def evaluated(clips: StreetsClips, batch: int, wants: Wants) -> Evaluator:
    evaluator = Evaluator(VIPER_15)
    for start in range(0, len(clips), batch):
        given = collate([clips.read(i, wants) for i in range(start, min(start + batch, len(clips)))])
        evaluator.update(given, observed(given))
    return evaluator


def test_an_evaluation_does_not_depend_on_its_batches(tiny_streets: Path) -> None:
    clips = StreetsClips(open_split(tiny_streets, "camera", "val", TINY, 1))
    wants = Wants(flows=(BACKWARD,), labels=(0,), visible=(0,))
    one, all_together = evaluated(clips, 1, wants), evaluated(clips, 9, wants)
    assert flat(one.numbers()) == pytest.approx(flat(all_together.numbers()), rel=1e-5)
    for name, arrays in one.arrays().items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, all_together.arrays()[name][key])


def test_without_labels_the_rest_is_measured(tiny_streets: Path) -> None:
    """Features are grouped by pseudo-label; occlusion, where nobody knows it, is seen by the change of colour."""
    clips = StreetsClips(open_split(tiny_streets, "camera", "val", TINY, 1))
    evaluator = evaluated(clips, 2, Wants(flows=(BACKWARD,)))
    found = evaluator.numbers()
    assert "miou" not in found
    assert set(found["temporal"]) == {"mtc", "pl_predconsis"}
    assert found["temporal"]["mtc"] != found["temporal"]["pl_predconsis"]
    assert set(evaluator.arrays()) == {"features", "samples"}
    assert (evaluator.arrays()["samples"]["labels"] == 255).all()
    evaluator.reset()
    assert not evaluator.segmentation.update_called
    assert len(evaluator.feature_space.sample()[0]) == 0


def test_labels_finer_than_the_frames(tiny_streets: Path) -> None:
    """As on Cityscapes, where labels keep their 1024×2048: same predictions, temporal metrics on the frames' grid."""
    clips = StreetsClips(open_split(tiny_streets, "camera", "val", TINY, 1))
    given = collate([clips.read(0, Wants(flows=(BACKWARD,), labels=(0,)))])
    fine = replace(given, labels={0: given.labels[0].repeat_interleave(2, 1).repeat_interleave(2, 2)})
    plain, double = Evaluator(VIPER_15), Evaluator(VIPER_15)
    plain.update(given, observed(given))
    double.update(fine, observed(fine))
    names = ("mtc", "pl_predconsis")
    assert [double.numbers()["temporal"][n] for n in names] == [plain.numbers()["temporal"][n] for n in names]
    assert double.numbers()["miou"] == pytest.approx(plain.numbers()["miou"], abs=0.5)
    assert double.arrays()["samples"]["predictions"].shape == (1, TINY.height, TINY.width)
    assert double.arrays()["evaluation"]["confusions"].sum() == 4 * plain.arrays()["evaluation"]["confusions"].sum()


def test_the_counts_follow_the_protocol() -> None:
    """UnifiedVideoDA drops fence in truth and prediction: the sum of the counts is what its mIoU is made of."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 12, 6, 8, generator=generator)
    label = torch.randint(0, 12, (2, 6, 8), generator=generator)
    frames = torch.zeros(2, 2, 3, 6, 8, dtype=torch.uint8)
    evaluator = Evaluator(SYNTHIA_12_UNIFIED)
    evaluator.update(
        Clip(frames, {BACKWARD: torch.zeros(2, 2, 6, 8)}, {0: label}, key=("a/1", "a/2")),
        Observation(logits, logits, logits),
    )
    confusions = evaluator.arrays()["evaluation"]["confusions"]
    assert confusions.sum(0).tolist() == evaluator.segmentation.confusion.tolist()
    assert confusions[:, 3].sum() == confusions[:, :, 3].sum() == 0


def test_a_network_that_yields_no_numbers_is_still_evaluated() -> None:
    logits, frames = torch.full((1, 15, 6, 8), torch.nan), torch.zeros(1, 2, 3, 6, 8, dtype=torch.uint8)
    evaluator = Evaluator(VIPER_15)
    evaluator.update(
        Clip(frames, {BACKWARD: torch.zeros(1, 2, 6, 8)}, {0: torch.zeros(1, 6, 8, dtype=torch.int64)}, key=("a/1",)),
        Observation(logits, logits, logits),
    )
    found = evaluator.numbers()
    assert (found["score"], found["scores"]) == (None, {})
    assert found["miou"] == 100  # the argmax of nothing is class 0
    assert "sigma_intra" not in found["feature_space"]
    assert set(evaluator.arrays()) == {"features", "samples", "evaluation"}


def test_accel_tells_what_its_prediction_is_made_of() -> None:
    torch.manual_seed(0)
    network = build_network(NetworkOptions(DeepLabV2(18, 8, (1, 2)))).eval()
    with torch.no_grad():
        network.score_fusion.weight.normal_()
        frames = torch.randint(0, 256, (2, 2, 3, 40, 56), dtype=torch.uint8)
        clip = Clip(frames, flows={BACKWARD: torch.randn(2, 2, 40, 56)})
        seen = network.observe(clip)
        assert torch.equal(seen.logits, network(clip))
        assert torch.equal(seen.features, network.encode(frames[:, -1]))
        assert torch.equal(seen.previous, network.segment(frames[:, 0]).logits)


def test_a_frame_that_successive_clips_share_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkOptions(DeepLabV2(18, 8, (1, 2)))).eval()
    with torch.no_grad():
        network.score_fusion.weight.normal_()
    first, second = torch.randint(0, 256, (2, 4, 3, 40, 56), dtype=torch.uint8)  # two drives of four frames
    pairs = [(drive, t) for drive in (first, second) for t in (1, 2, 3)]
    frames = torch.stack([drive[t - 1 : t + 1] for drive, t in pairs])
    clip = Clip(frames, flows={BACKWARD: torch.randn(6, 2, 40, 56)})
    expected = network(clip)
    segment, encoded = network.segment, list[int]()

    def counted(frames: torch.Tensor) -> Segmentation:
        encoded.append(len(frames))
        return segment(frames)

    monkeypatch.setattr(network, "segment", counted)
    seen = network.observe(clip)
    assert encoded == [8]
    torch.testing.assert_close(seen.logits, expected)
    torch.testing.assert_close(seen.features, segment(frames[:, 1]).features)
    torch.testing.assert_close(seen.previous, segment(frames[:, 0]).logits)


def names_of(samples: ClipSamples, keys: list[str]) -> list[str]:
    blank = torch.zeros(len(keys), 4, 6, dtype=torch.int64)
    samples.update(keys, torch.zeros(len(keys), 3, 4, 6, dtype=torch.uint8), blank)
    found: list[str] = samples.arrays()["keys"].tolist()
    return found


def test_samples_of_long_short_and_single_clip_videos() -> None:
    long = [f"v{video}/{frame:03d}" for video in range(9) for frame in range(30)]
    found = names_of(ClipSamples(), long)
    assert len(found) == 12
    assert all(found[i : i + 4] == [f"{found[i][:2]}/{frame:03d}" for frame in range(4)] for i in (0, 4, 8))
    assert found == sorted(found)
    short = [f"v{video}/{frame}" for video in range(40) for frame in (1, 2, 3)]
    found = names_of(ClipSamples(), short)
    assert len({name.split("/")[0] for name in found}) == 4
    assert found != short[:12]  # from all over the set
    single = [f"city_{number:06d}_000019" for number in range(50)]
    assert len(set(names_of(ClipSamples(), single))) == 12
    assert len(names_of(ClipSamples(), short[:5])) == 5


def test_samples_of_large_frames_stay_small(tmp_path: Path) -> None:
    """512×1024 frames of noise, the worst that can come."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (12, 3, 512, 1024), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 15, (12, 32, 64), generator=generator).repeat_interleave(32, 1).repeat_interleave(32, 2)
    samples = ClipSamples()
    samples.update([f"c{i}_1" for i in range(12)], frames, label, label)
    arrays = samples.arrays()
    assert arrays["frames"].shape == (12, 128, 256, 3)
    assert np.abs(arrays["frames"].mean() - 127.5) < 1
    np.testing.assert_array_equal(np.unique(arrays["labels"]), np.unique(label.numpy()))
    write_arrays(tmp_path / "samples.npz", arrays)
    assert (tmp_path / "samples.npz").stat().st_size < 1.5e6


def test_nearest_takes_corners_and_the_middle() -> None:
    label = torch.arange(35).view(1, 5, 7)
    assert nearest(label, (3, 3)).tolist() == [[[0, 3, 6], [14, 17, 20], [28, 31, 34]]]
    assert torch.equal(nearest(label, (5, 7)), label)


def test_arrays_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "features.npz"
    write_arrays(path, {"step": np.array(1)})
    first = path.read_bytes()
    write_arrays(path, {"step": np.array(1)})
    assert path.read_bytes() == first  # nothing in it depends on the clock

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StplError, match="No space left"):
        write_arrays(path, {"step": np.array(2)})
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_the_earliest_of_equal_evaluations_is_chosen(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, RunOptions())
    recorder.evaluations = {
        step: {"step": step, "miou": miou, "scores": {"a": a}}
        for step, miou, a in ((0, 3.0, None), (2, 5.0, 1.0), (4, 5.0, 1.0), (6, None, 0.5))
    }
    assert recorder.chosen("miou") is recorder.evaluations[2]
    assert recorder.selections() == {"a": recorder.evaluations[2]}
    assert recorder.chosen("vpq@1") is None


def test_flat_names_every_number() -> None:
    evaluation = {
        "step": 3, "miou": 4.0, "protocol": "lineage", "iou": {"road": 1.0, "bus": None}, "scores": {"a": 2.0},
        "feature_space": {"sigma_intra": 5.0, "purity": {"1": 6.0, "5": None}}, "temporal": {"vpq": {"2": 7.0}},
    }  # fmt: skip
    expected = {"miou": 4.0, "iou/road": 1.0, "a": 2.0, "sigma_intra": 5.0, "purity@1": 6.0, "vpq@2": 7.0}
    assert flat(evaluation) == expected


def test_older_records_are_read(tmp_path: Path) -> None:
    """Without groups and selections, as they were written before."""
    old = record_of(KEY, 40.0)
    assert "selections" not in old
    (tmp_path / RECORD).write_text(json.dumps(old))
    assert read_record(tmp_path) == old


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ({"temporal": [1]}, r"'last\.temporal' is \[1\], expected dict"),
        ({"temporal": {"mtc": "high"}}, r"'last\.temporal\.mtc' is not a number"),
        ({"feature_space": {"purity": {"1": True}}}, r"'last\.feature_space\.purity' is not a number"),
    ],
)
def test_wrong_groups_are_named(part: dict[str, Any], fault: str, tmp_path: Path) -> None:
    good = record_of(KEY, 40.0)
    (tmp_path / RECORD).write_text(json.dumps({**good, "last": {**good["last"], **part}}))
    with pytest.raises(RecordError, match=fault):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("value", "fault"),
    [(3, "'selections' is 3"), ({"a": None}, r"'selections\.a' is None"), ({"a": {}}, r"lacks 'selections\.a\.step'")],
)
def test_wrong_selections_are_named(value: object, fault: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(json.dumps({**record_of(KEY, 40.0), "selections": value}))
    with pytest.raises(RecordError, match=fault):
        read_record(tmp_path)
