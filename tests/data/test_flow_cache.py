"""The cache of estimated flow: filled once, the same warm and cold, and no damage goes unnoticed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_flow import shifted_pair, torn

from stpl.data import flow as fl
from stpl.data.flow import FlowCache
from stpl.errors import DataError


def test_cache_estimates_once_and_returns_the_same_values_warm_and_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, earlier = shifted_pair(5, -2)
    exact = fl.estimate(later, earlier)
    cold = FlowCache(tmp_path).get("val/ulm/a", later, earlier)

    def never(*_: Any) -> None:
        raise AssertionError("estimated twice")

    monkeypatch.setattr("stpl.data.flow.estimators.estimate", never)
    warm = FlowCache(tmp_path).get("val/ulm/a", later, earlier)
    np.testing.assert_array_equal(warm, cold)
    assert warm.dtype == np.float32
    assert warm.flags.c_contiguous
    assert np.all(np.abs(cold - exact) <= np.abs(exact) / 2048 + 1e-6)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")] == ["flow_dis/val/ulm/a.npy"]


@pytest.mark.slow
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
    assert [p.name for p in (tmp_path / "flow_dis").iterdir()] == ["k.npy"]


def test_torn_cache_file_says_to_delete_it(tmp_path: Path) -> None:
    later, earlier = shifted_pair(1, 1)
    FlowCache(tmp_path).get("k", later, earlier)
    torn(tmp_path / "flow_dis" / "k.npy", 1000)
    with pytest.raises(DataError, match=r"k\.npy: [\s\S]*torn[\s\S]*→ delete the file"):
        FlowCache(tmp_path).get("k", later, earlier)


def test_no_damage_of_a_cache_file_goes_unnoticed(tmp_path: Path) -> None:
    """Flipped bits and blocks of zeros, anywhere: what is still returned is what was estimated."""
    later, earlier = (frame[:32, :48] for frame in shifted_pair(5, -2))
    sound = FlowCache(tmp_path).get("k", later, earlier)
    path, draw, refused = tmp_path / "flow_dis" / "k.npy", np.random.default_rng(0), 0
    whole = path.read_bytes()
    for place in draw.integers(0, len(whole), 200).tolist():
        for damage in (bytes([whole[place] ^ 8]), bytes(len(whole[place : place + 64]))):
            path.write_bytes(whole[:place] + damage + whole[place + len(damage) :])
            try:
                assert np.array_equal(FlowCache(tmp_path).get("k", later, earlier), sound)
            except DataError as error:
                refused += error.where == str(path)
    assert refused > 350


def test_a_cache_file_of_an_older_version_is_made_again(tmp_path: Path) -> None:
    """It has no checksum, so nobody knows what is in it."""
    later, earlier = shifted_pair(1, 1)
    sound = FlowCache(tmp_path).get("k", later, earlier)
    whole = (tmp_path / "flow_dis" / "k.npy").read_bytes()
    np.save(tmp_path / "flow_dis" / "k.npy", np.full((*later.shape[:2], 2), np.nan, np.float16))
    assert np.array_equal(FlowCache(tmp_path).get("k", later, earlier), sound)
    assert (tmp_path / "flow_dis" / "k.npy").read_bytes() == whole


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
