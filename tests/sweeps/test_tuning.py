"""The search of a row: one setting after the other, extended at its ends, and not run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpl.arguments import Command
from stpl.commands.sweep import sweep_tune
from stpl.errors import ConfigError
from stpl.sweeps import tuning
from stpl.sweeps.schema import read_sweep
from stpl.sweeps.tuning import Coordinate, read_tuning
from sweep_harness import FAKE, prepare

FILE = """
bench: streets
seeds: [0, 1]
settings: {trainer.val_check_interval: 5}
extensions: 2
coordinates:
  model.x: {values: [0.00005, 0.05, 0.1], extend: true}
rows:
  a: {model.colour: {values: [red, green]}}
  b: {}
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tuning, "_COMMAND", ("${env}", "${interpreter}", str(FAKE), "${args}"))
    prepare(tmp_path, monkeypatch)
    (tmp_path / "tune.yaml").write_text(FILE)
    return tmp_path


def tune(*words: str) -> None:
    Command(sweep_tune, "stpl sweep tune").run(["tune.yaml", *words])


@pytest.mark.slow
def test_each_setting_is_searched_at_the_best_of_those_before(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fake is best at x = 0.3 and green: 0.1 is the upper end, so 0.2 and 0.4 are added, and no more than two."""
    tune("--rows=[a]")
    table = (work / "tuning/a.md").read_text().splitlines()
    assert table[0] == "# a: 12 runs"
    assert table[2] == "| model.x | model.colour | seed 0 | seed 1 | mean |"
    settings = [line.split("|")[1:3] for line in table[4:]]
    assert [[cell.strip(" *") for cell in row] for row in settings] == [
        ["5e-05", "red"], ["0.05", "red"], ["0.1", "red"], ["0.2", "red"], ["0.4", "red"], ["0.2", "green"],
    ]  # fmt: skip
    assert table[-1].startswith("| **0.2** | **green** |")
    assert not (work / "tuning/b.md").exists()
    starts = (work / "ledger").read_text()
    tune()
    assert "is there already" in capsys.readouterr().out
    assert (work / "tuning/b.md").exists()
    (work / "tuning/a.md").unlink()
    after = (work / "ledger").read_text()
    tune("--rows=[a]")
    assert (work / "ledger").read_text() == after  # all from records
    assert after.startswith(starts)
    assert (work / "tuning/a.md").read_text().splitlines() == table


@pytest.mark.slow
def test_a_setting_that_fails_is_none_to_choose(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "a,colour=green,trainer.val_check_interval=5,x=0.2"
    monkeypatch.setenv("FAKE_BREAK", f"{broken}:4")  # 4: diverged
    tune("--rows=[a]")
    table = (work / "tuning/a.md").read_text()
    assert "| 0.2 | green |  |  | failed |" in table
    assert "| **0.2** | **red** |" in table


def test_a_list_goes_on_in_its_own_ratio_at_either_end() -> None:
    rates = Coordinate("optimizer.lr", (2e-4, 6e-4, 2e-3), extend=True)
    assert rates.beyond(2e-3, rates.values) == 6.7e-3
    assert rates.beyond(2e-4, rates.values) == 6.7e-5
    assert rates.beyond(6e-4, rates.values) is None
    assert Coordinate("trainer.max_steps", (80, 160)).beyond(160, (80, 160)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("values: [red, green]", "values: [red]"), r"a\.model\.colour: its values are"),
        (("values: [0.00005, 0.05, 0.1]", "values: [0, 0.05, 0.1]"), r"coordinates\.model\.x: its values are"),
        (("values: [red, green]", "valeus: [red]"), "did you mean 'values'"),
        (("bench: streets", "bench: 1"), "1 is not a text"),
        (("seeds: [0, 1]\n", ""), "lacks 'seeds'"),
        (("seeds: [0, 1]", "seeds: [0, 0.5]"), r"'seeds' is \[0, 0.5\]"),
        (("extensions: 2", "extensions: -1"), "'extensions' is -1"),
    ],
)
def test_mistakes_are_named(work: Path, change: tuple[str, str], message: str) -> None:
    (work / "tune.yaml").write_text(FILE.replace(*change))
    with pytest.raises(ConfigError, match=message):
        read_tuning(work / "tune.yaml")


def test_an_unknown_row_is_answered(work: Path) -> None:
    with pytest.raises(ConfigError, match=r"--rows: unknown row"):
        tune("--rows=[aa]")


def test_a_tuning_file_is_no_sweep(work: Path) -> None:
    with pytest.raises(ConfigError, match=r"tune\.yaml: is no sweep file(.|\n)*stpl sweep tune"):
        read_sweep(work / "tune.yaml")
