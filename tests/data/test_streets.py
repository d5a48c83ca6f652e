"""The benchmark `streets`: determinism, exactness of labels and flow, the domain shift, the cache."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stpl.data.label_space import VIPER_15, check_train_ids
from stpl.data.streets import cache
from stpl.data.streets.cache import StreetsSplit, open_split
from stpl.data.streets.domain import SHIFTS, DomainShift, ShiftName, photograph
from stpl.data.streets.drive import Drive, StreetsOptions, draw_drive
from stpl.data.streets.layout import make_scene
from stpl.data.streets.render import draw
from stpl.data.streets.scene import C
from stpl.errors import ConfigError, DataError
from stpl.rows import Rows

TINY = StreetsOptions(height=24, width=48, frames=3, train_drives=4, val_drives=2, camera_val_drives=2)
FULL = StreetsOptions()
COUNT = 14


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    cv2.setNumThreads(0)


@pytest.fixture(scope="module")
def drives() -> list[Drive]:
    return [draw_drive(FULL, "studio", "train", i) for i in range(COUNT)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streets")


@pytest.fixture(scope="module")
def split(root: Path) -> StreetsSplit:
    return open_split(root, "camera", "train", TINY, workers=1)


def same(a: Drive, b: Drive) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("frames", "labels", "flow", "visible"))


def warped(image: NDArray[np.uint8], flow: NDArray[np.float32], how: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[: flow.shape[1], : flow.shape[2]].astype(np.float32)
    return np.asarray(cv2.remap(image, x + flow[0], y + flow[1], how), dtype=np.uint8)


# --- what is drawn


def test_class_ids_are_those_of_the_label_space() -> None:
    assert tuple(c.name.lower() for c in C if c != C.POLE) == VIPER_15.classes


def test_drive_is_a_pure_function_of_seed_domain_split_and_index() -> None:
    first = draw_drive(TINY, "camera", "train", 0)
    assert same(first, draw_drive(TINY, "camera", "train", 0))
    for other in (draw_drive(replace(TINY, seed=1), "camera", "train", 0), draw_drive(TINY, "camera", "train", 1),
                  draw_drive(TINY, "camera", "val", 0), draw_drive(TINY, "studio", "train", 0)):  # fmt: skip
        assert (first.labels != other.labels).mean() > 0.05


def test_shapes_and_types_at_an_odd_size() -> None:
    drive = draw_drive(replace(TINY, height=37, width=51), "camera", "train", 0)
    assert drive.frames.shape == (3, 3, 37, 51)
    assert drive.flow.shape == (3, 2, 37, 51)
    assert drive.labels.shape == drive.visible.shape == (3, 37, 51)
    assert [a.dtype for a in (drive.frames, drive.labels, drive.flow, drive.visible)] == ["u1", "u1", "f4", "?"]
    assert not drive.flow[0].any()
    assert not drive.visible[0].any()


def test_all_classes_occur_often(drives: list[Drive]) -> None:
    counts = np.stack([np.bincount(drive.labels.ravel(), minlength=256) for drive in drives])
    for drive in drives:
        check_train_ids(drive.labels, VIPER_15, "streets")
    share, in_drives = counts.sum(0) / counts.sum(), (counts > 0).mean(0)
    assert share[:15].min() > 0.0015  # each class: at least 0.15 % of the pixels
    assert in_drives[:15].min() >= 0.2  # and in at least every fifth drive
    assert share[255] < 0.015  # poles


def test_flow_warps_the_previous_frame_onto_the_current_one(drives: list[Drive]) -> None:
    still, moved, agree = [], [], []
    for drive in drives:
        for t in range(1, FULL.frames):
            seen, now = drive.visible[t], drive.frames[t].transpose(1, 2, 0).astype(np.int64)
            before = np.ascontiguousarray(drive.frames[t - 1].transpose(1, 2, 0))
            moved.append(np.abs(warped(before, drive.flow[t], cv2.INTER_LINEAR) - now)[seen].mean())
            still.append(np.abs(before - now)[seen].mean())
            agree.append(
                (warped(drive.labels[t - 1], drive.flow[t], cv2.INTER_NEAREST) == drive.labels[t])[seen].mean()
            )
            assert seen.mean() > 0.7
    assert np.mean(still) > 6  # grey values of 255
    assert np.mean(moved) < 0.45 * np.mean(still)
    assert np.mean(agree) > 0.99
    assert np.min(agree) > 0.97


def test_flow_of_the_ground_is_that_of_a_pinhole_camera() -> None:
    """Closed form for a camera that drives straight ahead: a ground point's row r below the horizon shrinks."""
    scene = make_scene(DomainShift().make_palette(np.random.default_rng(3)), 2)
    scene.path.yaw[:] = 0
    scene.path.position[:] = [[1.75, 1.5, 0.0], [1.75, 1.5, 0.5]]
    drawn = draw(scene, 96, 192)
    focal, horizon = scene.path.focal * 192, scene.path.horizon * 96 - 0.5
    y, x = 94, np.flatnonzero(drawn.labels[1, 94] == C.ROAD)
    depth = focal * 1.5 / (y - horizon)
    np.testing.assert_allclose(drawn.depth[1, y, x], depth, rtol=1e-5)
    np.testing.assert_allclose(drawn.flow[1, 1, y, x], focal * 1.5 / (depth + 0.5) + horizon - y, atol=1e-4)
    np.testing.assert_allclose(drawn.flow[1, 0, y, x], (x - 95.5) * (depth / (depth + 0.5) - 1), atol=1e-4)


# --- the domains


def test_geometry_does_not_depend_on_the_domain() -> None:
    strong, none = (draw_drive(replace(TINY, severity=s), "camera", "train", 0) for s in (1.0, 0.0))
    assert np.array_equal(strong.labels, none.labels)
    assert np.array_equal(strong.flow, none.flow)
    assert np.array_equal(strong.visible, none.visible)
    assert np.abs(strong.frames.astype(int) - none.frames).mean() > 10


def test_camera_without_severity_looks_like_the_studio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpl.data.streets.drive.zlib.crc32", lambda _: 5)  # the same scenes in both domains
    camera = draw_drive(replace(TINY, severity=0.0), "camera", "train", 0)
    assert same(camera, draw_drive(TINY, "studio", "train", 0))


def test_degradation_differs_between_consecutive_frames() -> None:
    shift = SHIFTS["palette"]
    scene = make_scene(shift.make_palette(np.random.default_rng(1)), 1)
    clean = draw(scene, 96, 192)
    twice = photograph(clean.frames.repeat(4, 0), clean.depth.repeat(4, 0), shift, np.random.default_rng(0)).astype(
        float
    )
    noise = np.abs(twice[1:] - twice[:-1]).mean((1, 2, 3))
    assert noise.min() > 4  # the same scene, four different pictures
    centred = twice - twice.mean((1, 2, 3), keepdims=True)
    error = [np.square(centred[i] - centred[[j for j in range(4) if j != i]].mean(0)).mean() for i in range(4)]
    single = [np.square(centred[i] - centred[(i + 1) % 4]).mean() for i in range(4)]
    assert np.mean(error) < 0.85 * np.mean(single)  # averaging frames removes noise: two frames carry more than one


@pytest.mark.parametrize("name", [item.name for item in fields(DomainShift)])
def test_every_knob_of_the_shift_acts_alone(name: str) -> None:
    none = asdict(DomainShift())
    strength = max(getattr(shift, name) for shift in SHIFTS.values())
    options = replace(TINY, height=96, width=192)  # blur is far below a pixel at 48 pixels
    one = draw_drive(replace(options, strengths={**none, name: strength}), "camera", "train", 0)
    base = draw_drive(replace(options, strengths=none), "camera", "train", 0)
    assert np.abs(one.frames.astype(int) - base.frames).mean() > 0.1


@pytest.mark.parametrize("name", SHIFTS)
def test_named_shifts_differ_and_leave_the_studio_alone(name: ShiftName) -> None:
    names: list[ShiftName] = [name, *(other for other in SHIFTS if other != name)]
    options = [replace(TINY, shift=shift) for shift in names]
    mine, *others = [draw_drive(o, "camera", "train", 0).frames for o in options]
    assert all(np.abs(mine.astype(int) - other).mean() > 2 for other in others)
    assert len({json.dumps(o.content("studio", "train")) for o in options}) == 1


def test_strengths_replace_those_of_the_named_shift() -> None:
    options = StreetsOptions(shift="fog", strengths={"haze": 0.02}, severity=0.5)
    assert options.shift_of("camera") == replace(SHIFTS["fog"], haze=0.02).scaled(0.5)


def test_cost_of_a_frame() -> None:
    draw_drive(FULL, "camera", "train", 0)
    start = time.process_time()
    for i in range(3):
        draw_drive(FULL, "camera", "train", i)
    assert (time.process_time() - start) / (3 * FULL.frames) < 0.2  # 0.02 s here; bound for slow, busy machines


@pytest.mark.parametrize(("field", "value"), [("severity", 1.5), ("frames", 1), ("height", 4), ("seed", -1)])
def test_bad_options_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(FULL, **{field: value})  # type: ignore[arg-type]


def test_bad_shift_and_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="no shift 'rain'"):
        StreetsOptions(shift="rain")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a shift has no 'wind'"):
        StreetsOptions(strengths={"wind": 1.0})
    with pytest.raises(ConfigError, match=r"shift\.palette is 2"):
        StreetsOptions(strengths={"palette": 2.0})
    with pytest.raises(ConfigError, match=r"shift\.haze is -1"):
        DomainShift(haze=-1)
    with pytest.raises(ConfigError, match="no domain 'moon'"):
        draw_drive(FULL, "moon", "train", 0)


# --- the cache


def test_cache_holds_the_drives_and_is_drawn_once(
    split: StreetsSplit, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(TINY.train_drives):
        drive = draw_drive(TINY, "camera", "train", i)
        assert np.array_equal(split.array("frames")[i], drive.frames)
        assert np.array_equal(split.entry("frames", i, 1), drive.frames[1])
        assert np.array_equal(split.array("labels")[i], drive.labels)
        assert np.array_equal(split.array("visible")[i], drive.visible)
        np.testing.assert_allclose(split.array("flow")[i], drive.flow, rtol=1 / 2048, atol=1e-6)
    assert isinstance(split.array("frames"), np.memmap)
    assert {path.name for path in split.folder.iterdir()} == {
        "frames.npy", "labels.npy", "flow.npy", "visible.npy", "manifest.json"}  # fmt: skip
    monkeypatch.setattr(cache, "_draw", pytest.fail)
    assert open_split(root, "camera", "train", TINY) == split


def test_any_number_of_workers_draws_the_same_bytes(split: StreetsSplit, tmp_path: Path) -> None:
    again = open_split(tmp_path, "camera", "train", TINY, workers=2)
    for path in split.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes()


def test_other_options_and_renderers_get_another_folder(
    split: StreetsSplit, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_split(root, "camera", "train", replace(TINY, severity=0.5), workers=1)
    monkeypatch.setattr(cache, "renderer_version", lambda: "another")
    newer = open_split(root, "camera", "train", TINY, workers=1)
    assert len({split.folder, other.folder, newer.folder}) == 3
    studio = [open_split(root, "studio", "val", replace(TINY, severity=s), workers=1).folder for s in (0.2, 0.5)]
    assert studio[0] == studio[1]  # the studio has no shift: nothing is drawn anew


def test_interrupted_drawing_goes_on_and_leaves_no_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw_or_fail(options: StreetsOptions, domain: str, part: str, index: int) -> Drive:
        if index == 2 and len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(index)
        return draw_drive(options, domain, part, index)

    monkeypatch.setattr(cache, "draw_drive", draw_or_fail)
    with pytest.raises(KeyboardInterrupt):
        open_split(tmp_path, "camera", "train", TINY, workers=1)
    assert [p.name[-8:] for p in tmp_path.iterdir() if p.is_dir()] == [".partial"]
    drawn.append(-1)
    open_split(tmp_path, "camera", "train", TINY, workers=1)
    assert drawn == [0, 1, -1, 2, 3]


def test_full_disk_is_told_and_leaves_no_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(DataError, match="MB are needed"):
        open_split(tmp_path, "studio", "val", TINY, workers=1)
    monkeypatch.undo()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Rows, "write", full)
    with pytest.raises(DataError, match="No space left"):
        open_split(tmp_path, "studio", "val", TINY, workers=1)
    assert not [path for path in tmp_path.glob("*/") if path.suffix != ".partial"]


@pytest.mark.slow
def test_worker_that_cannot_write_is_told(tmp_path: Path) -> None:
    from stpl.data.streets.cache import DISK_FAILED, SplitPlan, command

    words = command(tmp_path / "missing", SplitPlan("studio", "val", TINY), 0, 1)
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == DISK_FAILED
    assert "No such file" in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be shared out here")
def test_a_worker_of_a_sweep_draws_with_the_cores_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    monkeypatch.setenv("STPL_SWEEP_CORES", ",".join(map(str, before)))
    shares: list[int] = []
    monkeypatch.setattr(cache, "_run_workers", lambda *given: shares.append(given[2]))
    monkeypatch.setattr(Rows, "finish", lambda rows: rows.folder.mkdir())
    os.sched_setaffinity(0, {min(before)})
    try:
        with pytest.raises(DataError, match="torn"):  # nothing was drawn
            open_split(tmp_path, "studio", "train", TINY)
    finally:
        os.sched_setaffinity(0, before)
    assert shares == ([min(len(before), 4)] if len(before) > 1 else [])


def test_failed_workers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(code: str, error: type[Exception], match: str) -> None:
        monkeypatch.setattr(cache, "command", lambda *_: [sys.executable, "-c", code])
        with pytest.raises(error, match=match):
            open_split(tmp_path, "studio", "val", TINY, workers=2)

    run("import sys; print('No space left', file=sys.stderr); sys.exit(3)", DataError, "No space left")
    run("import os; os.kill(os.getpid(), 9)", DataError, "was killed")
    run("raise ValueError('a defect')", RuntimeError, "ValueError")  # the workers' lines may interleave


@pytest.mark.parametrize("name", ["frames.npy", "labels.npy", "flow.npy", "visible.npy", "manifest.json"])
def test_torn_file_is_named(split: StreetsSplit, tmp_path: Path, name: str) -> None:
    folder = tmp_path / split.folder.name
    shutil.copytree(split.folder, folder)
    os.truncate(folder / name, 100)
    with pytest.raises(DataError, match="the drawn split is torn") as caught:
        open_split(tmp_path, "camera", "train", TINY)
    assert str(caught.value).startswith(str(folder / name))
    assert "delete the folder" in str(caught.value)


def test_changed_byte_is_found_when_it_is_read(tmp_path: Path) -> None:
    options = replace(TINY, height=96, width=192)
    split = open_split(tmp_path, "studio", "val", options, workers=1)
    with (split.folder / "frames.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    split = open_split(tmp_path, "studio", "val", options)
    split.entry("frames", 0, 0)
    with pytest.raises(DataError, match="is not what was written"):
        split.entry("frames", *(count - 1 for count in split.shape[:2]))


@pytest.mark.slow
def test_second_process_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = open_split(tmp_path, "studio", "val", TINY, workers=1)
    shutil.move(probe.folder, tmp_path / "elsewhere")
    monkeypatch.setattr(cache, "_draw", pytest.fail)
    found: list[StreetsSplit] = []
    with (tmp_path / f".{probe.folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the first process draws
        waiting = threading.Thread(target=lambda: found.append(open_split(tmp_path, "studio", "val", TINY)))
        waiting.start()
        time.sleep(0.2)
        assert not found
        shutil.move(tmp_path / "elsewhere", probe.folder)
    waiting.join(5)
    assert found == [probe]


def test_tall_pictures_are_covered() -> None:
    drive = draw_drive(replace(TINY, height=96, width=32), "studio", "train", 0)
    assert (drive.labels[:, :8] == C.SKY).mean() > 0.3
    assert drive.frames.min(axis=1).max(axis=(1, 2)).min() > 0


@pytest.mark.slow
def test_drawing_imports_no_torch() -> None:
    code = "import sys, stpl.data.streets.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
