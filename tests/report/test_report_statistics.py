"""Intervals and tests against enumeration, scipy and values by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score

from stpl.report import significance
from stpl.report.significance import Comparison, Counts, Interval, compare, count, holm, interval, units_of

SINGLE = [f"city{number}_000000" for number in range(200)]  # clips that do not follow one another


def confusions(random: np.random.Generator, clips: int, skill: float, classes: int = 3) -> NDArray[np.int64]:
    matrices = random.integers(0, 20, (clips, classes, classes))
    return np.asarray(matrices + np.eye(classes, dtype=int) * random.integers(0, int(40 * skill) + 1, (clips, 1, 1)))


def counts_of(*matrices: NDArray[np.int64], keys: list[str] | None = None) -> Counts:
    names = tuple((keys or SINGLE)[: len(matrices[0])])
    return count(names, dict(enumerate(matrices)), range(matrices[0].shape[1]))


def linear(hits: NDArray[np.float64]) -> Counts:
    """Counts of one class whose union is 1000 in every clip, so that mIoU is the mean of `hits` / 10."""
    matrices = np.zeros((len(hits), 2, 2), np.int64)
    matrices[:, 0, 0], matrices[:, 0, 1] = hits, 1000 - hits
    return count(tuple(SINGLE[: len(hits)]), {0: matrices}, [0])


def test_clips_that_follow_one_another_are_one_unit() -> None:
    keys = ["a/0000/01", "a/0000/02", "a/0000/03", "a/0001/01", "a/0001/03", "lindau_000000_000019",
            "lindau_000001_000019", "odd", "odd"]  # fmt: skip
    assert units_of(keys) == (0, 0, 0, 1, 2, 3, 4, 5, 6)
    assert units_of(["9", "10", "11"]) == (0, 0, 0)
    assert units_of([]) == ()


def test_miou_equals_scikit_learns_on_the_pixels() -> None:
    random = np.random.default_rng(0)
    matrices = confusions(random, 5, 0.5)
    matrices[:, 2] = matrices[:, :, 2] = 0  # a class that never occurs
    pairs = [(t, p) for t, p in product(range(3), repeat=2) for _ in range(matrices.sum(0)[t, p])]
    truth, found = np.array(pairs).T
    expected = 100 * jaccard_score(truth, found, labels=[0, 1], average="macro")
    assert counts_of(matrices).mious == pytest.approx([expected])


def test_classes_that_are_not_reported_are_left_out() -> None:
    matrices = confusions(np.random.default_rng(1), 4, 0.5)
    all_of_them = matrices.sum(0)
    expected = [
        100 * all_of_them[i, i] / (all_of_them[i].sum() + all_of_them[:, i].sum() - all_of_them[i, i]) for i in (0, 2)
    ]
    assert count(tuple(SINGLE[:4]), {0: matrices}, [0, 2]).mious == pytest.approx([np.mean(expected)])


def test_interval_of_equal_clips_is_a_point_and_one_unit_has_no_width() -> None:
    one = confusions(np.random.default_rng(2), 1, 0.5)
    for counts in (
        counts_of(one.repeat(8, 0)),
        counts_of(confusions(np.random.default_rng(3), 3, 0.5), keys=["1", "2", "3"]),
    ):
        found = interval(counts)
        assert found.low == pytest.approx(found.high)
        assert found.low == pytest.approx(counts.mious[0])


def test_interval_over_clips_agrees_with_scipys_bootstrap() -> None:
    hits = np.random.default_rng(4).normal(400, 60, 50).round()
    expected = scipy.stats.bootstrap(
        (hits / 10,), np.mean, method="percentile", n_resamples=9999, rng=0
    ).confidence_interval
    found = interval(linear(hits))
    assert found.low == pytest.approx(expected.low, abs=0.15)
    assert found.high == pytest.approx(expected.high, abs=0.15)


def test_interval_widens_with_the_spread_over_seeds() -> None:
    hits = np.random.default_rng(4).normal(400, 60, 50).round().astype(int)

    def over(seeds: list[int]) -> Interval:
        parts = {seed: linear(hits + shift).counts[0] for seed, shift in enumerate(seeds)}
        return interval(Counts(tuple(parts), tuple(SINGLE[:50]), np.stack(list(parts.values()))))

    alike, apart = over([0, 0, 0]), over([-80, 0, 80])
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)


def test_swap_test_is_the_enumeration_of_all_swaps() -> None:
    random = np.random.default_rng(5)
    a, b = confusions(random, 6, 0.6), confusions(random, 6, 0.4)

    def miou(matrix: NDArray[np.int64]) -> float:
        union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
        return float(100 * np.mean(np.diag(matrix) / union))

    observed = abs(miou(a.sum(0)) - miou(b.sum(0)))
    extreme = 0
    for swaps in product((False, True), repeat=6):
        mine = sum((b if swap else a)[clip] for clip, swap in enumerate(swaps))
        theirs = sum((a if swap else b)[clip] for clip, swap in enumerate(swaps))
        extreme += abs(miou(np.asarray(mine)) - miou(np.asarray(theirs))) >= observed - 1e-9
    found = compare(counts_of(a), counts_of(b), "b")
    assert found is not None
    assert found.p_clips == extreme / 64
    assert found.difference == pytest.approx(miou(a.sum(0)) - miou(b.sum(0)))


def test_random_swaps_agree_with_scipys_permutation_test(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    a, b = (random.normal(mean, 40, 13).round() for mean in (420, 400))

    def mean_difference(x: NDArray[np.float64], y: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray(np.mean(x - y, axis=axis))

    exact = scipy.stats.permutation_test(
        (a, b), mean_difference, permutation_type="samples", vectorized=True, n_resamples=np.inf
    ).pvalue
    found = compare(linear(a), linear(b), "b")
    monkeypatch.setattr(significance, "SWAPS", 8000)  # fewer than 2^13: no enumeration
    drawn = compare(linear(a), linear(b), "b")
    assert found is not None
    assert drawn is not None
    assert found.p_clips == pytest.approx(exact)
    assert drawn.p_clips == pytest.approx(exact, abs=0.015)
    assert drawn.p_clips != found.p_clips


def test_sign_flips_over_seeds_by_hand() -> None:
    base = np.full(10, 400.0)

    def against(shifts: list[int]) -> Comparison:
        ours = np.stack([linear(base + shift).counts[0] for shift in shifts])
        theirs = np.stack([linear(base).counts[0] for _ in shifts])
        seeds, keys = tuple(range(len(shifts))), tuple(SINGLE[:10])
        found = compare(Counts(seeds, keys, ours), Counts(seeds, keys, theirs), "x")
        assert found is not None
        return found

    assert against([10, 20, 30]).p_seeds == 2 / 8  # only +++ and --- are as extreme
    assert against([10, 20, -30]).p_seeds == 1.0
    assert against([-10, 20, 30]).p_seeds == 4 / 8  # mean 40/3: reached by -++ and +++, and their mirrors
    assert against([10]).p_seeds is None


def test_a_model_against_itself_and_against_a_better_one() -> None:
    random = np.random.default_rng(7)
    worse = confusions(random, 40, 0.2)
    better = worse + np.eye(3, dtype=int) * 30
    same = compare(counts_of(worse), counts_of(worse), "same")
    assert same is not None
    assert (same.difference, same.p_clips, same.significant) == (0, 1.0, False)
    found = compare(counts_of(better), counts_of(worse), "worse")
    assert found is not None
    assert found.p_clips < 0.001
    assert found.interval.low > 0
    assert found.significant


def test_only_common_seeds_and_equal_clips_are_compared() -> None:
    random = np.random.default_rng(8)
    a = [confusions(random, 5, 0.5) for _ in range(3)]
    ours = count(tuple(SINGLE[:5]), {0: a[0], 2: a[1]}, range(3))
    theirs = count(tuple(SINGLE[:5]), {2: a[1], 3: a[2]}, range(3))
    found = compare(ours, theirs, "theirs")
    assert found is not None
    assert (found.seeds, found.difference, found.p_seeds) == (1, 0.0, None)
    assert compare(ours, count(tuple(SINGLE[5:10]), {0: a[0]}, range(3)), "other clips") is None
    assert compare(ours, count(tuple(SINGLE[:5]), {1: a[0]}, range(3)), "other seeds") is None


def test_holms_correction_by_hand() -> None:
    ps = [0.01, 0.04, 0.03, 0.005]
    given: list[Comparison | None] = [Comparison("x", 1.0, Interval(0.5, 1.5), None, p, p, None, 1) for p in ps]
    corrected = holm([*given, None])
    assert [c.p_holm if c else None for c in corrected] == pytest.approx([0.03, 0.06, 0.06, 0.02, None])
    assert [c.significant for c in corrected if c] == [True, False, False, True]


def test_the_same_counts_give_the_same_numbers(tmp_path: Path) -> None:
    a, b = (confusions(np.random.default_rng(seed), 30, 0.5) for seed in (9, 10))
    significance._draws.cache_clear()
    first = compare(counts_of(a), counts_of(b), "b"), interval(counts_of(a))
    significance._draws.cache_clear()
    significance._random_swaps.cache_clear()
    assert first == (compare(counts_of(a), counts_of(b), "b"), interval(counts_of(a)))
