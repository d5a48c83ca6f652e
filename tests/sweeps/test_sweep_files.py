"""What a sweep file may say: each setting and value once, finite numbers, a number of cells; and whom errors blame."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from fake_trial import record_of
from repository import REPOSITORY
from stpl.cli import main
from stpl.errors import ConfigError
from stpl.runs.record import RunKey, write_record
from stpl.sweeps.distributions import LARGEST_GRID, read_distribution
from stpl.sweeps.grid import cells, narrow
from stpl.sweeps.queues import GridQueue, SearchQueue
from stpl.sweeps.schema import Sweep, read_sweep
from stpl.sweeps.spelling import same_setting, same_value
from stpl.sweeps.status import Status, read_status
from stpl.sweeps.storage import default_url, open_storage, opened
from sweep_harness import SWEEP

GRID = SWEEP.replace("{values: [a, b]}", "{value: a}")


def written(folder: Path, *lines: str, text: str = GRID) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text.replace("command:", "".join(f"  {line}\n" for line in lines) + "command:"))
    return path


def refused(path: Path) -> str:
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        cells(read_sweep(path))
    assert time.process_time() - began < 2
    assert str(path) in str(caught.value)
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)


# --- the same thing twice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        "[0.1, 0.1]",
        "[1, 1.0]",
        "[0.1, 1e-1]",
        "[0.1, 0.10]",
        '[0.1, "0.1"]',
        '["0.10", ".1"]',
        "[100, 1e2]",
        "[1000, 1_000]",
        "[true, True]",
        '[true, "true"]',
        '[false, "False"]',
        "[[1, 2], [1.0, 2]]",
        '[[1, 2], "[1,2]"]',
        "[[0.1, [a]], [1e-1, [a]]]",
        "[data/a, ./data//a]",
        "[data/a, data/a/]",
        '["{a: 1}", "{a: 1.0}"]',
    ],
)
def test_a_value_in_two_spellings_is_listed_twice(tmp_path: Path, values: str) -> None:
    said = refused(written(tmp_path, f"model.x: {{values: {values}}}"))
    assert "parameters.model.x: a value is listed twice" in said


@pytest.mark.parametrize(
    "values",
    [
        "[0.1, 0.2]",
        "[true, 1]",
        "[1, 10]",
        "[a, A]",
        "[[1, 2], [2, 1]]",
        "[a/b, a/c]",
        "[https://a/b, https://a//b]",
        '["run #1", "run #2"]',
        "[none, mlp]",
        "[[1], 1]",
    ],
)
def test_different_values_are_kept(tmp_path: Path, values: str) -> None:
    assert len(cells(read_sweep(written(tmp_path, f"model.x: {{values: {values}}}")))) == 2


def test_names_of_experiments_are_no_numbers() -> None:
    assert same_value("experiment", ["1e1", "10"]) is None
    assert same_value("seed_everything", [0, "0"]) == (0, "0")
    here = Path("data/a").absolute()
    assert same_value("data.root", ["data/a", str(here)]) == ("data/a", str(here))


@pytest.mark.parametrize(
    "names",
    [
        ("model.temperature", "model.init_args.temperature"),
        ("data.loading.batch_size", "data.init_args.loading.batch_size"),
        ("trainer.logger.init_args.a.init_args.b", "trainer.logger.a.b"),
        ("model", "model.class_path"),
        ("run.bench", "bench"),
        ("run.experiment", "experiment"),
        ("trainer.callbacks", "trainer.callbacks+"),
    ],
)
def test_one_setting_under_two_names(tmp_path: Path, names: tuple[str, str]) -> None:
    assert same_setting(names) == names
    assert same_setting(("model.a", "data.a", "a")) is None
    lines = [f"{name}: {{value: 1}}" for name in names if name not in ("bench", "experiment")]
    assert "are one setting" in refused(written(tmp_path, *lines))


def test_an_option_stands_for_every_name_of_its_setting(tmp_path: Path) -> None:
    """`--data` and `--bench` replace what the file says, however it says it."""
    lines = ("data.init_args.root: {values: [a, b]}", "experiments: {value: mine}")
    plan = narrow(read_sweep(written(tmp_path, *lines)), "viper", None, Path("c"), Path("d"))
    (cell,) = cells(plan)
    assert cell.parameters["data.root"] == str(Path("c").absolute())
    assert "data.init_args.root" not in cell.parameters
    assert cell.parameters["experiments"] == str(Path("d").absolute())


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("early_terminate: {type: hyperband, min_iter: 1, eta: NUMBER}", "early_terminate: 'eta'"),
        ("early_terminate: {type: hyperband, min_iter: NUMBER}", "early_terminate: 'min_iter'"),
        ("early_terminate: {type: hyperband, max_iter: NUMBER, s: 1}", "early_terminate: 'max_iter'"),
        ("early_terminate: {type: hyperband, max_iter: 9, s: NUMBER}", "early_terminate: 's'"),
        ("metric: {name: val/miou, goal: maximize, target: NUMBER}", "metric: 'target'"),
        ("run_cap: NUMBER", "'run_cap'"),
        ("  model.x: {min: NUMBER, max: 1.0}", "parameters.model.x: 'min'"),
        ("  model.x: {min: 0, max: NUMBER}", "parameters.model.x: 'max'"),
        ("  model.x: {distribution: q_uniform, min: 0, max: 1, q: NUMBER}", "parameters.model.x: 'q'"),
        ("  model.x: {distribution: normal, mu: NUMBER}", "parameters.model.x: 'mu'"),
        ("  model.x: {distribution: normal, sigma: NUMBER}", "parameters.model.x: 'sigma'"),
        ("  model.x: {distribution: beta, a: NUMBER}", "parameters.model.x: 'a'"),
        ("  model.x: {values: [a, b], probabilities: [0.5, NUMBER]}", "parameters.model.x: 'probabilities'"),
        ("  model.x: {values: [1, NUMBER]}", "parameters.model.x: 'values'"),
        ("  model.x: {value: NUMBER}", "parameters.model.x: 'value'"),
        ("  model.x: {value: [[NUMBER]]}", "parameters.model.x: 'value'"),
    ],
)
def test_numbers_without_an_end(tmp_path: Path, place: str, key: str, number: str) -> None:
    line = place.replace("NUMBER", number)
    text = GRID.replace("metric: {name: val/miou, goal: maximize}\n", "") if line.startswith("metric") else GRID
    path = tmp_path / "sweep.yaml"
    path.write_text(text.replace("command:", f"{line}\ncommand:") if line[0] == " " else f"{line}\n{text}")
    assert f"{key} is {number.replace('.', '')}, not a number" in refused(path)


@pytest.mark.parametrize(
    "entry",
    [
        "{type: hyperband, max_iter: 10, s: 1000000000}",
        "{type: hyperband, max_iter: 1.0e+300, s: 1.0e+9, eta: 2}",
        "{type: hyperband, min_iter: 1.0e+300, eta: 1.0e+300}",
    ],
)
def test_absurd_bands_end_at_once(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"early_terminate: {entry}\n{GRID}")
    early = read_sweep(path).early
    assert early is not None
    assert early.first >= 1


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 1e-300}, "choose a larger q"),
        ({"distribution": "q_uniform", "min": 0.0, "max": 1e300}, "choose a larger q"),
        ({"distribution": "log_normal", "sigma": 200.0}, "too large for a computer"),  # at its ends alone
    ],
)
def test_what_would_fail_at_a_draw(entry: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_distribution(entry, "s.yaml")


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ("model.x: {distribution: int_uniform, min: 1, max: 3000}", "model.y: {min: 1, max: 1000}"),
        ("model.x: {distribution: q_uniform, min: 0, max: 1, q: 1.0e-9}",),
        ("model.x: {min: 0, max: 1000000000000}",),
        tuple(f"model.x{i}: {{values: [1, 2]}}" for i in range(64)),
    ],
)
def test_a_grid_of_too_many_cells(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert f"{LARGEST_GRID:,}" in refused(written(tmp_path, *lines))


def test_seeds_count_as_well(tmp_path: Path) -> None:
    plan = read_sweep(written(tmp_path, "model.x: {min: 1, max: 100}"))
    with pytest.raises(ConfigError, match="seeds: 100,000,000 seeds are too many"):
        narrow(plan, None, 100_000_000)
    with pytest.raises(ConfigError, match="asks for 20,000 cells; a grid has at most 10,000"):
        cells(narrow(plan, None, 200))
    assert len(cells(narrow(plan, None, 100))) == LARGEST_GRID


def test_run_cap_takes_the_first_cells_of_a_large_grid(tmp_path: Path) -> None:
    lines = tuple(f"model.x{i}: {{values: [1, 2]}}" for i in range(40))
    text = GRID.replace("method: grid", "method: grid\nrun_cap: 3")
    assert len(cells(read_sweep(written(tmp_path, *lines, text=text)))) == 3


# --- whom errors blame ------------------------------------------------------------------------------------------------


def test_check_names_the_file_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text((REPOSITORY / "sweeps/tau.yaml").read_text().replace("value: stpl", "value: mine"))
    (tmp_path / "experiments/mine").mkdir(parents=True)
    tables, overlay = Path("experiments/tables.yaml"), Path("experiments/mine/a.yaml")
    told = []
    for text, settings in (
        ("experiments:\n\tmine: {overlays: []}\n", ""),
        ("experiments: {mine: {overlays: [method/stpl, mine/a]}}\n", "model: {init_args: {temprature: 1}}\n"),
        ("experiments: {mine: {overlays: [method/stpl, mine/a]}}\n", "trainer: [\n"),
        ("experiments: {mine: {overlays: [method/stpl, mine/b]}}\n", ""),
        ("experiments: {mines: {overlays: [method/stpl]}}\n", ""),
    ):
        tables.write_text(text)
        overlay.write_text(settings)
        assert main(["sweep", "check", "s.yaml"]) == 2
        told.append(capsys.readouterr().err)
    assert told[0].startswith("stpl sweep: experiments/tables.yaml:2: ")
    assert told[1].startswith("stpl sweep: experiments/mine/a.yaml: ")
    assert "did you mean 'temperature'" in told[1]
    assert told[2].startswith("stpl sweep: experiments/mine/a.yaml:2: ")
    assert "mine/b.yaml: the overlay is missing" in told[3]
    assert "unknown experiment 'mine'" in told[4]
    assert "did you mean 'mines'" in told[4]
    assert all("s.yaml" in said and "experiment=mine" in said for said in told)


@pytest.mark.parametrize("name", [".", "..", "/", "/dev/null", "none.yaml", "tabel3"])
def test_what_is_no_sweep_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "check", name]) == 2
    said = capsys.readouterr().err
    assert f"stpl sweep: {name}: " in said
    assert said.count("\n") == 2


# --- status -----------------------------------------------------------------------------------------------------------


def plan_of(work: Path, values: str, seeds: int | None = None, text: str = GRID) -> Sweep:
    return narrow(read_sweep(written(work, f"model.x: {{values: {values}}}", text=text)), None, seeds)


def record(work: Path, name: str, seed: int = 0) -> None:
    key = RunKey("streets", name, seed)
    write_record(key.directory(work / "runs"), record_of(key, 33.0))


def look(work: Path) -> Status:
    (found,) = read_status(default_url(work / "runs", "streets"), work / "runs")
    return found


def begin(work: Path, plan: Sweep) -> GridQueue:
    """What a call of `stpl sweep` does before it runs anything."""
    queue = GridQueue(open_storage(default_url(work / "runs", "streets")), plan, work / "runs")
    queue.mark_recorded(dict.fromkeys(queue.records(), 33.0))
    queue.offer()
    return queue


def test_status_counts_what_the_file_asks_for_now(tmp_path: Path) -> None:
    for x in (1, 2, 3):
        record(tmp_path, f"a,x={x}")
    begin(tmp_path, plan_of(tmp_path, "[1, 2, 3]"))
    assert (look(tmp_path).done, look(tmp_path).total) == (3, 3)
    begin(tmp_path, plan_of(tmp_path, "[1, 4]"))
    found = look(tmp_path)
    assert (found.done, found.total, found.waiting) == (1, 2, 1)
    written(tmp_path, "model.x: {values: [2, 3, 4, 5]}")  # edited since the last call
    assert (look(tmp_path).done, look(tmp_path).total) == (2, 4)
    begin(tmp_path, plan_of(tmp_path, "[1, 2]", seeds=2))
    assert (look(tmp_path).done, look(tmp_path).total) == (2, 4)
    begin(tmp_path, plan_of(tmp_path, "[1, 2]"))
    assert (look(tmp_path).done, look(tmp_path).total) == (2, 2)
    (RunKey("streets", "a,x=2", 0).directory(tmp_path / "runs") / "result.json").unlink()
    assert (look(tmp_path).done, look(tmp_path).total) == (1, 2)


def test_status_of_a_file_that_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path, "a,x=1")
    begin(tmp_path, plan_of(tmp_path, "[1, 2]"))
    (tmp_path / "sweep.yaml").unlink()
    found = look(tmp_path)
    assert (found.done, found.total) == (1, 2)
    assert "sweep.yaml: the counts are of all that it ever asked for" in capsys.readouterr().err


def test_trials_of_an_earlier_version_end_nothing(tmp_path: Path) -> None:
    """Neither their values, which met the target, nor their failures count in the sweep of a changed file."""
    text = GRID.replace("goal: maximize", "goal: maximize, target: 30")
    record(tmp_path, "a,x=1")
    queue = begin(tmp_path, plan_of(tmp_path, "[1, 2]", text=text))
    assert queue.left() == 0
    later = begin(tmp_path, plan_of(tmp_path, "[2, 3]", text=text))
    assert later.left() == 2
    assert (later.ended_early(), later.given_up()) == (0, {})


def test_a_search_that_asks_for_fewer_is_done(tmp_path: Path) -> None:
    text = GRID.replace("method: grid", "method: random\nrun_cap: 3")
    plan = plan_of(tmp_path, "[1, 2, 3, 4]", text=text)
    with opened(default_url(tmp_path / "runs", "streets")) as storage:
        queue = SearchQueue(storage, plan, tmp_path / "runs")
        for _ in range(3):
            queue.claim(lambda trial: 1.0 + 0 * len(queue.job(trial).cells))
        assert queue.left() == 0
        fewer = SearchQueue(
            storage, plan_of(tmp_path, "[1, 2, 3, 4]", text=text.replace("cap: 3", "cap: 1")), queue.runs
        )
        assert fewer.left() == 0
        assert not fewer.offer()
    assert (look(tmp_path).done, look(tmp_path).total) == (1, 1)


def test_values_of_another_metric_are_not_compared(tmp_path: Path) -> None:
    text = GRID.replace("method: grid", "method: random\nrun_cap: 3")
    storage = open_storage(default_url(tmp_path / "runs", "streets"))
    SearchQueue(storage, plan_of(tmp_path, "[1, 2]", text=text), tmp_path / "runs")
    for other in ("val/miou, goal: minimize", "seconds, goal: maximize"):
        changed = plan_of(tmp_path, "[1, 2]", text=text.replace("val/miou, goal: maximize", other))
        with pytest.raises(ConfigError, match="its metric was 'val/miou', to maximize, when this sweep began"):
            SearchQueue(storage, changed, tmp_path / "runs")
