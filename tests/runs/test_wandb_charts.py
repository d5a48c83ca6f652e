"""The custom charts and the video that W&B is given of a run, against the arrays beside its record."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stpl.errors import RecordError
from stpl.runs.charts import CONFUSION, FEATURES, PURITY, charts, film
from stpl.runs.record import RunKey, RunRecord, read_record
from suite_writer import CLASSES, write_suite


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    write_suite(runs, {"stpl": 0.3}, seeds=1)
    return RunKey("streets", "stpl", 0).directory(runs)


def record(run: Path) -> RunRecord:
    found = read_record(run)
    assert found is not None
    return found


def rows(run: Path, key: str) -> list[list[Any]]:
    """The table under one chart."""
    data: list[list[Any]] = charts(record(run), run)[key].table.data
    return data


def test_confusion_counts_every_labelled_pixel(run: Path) -> None:
    found = rows(run, CONFUSION.key)
    assert [(truth, prediction) for truth, prediction, _ in found] == [(a, b) for a in CLASSES for b in CLASSES]
    counts = {(truth, prediction): pixels for truth, prediction, pixels in found}
    for name, iou in record(run)["last"]["iou"].items():
        either = sum(pixels for pair, pixels in counts.items() if name in pair)
        assert 100 * counts[name, name] / either == pytest.approx(iou)


def test_purity_is_the_records(run: Path) -> None:
    assert rows(run, PURITY.key) == [[1, 75.0], [10, 65.0], [100, 45.0]]
    changed = record(run)
    changed["last"]["feature_space"]["purity"] = {"1": None, "10": 65.0}
    assert charts(changed, run)[PURITY.key].table.data == [[10, 65.0]]


def test_features_lie_in_the_plane_of_largest_variance(run: Path) -> None:
    found = rows(run, FEATURES.key)
    with np.load(run / "features.npz") as arrays:
        features, classes = arrays["features"].astype(np.float64), arrays["classes"]
    assert Counter(name for name, *_ in found) == Counter(CLASSES[index] for index in classes)
    places = np.array([place for _, *place in found])
    singular = np.linalg.svd(features - features.mean(0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(places, axis=0), singular[:2], rtol=1e-4)
    assert abs(places[:, 0] @ places[:, 1]) < 1e-3 * singular[0] * singular[1]


def test_video_shows_the_kept_clips(run: Path, tmp_path: Path) -> None:
    written = film(record(run), run, tmp_path / "video.webm")
    assert written is not None
    video = cv2.VideoCapture(str(written))
    try:
        code = int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
        frames = 0
        while video.read()[0]:
            frames += 1
    finally:
        video.release()
    assert code == b"VP90"
    assert frames == 4


def test_what_a_run_has_not_kept_is_left_out(run: Path, tmp_path: Path) -> None:
    assert set(charts(record(run), tmp_path)) == {PURITY.key}  # which lies in the record
    assert film(record(run), tmp_path, tmp_path / "video.webm") is None
    (tmp_path / "features.npz").write_bytes(b"torn")
    with pytest.raises(RecordError, match=r"features\.npz"):
        charts(record(run), tmp_path)
