"""Intervals and tests against enumeration, scipy and values by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score

from stpl.report import significance
from stpl.report.significance import (
    DRAWS,
    LEVEL,
    Comparison,
    Counts,
    Interval,
    compare,
    count,
    family_p,
    holm,
    judged,
    miou,
    nested_interval,
    sign_flips,
    units_of,
)

SINGLE = [f"city{number}_000000" for number in range(200)]  # clips that do not follow one another


def confusions(random: np.random.Generator, clips: int, skill: float, classes: int = 3) -> NDArray[np.int64]:
    matrices = random.integers(0, 20, (clips, classes, classes))
    return np.asarray(matrices + np.eye(classes, dtype=int) * random.integers(0, int(40 * skill) + 1, (clips, 1, 1)))


def counts_of(*matrices: NDArray[np.int64], keys: list[str] | None = None) -> Counts:
    names = tuple((keys or SINGLE)[: len(matrices[0])])
    return count(names, dict(enumerate(matrices)), range(matrices[0].shape[1]))


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


def linear(hits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts `[S,U,3,1]` of clips of one class whose union is always 1000: mIoU is the mean of hits / 10."""
    return np.stack([hits, np.full_like(hits, 1000.0), hits], -1)[..., None]


def comparison(differences: Sequence[float], name: str = "x") -> Comparison:
    return Comparison(name, "control", "all", tuple(differences))


SPREADS = {
    "equal": np.ones((12, 12)),
    "of rows": np.linspace(0.2, 3, 12)[:, None].repeat(12, 1),
    "of source models": np.linspace(0.5, 2, 12)[None].repeat(12, 0),  # some are adapted more reliably than others
    "of one source model": np.where(np.arange(12) == 0, 3.0, 1.0)[None].repeat(12, 0),
}
DRAWN = 4000


def differences_of(models: int, spread: NDArray[np.float64], shared: float, seed: int) -> list[NDArray[np.float64]]:
    """Differences `[DRAWN,S]` of 12 comparisons without any effect; they share a part of their variance, as rows do
    that are held against the same control."""
    random = np.random.default_rng(seed)
    own, common = random.normal(size=(12, DRAWN, models)), random.normal(size=(DRAWN, models))
    found = (1 - shared) ** 0.5 * own + shared**0.5 * common
    return list(found * spread[:, None, :models])


@pytest.mark.parametrize("models", [5, 8, 12])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_without_an_effect_at_most_six_percent_are_marked(models: int, spread: str, shared: float) -> None:
    """Of comparisons alone, and of reports of twelve that have any mark; through what sets the marks."""
    differences = differences_of(models, SPREADS[spread], shared, seed=models)
    alone = [float((family_p([one]) < LEVEL).mean()) for one in differences]
    together = (family_p(differences) < LEVEL).any(-1)
    assert together.shape == (DRAWN,)
    assert np.mean(alone) <= 0.06
    assert together.mean() <= 0.06


def test_an_effect_of_three_standard_errors_is_found() -> None:
    """With 12 source models. Among eleven others without effect Holm's correction leaves about half of it."""
    differences = differences_of(12, SPREADS["equal"], 0.0, seed=1)
    differences[0] = differences[0] + 3 / 12**0.5
    assert (family_p(differences[:1]) < LEVEL).mean() >= 0.7
    assert 0.3 <= (family_p(differences) < LEVEL)[:, 0].mean() <= 0.4


def test_marks_are_set_by_what_was_simulated() -> None:
    drawn = [one[3] for one in differences_of(8, SPREADS["of rows"], 0.5, seed=2)]
    drawn[4] = drawn[4] + 4
    family = [comparison(one.tolist(), f"row {number}") for number, one in enumerate(drawn)]
    few = comparison((1.0, 2.0, 3.0, 4.0), "few")
    found = judged([*family, few, family[0]])  # a row that stands in two tables counts once
    assert few not in found
    assert few.significant is None
    expected = family_p(drawn)
    assert [found[one].p_holm for one in family] == pytest.approx(expected.tolist())
    assert [found[one].significant for one in family] == (expected < LEVEL).tolist()
    assert any(expected < LEVEL)
    assert judged([few]) == {}


def test_t_test_against_scipys() -> None:
    random = np.random.default_rng(3)
    for models in (2, 5, 12):
        ours, theirs = random.normal(40, 3, (2, models))
        expected = scipy.stats.ttest_rel(ours, theirs)
        found = comparison((ours - theirs).tolist())
        assert found.p == pytest.approx(expected.pvalue)
        ends = expected.confidence_interval()
        assert found.interval == Interval(pytest.approx(ends.low), pytest.approx(ends.high))  # type: ignore[arg-type]
        assert found.error == pytest.approx(scipy.stats.sem(ours - theirs))
    assert comparison([0.0] * 5).p == 1
    assert comparison([0.5] * 5).p == 0
    single = comparison([0.5])
    assert (single.difference, single.p, single.interval, single.error) == (0.5, None, None, None)


def test_holms_correction_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([[0.6, 0.9], [0.02, 0.04]])) == pytest.approx(np.array([[1.0, 1.0], [0.04, 0.04]]))


def test_sign_flips_by_hand() -> None:
    assert sign_flips([1, 2, 3]) == 2 / 8  # only +++ and --- are as extreme
    assert sign_flips([1, 2, -3]) == 1.0
    assert sign_flips([-1, 2, 3]) == 4 / 8  # mean 4/3: reached by -++ and +++, and their mirrors
    assert sign_flips([1]) is None


def test_drawn_sign_flips_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(4).normal(0.6, 1, 12).tolist()
    exact = sign_flips(differences)
    monkeypatch.setattr(significance, "_MAX_EXACT", 8)
    drawn = sign_flips(differences)
    assert exact is not None
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.01)


def test_nested_bootstrap_is_the_slow_loop() -> None:
    """Source models, and within each drawn one clips anew: the same ones of both sides."""
    random = np.random.default_rng(5)
    ours, theirs = (counts_of(*(confusions(random, 6, skill) for _ in range(3))).counts for skill in (0.6, 0.4))
    drawn, weights = significance._draws(3, 6)
    assert drawn.shape == (DRAWS, 3)
    assert (weights.sum(-1) == 6).all()
    means = {"one": [], "both": []}  # type: dict[str, list[float]]
    for models, of_models in zip(drawn, weights, strict=True):
        mious = [[float(miou(np.einsum("u,uic->ic", w, side[m]))) for m, w in zip(models, of_models, strict=True)]
                 for side in (ours, theirs)]  # fmt: skip
        means["one"].append(float(np.mean(mious[0])))
        means["both"].append(float(np.mean(mious[0]) - np.mean(mious[1])))
    for found, values in ((nested_interval(ours), means["one"]), (nested_interval(ours, theirs), means["both"])):
        assert found is not None
        assert [found.low, found.high] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())


def test_nested_bootstrap_has_both_variances() -> None:
    """With many of each, its variance is that over source models and that over clips within them."""
    random = np.random.default_rng(6)
    hits = 400 + random.normal(0, 30, (40, 1)) + random.normal(0, 60, (40, 50))
    found = nested_interval(linear(hits))
    assert found is not None
    means = hits.mean(1) / 10
    expected = (means.var(ddof=1) / 40 + (hits.var(1).mean() / 100) / 50 / 40) ** 0.5
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(expected, rel=0.06)


def test_one_source_model_has_no_interval() -> None:
    assert nested_interval(counts_of(confusions(np.random.default_rng(7), 8, 0.5)).counts) is None


def test_only_common_seeds_and_equal_clips_are_compared() -> None:
    random = np.random.default_rng(8)
    a = [confusions(random, 5, 0.5) for _ in range(3)]
    names, keys = ("ours", "theirs"), tuple(SINGLE[:5])
    ours = count(keys, {0: a[0], 2: a[1]}, range(3))
    found = compare(ours, count(keys, {2: a[1], 3: a[2]}, range(3)), names, "all")
    assert found == Comparison("ours", "theirs", "all", (0.0,))
    assert compare(ours, count(tuple(SINGLE[5:10]), {0: a[0]}, range(3)), names, "all") is None  # other clips
    assert compare(ours, count(keys, {1: a[0]}, range(3)), names, "all") is None  # other seeds


def test_the_same_counts_give_the_same_numbers() -> None:
    counts = counts_of(*(confusions(np.random.default_rng(seed), 30, 0.5) for seed in (9, 10))).counts
    first = nested_interval(counts)
    significance._draws.cache_clear()
    assert first == nested_interval(counts)
