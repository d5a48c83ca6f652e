"""Sweep files of searches: W&B's distributions against SciPy's, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from stpl.errors import ConfigError
from stpl.sweeps.distributions import NAMES, Choice, Range, read_distribution
from stpl.sweeps.grid import cells, examples, trial_cells
from stpl.sweeps.schema import Hyperband, read_sweep

SEARCH = """
program: stpl
method: random
metric: {name: val/miou, goal: maximize}
run_cap: 5
parameters:
  bench: {value: streets}
  experiment: {value: a}
  model.x: {min: 0.0, max: 1.0}
  seed_everything: {values: [3, 4]}
"""


class AtQuantile:
    """Stands for a trial whose every draw is at one quantile."""

    def __init__(self, quantile: float) -> None:
        self.quantile = quantile

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step is not None:
            return low + step * math.floor(self.quantile * (round((high - low) / step) + 1))
        if log:
            return math.exp(math.log(low) + self.quantile * (math.log(high) - math.log(low)))
        return low + self.quantile * (high - low)

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return low + math.floor(self.quantile * (high - low + 1))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return choices[math.floor(self.quantile * len(choices))]


# W&B's definitions, said in SciPy's words.
CONTINUOUS: dict[str, tuple[dict[str, float], Any]] = {
    "uniform": ({"min": -1.5, "max": 4}, stats.uniform(-1.5, 5.5)),
    "log_uniform": ({"min": -3, "max": 2}, stats.loguniform(math.exp(-3), math.exp(2))),
    "log_uniform_values": ({"min": 0.02, "max": 50}, stats.loguniform(0.02, 50)),
    "inv_log_uniform": ({"min": -3, "max": 2}, stats.loguniform(math.exp(-2), math.exp(3))),
    "inv_log_uniform_values": ({"min": 0.02, "max": 50}, stats.loguniform(0.02, 50)),
    "normal": ({"mu": 3, "sigma": 2}, stats.norm(3, 2)),
    "log_normal": ({"mu": 0.5, "sigma": 0.75}, stats.lognorm(s=0.75, scale=math.exp(0.5))),
    "beta": ({"a": 0.5, "b": 2.5}, stats.beta(0.5, 2.5)),
}


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("quantile", [0.001, 0.2, 0.5, 0.77, 0.999])
def test_quantiles_are_scipys(name: str, quantile: float) -> None:
    keys, reference = CONTINUOUS[name]
    drawn = read_distribution({"distribution": name, **keys}, "here").draw(AtQuantile(quantile), "x")
    assert drawn == pytest.approx(reference.ppf(quantile), rel=6e-6, abs=1e-8)


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 7), (30, 40), (0.3, 0.3)])
def test_beta_quantiles_over_its_shapes(shape: tuple[float, float]) -> None:
    distribution = read_distribution({"distribution": "beta", "a": shape[0], "b": shape[1]}, "here")
    for step in range(1, 20):
        drawn = distribution.draw(AtQuantile(step / 20), "x")
        assert drawn == pytest.approx(stats.beta(*shape).ppf(step / 20), rel=6e-6, abs=2e-9)


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if f"q_{name}" in NAMES and name != "uniform"])
def test_q_rounds_to_multiples(name: str) -> None:
    keys, reference = CONTINUOUS[name]
    for quantile in (0.1, 0.5, 0.9):
        drawn = read_distribution({"distribution": f"q_{name}", **keys, "q": 0.25}, "here").draw(
            AtQuantile(quantile), "x"
        )
        assert drawn == pytest.approx(round(reference.ppf(quantile) / 0.25) * 0.25)
    whole = read_distribution({"distribution": f"q_{name}", **keys}, "here").draw(AtQuantile(0.9), "x")
    assert isinstance(whole, int)  # q is 1 unless given, and an option for whole numbers takes no 3.0


def test_discrete_distributions() -> None:
    steps = read_distribution({"distribution": "q_uniform", "min": 0.1, "max": 1.0, "q": 0.05}, "here")
    assert isinstance(steps, Range)
    assert steps.values() == tuple(round(0.05 * place, 2) for place in range(2, 21))
    assert steps.draw(AtQuantile(0.999), "x") == 1.0
    whole = read_distribution({"min": 2, "max": 4}, "here")
    assert [whole.draw(AtQuantile(q), "x") for q in (0.1, 0.5, 0.9)] == [2, 3, 4]
    weighted = read_distribution({"values": ["a", "b", "c"], "probabilities": [0.2, 0.0, 0.8]}, "here")
    assert [weighted.draw(AtQuantile(q), "x") for q in (0.1, 0.19, 0.21, 1.0)] == ["a", "a", "c", "c"]
    lists = Choice(([1, 2], True, 1))
    assert [lists.draw(AtQuantile(q), "x") for q in (0.0, 0.5, 0.9)] == [[1, 2], True, 1]
    assert lists.draw(AtQuantile(0.5), "x") is True


def test_the_kind_is_implied_as_in_wandb() -> None:
    assert read_distribution({"min": 1, "max": 3}, "here") == Range(1, 3, whole=True)
    assert read_distribution({"min": 1, "max": 3.0}, "here") == Range(1, 3)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("{distribution: unifrom, min: 0, max: 1}", "did you mean 'uniform'"),
        ("{distribution: uniform, min: 0}", "'max' is missing"),
        ("{distribution: uniform, min: 0, max: high}", "'max' is 'high', not a number"),
        ("{distribution: normal, mu: 0, sgima: 1}", "did you mean 'sigma'"),
        ("{distribution: normal, sigma: 0}", "sigma must be above 0"),
        ("{distribution: log_uniform_values, min: 0, max: 1}", "min is 0"),
        ("{min: 1, max: 0}", "is empty"),
        ("{distribution: q_uniform, min: 0, max: 1, q: 0}", "q is 0"),
        ("{distribution: int_uniform, min: 0.5, max: 1}", "not whole"),
        ("{values: [a, b], probabilities: [0.5, 0.4]}", "sum to 0.9"),
        ("{values: [a, b], probabilities: [1.0]}", "lists of one length"),
        ("{values: [a, null], probabilities: [0.5, 0.5]}", "'None'"),
        ("{sigma: 1}", "names no distribution"),
        ("{parameters: {y: {value: 1}}}", "flat dotted names"),
    ],
)
def test_faults_in_a_distribution_are_named(tmp_path: Path, entry: str, fault: str) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH.replace("{min: 0.0, max: 1.0}", entry))
    with pytest.raises(ConfigError) as caught:
        read_sweep(path)
    assert fault in str(caught.value)
    assert "search.yaml: parameters.model.x" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("run_cap: 5", "run_cap: 0", "run_cap is 0"),
        ("run_cap: 5", "", "never ends"),
        ("run_cap: 5", "run_cap: 5\ncontroller: {type: local}", "W&B's own scheduler"),
        ("run_cap: 5", "run_cap: 5\nearly_terminate: {type: median}", "unknown type 'median'"),
        ("run_cap: 5", "run_cap: 5\nearly_terminate: {type: hyperband}", "min_iter, or max_iter and s"),
        ("run_cap: 5", "run_cap: 5\nearly_terminate: {type: hyperband, min_iter: 2, eta: 1.5}", "eta is 1.5"),
        ("run_cap: 5", "run_cap: 5\nearly_terminate: {type: hyperband, min_itre: 2}", "did you mean 'min_iter'"),
        ("goal: maximize", "gaol: maximize", "did you mean 'goal'"),
        ("goal: maximize", "goal: maximize, target: high", "target is 'high'"),
        (", goal: maximize", "", "needs a goal"),
        ("{min: 0.0, max: 1.0}", "{value: 1}", "nothing varies"),
        ("bench: {value: streets}", "bench: {values: [streets, viper]}", "bench cannot be searched"),
        ("{values: [3, 4]}", "{min: 0, max: 9}", "seed_everything cannot be searched"),
    ],
)
def test_faults_in_a_search_are_named(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in SEARCH
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_sweep(path)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("min_iter: 2", Hyperband(2, 3)),
        ("min_iter: 1, eta: 2, strict: true", Hyperband(1, 2)),
        ("max_iter: 27, s: 2", Hyperband(3, 3)),  # W&B's bands are 9 and 3
        ("max_iter: 20, s: 5, eta: 4", Hyperband(1, 4)),  # 5 and 1; smaller ones do not exist
    ],
)
def test_hyperband_in_both_of_wandbs_ways(tmp_path: Path, entry: str, expected: Hyperband) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH.replace("run_cap: 5", f"run_cap: 5\nearly_terminate: {{type: hyperband, {entry}}}"))
    assert read_sweep(path).early == expected


def test_a_trial_runs_every_seed_and_examples_show_the_ends(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH)
    plan = read_sweep(path)
    found = trial_cells(plan, {"model.x": 0.25})
    assert [str(cell.key) for cell in found] == ["streets/a,x=0.25/seed3", "streets/a,x=0.25/seed4"]
    assert [cell.parameters["model.x"] for cell in examples(plan)] == [0.0, 0.5, 1.0]


def test_grid_lists_whole_numbers_and_stops_at_its_cap(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        SEARCH.replace("method: random", "method: grid").replace("{min: 0.0, max: 1.0}", "{min: 1, max: 4}")
    )
    assert [str(cell.key) for cell in cells(read_sweep(path))] == [
        *(f"streets/a,x={x}/seed3" for x in (1, 2, 3, 4)), "streets/a,x=1/seed4",
    ]  # fmt: skip
