import struct
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stpl.data import flow as fl
from stpl.data.flow import estimators
from stpl.data.flow.estimators import estimator_class, shared_estimator
from stpl.errors import ConfigError, DataError

Image8 = NDArray[np.uint8]


def texture(height: int = 160, width: int = 240, seed: int = 0) -> Image8:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.0), np.uint8)


def shifted_pair(dx: int, dy: int, size: tuple[int, int] = (96, 160)) -> tuple[Image8, Image8]:
    """Two crops of one texture such that pixel (x, y) of the later one lies at (x+dx, y+dy) in the earlier one."""
    height, width = size
    image, origin = texture(), 16
    later = image[origin : origin + height, origin : origin + width]
    earlier = image[origin - dy : origin - dy + height, origin - dx : origin - dx + width]
    return later.copy(), earlier.copy()


def warp_by_loop(earlier: NDArray[Any], flow: NDArray[Any]) -> Image8:
    """later[y, x] ≈ earlier[y + dy, x + dx], nearest pixel, border clamped: the convention spelled out."""
    out = np.empty_like(earlier)
    height, width = earlier.shape[:2]
    for y in range(height):
        for x in range(width):
            source_x = int(np.clip(round(x + flow[0, y, x]), 0, width - 1))
            source_y = int(np.clip(round(y + flow[1, y, x]), 0, height - 1))
            out[y, x] = earlier[source_y, source_x]
    return out


def smooth_flow(seed: int = 0, size: tuple[int, int] = (12, 20)) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 5, (2, *size)).astype(np.float32)


@pytest.mark.parametrize(("dx", "dy"), [(5, 0), (-5, 0), (0, 4), (0, -4), (6, -3)])
def test_estimate_finds_a_known_shift_with_its_sign(dx: int, dy: int) -> None:
    later, earlier = shifted_pair(dx, dy)
    flow = fl.estimate(later, earlier)
    assert flow.shape == (2, 96, 160)
    assert flow.dtype == np.float32
    inner = flow[:, 12:-12, 12:-12]
    np.testing.assert_allclose(np.median(inner, axis=(1, 2)), [dx, dy], atol=0.02)
    assert np.abs(inner - np.array([dx, dy]).reshape(2, 1, 1)).mean() < 0.1


def test_estimated_flow_takes_the_earlier_frame_onto_the_later() -> None:
    later, earlier = shifted_pair(6, -3)
    warped = warp_by_loop(earlier, fl.estimate(later, earlier))

    def error(image: Image8) -> float:
        return float(np.abs(image[12:-12, 12:-12].astype(int) - later[12:-12, 12:-12]).mean())

    assert error(warped) < 0.5 < 5 < error(earlier)


@pytest.mark.slow
def test_estimate_is_the_same_in_every_thread_and_at_every_call() -> None:
    later, earlier = shifted_pair(2, 1)
    wanted = fl.estimate(later, earlier)
    fl.estimate(earlier[:, ::-1].copy(), later)  # leaves no trace in the estimator,
    fl.estimate(later[:24, :40], earlier[:24, :40])  # nor does so small a frame, which needs other patches
    results = []
    threads = [threading.Thread(target=lambda: results.append(fl.estimate(later, earlier))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(result, wanted) for result in [*results, fl.estimate(later, earlier)])


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        (np.zeros((32, 32, 3), np.uint8), np.zeros((32, 33, 3), np.uint8)),
        (np.zeros((32, 32, 3), np.float32), np.zeros((32, 32, 3), np.float32)),
        (np.zeros((32, 32), np.uint8), np.zeros((32, 32), np.uint8)),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)),
    ],
)
def test_estimate_refuses_unfit_frames(later: NDArray[Any], earlier: NDArray[Any]) -> None:
    with pytest.raises(DataError, match=r"optical flow[\s\S]*→"):
        fl.estimate(later, earlier)


@pytest.mark.parametrize("size", [(48, 80), (192, 320), (48, 320), (71, 133)])
def test_resize_scales_each_component_by_its_own_axis(size: tuple[int, int]) -> None:
    flow = np.stack([np.full((96, 160), 8.0), np.full((96, 160), -3.0)]).astype(np.float32)
    resized = fl.resize(flow, size)
    assert resized.shape == (2, *size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized[0], 8.0 * size[1] / 160, rtol=1e-5)
    np.testing.assert_allclose(resized[1], -3.0 * size[0] / 96, rtol=1e-5)


def test_resize_agrees_with_flow_estimated_on_resized_frames() -> None:
    later, earlier = shifted_pair(8, -4)
    size = (48, 120)  # halved in height, three quarters in width
    small = [np.asarray(cv2.resize(f, size[::-1], interpolation=cv2.INTER_AREA), np.uint8) for f in (later, earlier)]
    difference = fl.resize(fl.estimate(later, earlier), size) - fl.estimate(small[0], small[1])
    assert np.abs(difference[:, 8:-8, 10:-10]).mean() < 0.15


def test_resize_halves_by_averaging_pixel_pairs() -> None:
    flow = smooth_flow(size=(8, 6))
    means = flow.reshape(2, 4, 2, 3, 2).mean(axis=(2, 4)) / 2
    np.testing.assert_allclose(fl.resize(flow, (4, 3)), means, rtol=1e-5)


def test_resize_to_the_same_size_changes_nothing() -> None:
    flow = smooth_flow()
    np.testing.assert_array_equal(fl.resize(flow, (12, 20)), flow)


def test_flip_is_the_flow_of_the_mirrored_frames() -> None:
    later, earlier = shifted_pair(5, 3)
    mirrored = fl.estimate(later[:, ::-1].copy(), earlier[:, ::-1].copy())
    flipped = fl.flip(fl.estimate(later, earlier))
    assert np.abs(flipped - mirrored)[:, 12:-12, 12:-12].mean() < 0.1
    assert np.median(flipped[0]) < 0 < np.median(flipped[1])


def test_flip_twice_is_the_identity_and_leaves_its_input_alone() -> None:
    flow = smooth_flow()
    before = flow.copy()
    np.testing.assert_array_equal(fl.flip(fl.flip(flow)), flow)
    np.testing.assert_array_equal(flow, before)


def test_npy_is_the_lineage_format_and_truncates_towards_zero(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.npy"
    flow = np.array([[[0.19, -0.19, 1.99]], [[-1.99, 0.04, 300.0]]], np.float32)
    fl.write(path, flow)
    stored = np.load(path)
    assert stored.dtype == np.int16
    assert stored.shape == (1, 3, 2)
    assert stored[0].tolist() == [[1, -19], [-1, 0], [19, 3000]]
    np.testing.assert_allclose(fl.read(path), np.trunc(flow * 10) / 10, rtol=1e-6)
    assert [p.name for p in path.parent.iterdir()] == ["a.npy"]


def test_npy_read_is_exact_for_a_file_of_the_lineage(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(-(2**15), 2**15, (7, 9, 2)).astype(np.int16)
    np.save(tmp_path / "f.npy", stored)
    loaded = fl.read(tmp_path / "f.npy", expected_size=(7, 9))
    np.testing.assert_array_equal(loaded, (stored / 10.0).transpose(2, 0, 1).astype(np.float32))


def test_rewriting_an_npy_file_changes_none_of_its_values(tmp_path: Path) -> None:
    steps = np.arange(-32767, 32768, dtype=np.int16)[:65534].reshape(2, -1, 7).transpose(1, 2, 0)
    np.save(tmp_path / "a.npy", steps)
    fl.write(tmp_path / "b.npy", fl.read(tmp_path / "a.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), steps)


def test_flo_round_trip_is_exact_and_opencv_agrees(tmp_path: Path) -> None:
    flow, path = smooth_flow(), tmp_path / "f.flo"
    fl.write(path, flow)
    np.testing.assert_array_equal(fl.read(path, (12, 20)), flow)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(path)), flow.transpose(1, 2, 0))
    other = tmp_path / "opencv.flo"
    cv2.writeOpticalFlow(str(other), np.ascontiguousarray(flow.transpose(1, 2, 0)))
    np.testing.assert_array_equal(fl.read(other), flow)


def kitti_by_hand(red: NDArray[Any], green: NDArray[Any], blue: NDArray[Any]) -> bytes:
    """A 16-bit RGB PNG, put together byte by byte: big-endian samples, filter 0, one IDAT."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = red.shape
    rows = np.dstack([red, green, blue]).astype(">u2").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_kitti_png_is_read_as_the_benchmark_writes_it(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "f.png"
    red, green = rng.integers(0, 2**16, (2, 7, 9))
    path.write_bytes(kitti_by_hand(red, green, np.ones((7, 9))))
    flow = fl.read(path, (7, 9))
    assert flow.dtype == np.float32
    assert flow.flags.c_contiguous
    np.testing.assert_array_equal(flow, np.stack([(red - 2**15) / 64, (green - 2**15) / 64]))


def test_invalid_pixels_of_a_kitti_png_get_zero_flow(tmp_path: Path) -> None:
    valid = np.arange(12).reshape(3, 4) % 3 > 0
    full = np.full((3, 4), 2**15 + 640)
    (tmp_path / "f.png").write_bytes(kitti_by_hand(full, np.where(valid, full, 0), valid))
    np.testing.assert_array_equal(fl.read(tmp_path / "f.png"), np.where(valid, 10.0, 0.0)[None].repeat(2, 0))


def test_kitti_png_without_a_valid_pixel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.png").write_bytes(kitti_by_hand(*np.zeros((3, 4, 5), int)))
    with pytest.raises(DataError, match=r"f\.png: no pixel .* valid[\s\S]*→"):
        fl.read(tmp_path / "f.png")


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, 1.1e9, -1e10, 1e38])
def test_unknown_pixels_of_a_flo_get_zero_flow_like_kitti_s(hole: float, tmp_path: Path) -> None:
    """In either component; the other one says nothing then. A large flow is still a flow."""
    field = np.full((4, 5, 2), 2.5, np.float32)
    field[1, 2, 0], field[3, 4, 1], field[0, 0] = hole, hole, 9e8
    (tmp_path / "f.flo").write_bytes(struct.pack("<fii", 202021.25, 5, 4) + field.tobytes())
    found = fl.read(tmp_path / "f.flo")
    field[1, 2], field[3, 4] = 0, 0
    assert np.array_equal(found, field.transpose(2, 0, 1))
    assert fl.unknown_pixels(tmp_path / "f.flo") == 2


def test_a_flo_that_knows_no_pixel_is_refused(tmp_path: Path) -> None:
    field = np.full((4, 5, 2), np.nan, np.float32)
    (tmp_path / "f.flo").write_bytes(struct.pack("<fii", 202021.25, 5, 4) + field.tobytes())
    with pytest.raises(DataError, match=r"f\.flo: no pixel of this flow is known[\s\S]*→"):
        fl.read(tmp_path / "f.flo")


def test_unknown_pixels_are_counted_in_every_format(tmp_path: Path) -> None:
    fl.write(tmp_path / "f.npy", np.zeros((2, 4, 5), np.float32))
    assert fl.unknown_pixels(tmp_path / "f.npy") == 0
    steps = np.full((3, 4, 5), 1 << 15)
    steps[2] = np.arange(20).reshape(4, 5) < 7  # valid
    (tmp_path / "f.png").write_bytes(kitti_by_hand(*steps))
    assert fl.unknown_pixels(tmp_path / "f.png") == 13


def test_png_is_written_as_the_benchmark_reads_it(tmp_path: Path) -> None:
    flow, path = smooth_flow(), tmp_path / "f.png"
    fl.write(path, flow)
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored.dtype == np.uint16
    blue, green, red = stored.transpose(2, 0, 1).astype(int)
    np.testing.assert_allclose((red - 2**15) / 64, flow[0], atol=1 / 128)
    np.testing.assert_allclose((green - 2**15) / 64, flow[1], atol=1 / 128)
    assert (blue == 1).all()
    upper = np.asarray(Image.open(path))  # Pillow keeps the upper bytes, and knows the order of channels by itself
    np.testing.assert_array_equal(upper[..., 0], red >> 8)
    np.testing.assert_array_equal(upper[..., 1], green >> 8)


def test_rewriting_a_png_file_changes_nothing(tmp_path: Path) -> None:
    values = np.arange(2**16).reshape(2, 128, 256)
    (tmp_path / "a.png").write_bytes(kitti_by_hand(values[0], values[1], np.ones((128, 256))))
    first = fl.read(tmp_path / "a.png")
    fl.write(tmp_path / "b.png", first)
    np.testing.assert_array_equal(fl.read(tmp_path / "b.png"), first)


@pytest.mark.parametrize("suffix", ["npy", "flo", "png"])
def test_probe_tells_the_size_and_finds_a_file_cut_short(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"f.{suffix}"
    fl.write(path, smooth_flow())
    assert fl.probe(path) == (12, 20)
    whole = path.read_bytes()
    for keep in (0, 5, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"f\.\w+: [\s\S]*→"):
            fl.probe(path)
    path.unlink()
    with pytest.raises(DataError, match=r"f\.\w+: [\s\S]*→"):
        fl.probe(path)


def torn(path: Path, keep: int) -> Path:
    path.write_bytes(path.read_bytes()[:keep])
    return path


def bad_flow_file(kind: str, folder: Path) -> Path:
    npy, flo, png = folder / "bad.npy", folder / "bad.flo", folder / "bad.png"
    for path in (npy, flo, png):
        fl.write(path, smooth_flow())
    if kind == "missing":
        return folder / "none.npy"
    if kind == "float npy":
        np.save(npy, smooth_flow())
    elif kind == "channels first":
        np.save(npy, np.zeros((2, 12, 20), np.int16))
    elif kind == "pickle":
        np.save(npy, np.array([{}]), allow_pickle=True)
    elif kind == "suffix":
        return Path(npy).rename(folder / "bad.tif")
    elif kind == "npy as png":
        return Path(npy).rename(png)
    elif kind == "8-bit png":
        Image.new("RGB", (20, 12)).save(png)
        return png
    elif kind == "grey png":
        Image.fromarray(np.zeros((12, 20), np.uint16)).save(png)
        return png
    elif kind == "flipped bit":
        data = bytearray(png.read_bytes())
        data[len(data) // 2] ^= 1
        png.write_bytes(data)
        return png
    elif kind == "magic":
        flo.write_bytes(struct.pack("<fii", 1.0, 1, 1) + bytes(8))
        return flo
    return {
        "torn npy": lambda: torn(npy, 300),
        "torn npy header": lambda: torn(npy, 50),
        "empty npy": lambda: torn(npy, 0),
        "torn flo": lambda: torn(flo, 700),
        "torn flo header": lambda: torn(flo, 7),
        "torn png": lambda: torn(png, 300),
        "torn png end": lambda: torn(png, png.stat().st_size - 5),
    }.get(kind, lambda: npy)()


@pytest.mark.parametrize(
    "kind",
    ["missing", "float npy", "channels first", "pickle", "suffix", "magic", "torn npy", "torn npy header", "empty npy",
     "torn flo", "torn flo header", "npy as png", "8-bit png", "grey png", "flipped bit", "torn png", "torn png end"],
)  # fmt: skip
def test_unfit_flow_file_is_named_with_what_to_do(kind: str, tmp_path: Path) -> None:
    path = bad_flow_file(kind, tmp_path)
    with pytest.raises(DataError) as caught:
        fl.read(path)
    assert str(path) in str(caught.value)
    assert "→" in str(caught.value)


def test_flow_file_of_another_size_names_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "f.npy"
    fl.write(path, smooth_flow())
    with pytest.raises(DataError, match=r"f\.npy: the flow is 12×20, expected 6×20[\s\S]*→ .*resize"):
        fl.read(path, expected_size=(6, 20))


@pytest.mark.parametrize(
    ("suffix", "flow", "message"),
    [
        ("npy", np.full((2, 3, 3), 4000.0, np.float32), r"4000\.0 px[\s\S]*→ write a \.flo"),
        ("png", np.full((2, 3, 3), 512.0, np.float32), r"512\.0 px[\s\S]*→ write a \.flo"),
        ("png", np.full((2, 3, 3), -512.1, np.float32), r"512\.1 px[\s\S]*→ write a \.flo"),
        ("npy", np.full((2, 3, 3), np.nan, np.float32), r"finite[\s\S]*→"),
        ("png", np.full((2, 3, 3), np.inf, np.float32), r"finite[\s\S]*→"),
        ("npy", np.zeros((3, 3, 2), np.float32), r"\[2,H,W\][\s\S]*→"),
    ],
)
def test_write_refuses_what_the_format_cannot_hold(
    suffix: str, flow: NDArray[Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        fl.write(tmp_path / f"f.{suffix}", flow)
    assert not list(tmp_path.iterdir())


def test_an_estimator_of_one_s_own_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "class Still:\n    name, batch = 'still', 1\n\n    def __call__(self, pairs):\n        return []\n"
    (tmp_path / "own_still.py").write_text(f"{text}\n\nclass Endless(Still):\n    batch = None\n")
    (tmp_path / "own_broken.py").write_text("class Broken(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert estimator_class("own_still.Still").name == "still"
    with pytest.raises(ConfigError, match="it needs a name and a batch"):
        estimator_class("own_still.Endless")
    with pytest.raises(ConfigError, match="Broken' cannot be imported"):
        estimator_class("own_broken.Broken")


def test_threads_share_one_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def slow(setting: str) -> object:
        time.sleep(0.05)
        opened.append(setting)
        return object()

    monkeypatch.setattr(estimators, "open_estimator", slow)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(shared_estimator, ["a setting of this test"] * 4))
    assert len(found) == len(opened) == 1
