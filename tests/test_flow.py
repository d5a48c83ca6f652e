import struct
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stpl.data import flow as fl
from stpl.data.flow import FlowCache
from stpl.errors import DataError

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


def test_estimate_is_the_same_in_every_thread_and_at_every_call() -> None:
    later, earlier = shifted_pair(2, 1)
    wanted = fl.estimate(later, earlier)
    fl.estimate(earlier[:, ::-1].copy(), later)  # leaves no trace in the estimator
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


def torn(path: Path, keep: int) -> Path:
    path.write_bytes(path.read_bytes()[:keep])
    return path


def bad_flow_file(kind: str, folder: Path) -> Path:
    npy, flo = folder / "bad.npy", folder / "bad.flo"
    fl.write(npy, smooth_flow())
    fl.write(flo, smooth_flow())
    if kind == "missing":
        return folder / "none.npy"
    if kind == "float npy":
        np.save(npy, smooth_flow())
    elif kind == "channels first":
        np.save(npy, np.zeros((2, 12, 20), np.int16))
    elif kind == "pickle":
        np.save(npy, np.array([{}]), allow_pickle=True)
    elif kind == "png":
        return Path(npy).rename(folder / "bad.png")
    elif kind == "magic":
        flo.write_bytes(struct.pack("<fii", 1.0, 1, 1) + bytes(8))
        return flo
    return {
        "torn npy": lambda: torn(npy, 300),
        "torn npy header": lambda: torn(npy, 50),
        "empty npy": lambda: torn(npy, 0),
        "torn flo": lambda: torn(flo, 700),
        "torn flo header": lambda: torn(flo, 7),
    }.get(kind, lambda: npy)()


@pytest.mark.parametrize(
    "kind",
    ["missing", "float npy", "channels first", "pickle", "png", "magic", "torn npy", "torn npy header", "empty npy",
     "torn flo", "torn flo header"],
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
    ("flow", "message"),
    [
        (np.full((2, 3, 3), 4000.0, np.float32), r"4000\.0 px[\s\S]*→ write a \.flo"),
        (np.full((2, 3, 3), np.nan, np.float32), r"finite[\s\S]*→"),
        (np.zeros((3, 3, 2), np.float32), r"\[2,H,W\][\s\S]*→"),
    ],
)
def test_write_refuses_what_the_format_cannot_hold(flow: NDArray[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        fl.write(tmp_path / "f.npy", flow)
    assert not list(tmp_path.iterdir())


def test_cache_estimates_once_and_returns_the_same_values_warm_and_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, earlier = shifted_pair(5, -2)
    exact = fl.estimate(later, earlier)
    cold = FlowCache(tmp_path).get("val/ulm/a", later, earlier)

    def never(*_: Any) -> None:
        raise AssertionError("estimated twice")

    monkeypatch.setattr(fl, "estimate", never)
    warm = FlowCache(tmp_path).get("val/ulm/a", later, earlier)
    np.testing.assert_array_equal(warm, cold)
    assert warm.dtype == np.float32
    assert warm.flags.c_contiguous
    assert np.all(np.abs(cold - exact) <= np.abs(exact) / 2048 + 1e-6)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")] == ["val/ulm/a.npy"]


def test_cache_is_shared_by_concurrent_writers(tmp_path: Path) -> None:
    later, earlier = shifted_pair(3, 3)
    cache, results = FlowCache(tmp_path), []
    threads = [threading.Thread(target=lambda: results.append(cache.get("k", later, earlier))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(np.array_equal(result, results[0]) for result in results)
    assert [p.name for p in tmp_path.iterdir()] == ["k.npy"]


def test_torn_cache_file_says_to_delete_it(tmp_path: Path) -> None:
    later, earlier = shifted_pair(1, 1)
    FlowCache(tmp_path).get("k", later, earlier)
    torn(tmp_path / "k.npy", 1000)
    with pytest.raises(DataError, match=r"k\.npy: [\s\S]*torn[\s\S]*→ delete the file"):
        FlowCache(tmp_path).get("k", later, earlier)


def test_cache_file_of_another_size_says_to_delete_it(tmp_path: Path) -> None:
    later, earlier = shifted_pair(1, 1)
    FlowCache(tmp_path).get("k", later, earlier)
    with pytest.raises(DataError, match=r"k\.npy: the cached flow is 96×160, the frames are 48×160[\s\S]*→ delete"):
        FlowCache(tmp_path).get("k", later[:48], earlier[:48])


@pytest.mark.parametrize("key", ["../out", "a/../../out", "/abs", "", "a/", "a\\..\\b", ".."])
def test_cache_key_cannot_leave_the_root(key: str, tmp_path: Path) -> None:
    later, earlier = shifted_pair(1, 1)
    with pytest.raises(DataError, match=r"would leave the cache[\s\S]*→ use a relative key"):
        FlowCache(tmp_path / "root").get(key, later, earlier)
    assert not list(tmp_path.rglob("*.npy"))


def test_unwritable_cache_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    later, earlier = shifted_pair(1, 1)
    with pytest.raises(DataError, match=r"cannot be written[\s\S]*→ .*writable folder"):
        FlowCache(tmp_path / "file").get("k", later, earlier)
