"""The curves over k and τ, read from records alone."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

from fake_trial import record_of
from repository import REPOSITORY
from stpl.commands.report import report
from stpl.report.changed_settings import sensitivity_sheet
from stpl.report.suite import Suite
from stpl.runs.experiments import load_catalogue
from stpl.runs.record import RunKey, experiment_name, write_record

EXPERIMENTS = REPOSITORY / "experiments"


def record(runs: Path, miou: float, seed: int = 0, base: str = "stpl", **settings: str) -> None:
    overrides = {f"model.{name}": value for name, value in settings.items()}
    key = RunKey("streets", experiment_name(base, overrides), seed)
    full = overrides | {"seed_everything": str(seed), "data.root": "/anywhere"}
    write_record(key.directory(runs), record_of(key, miou, overrides=full))


def test_values_of_a_setting_in_order_with_mean_and_spread(tmp_path: Path) -> None:
    record(tmp_path, 50.0)  # nothing changed
    for seed, miou in enumerate((41.0, 43.5, 42.25)):
        record(tmp_path, miou, seed, temperature="0.5")
        record(tmp_path, miou - 2, seed, temperature="0.07")
    record(tmp_path, 44.0, temperature="1e-2")
    record(tmp_path, 45.0, temperature="0.07", confident_proportion="0.5")  # two settings changed
    record(tmp_path, 46.0, confident_proportion="0.5")  # one value makes no curve
    record(tmp_path, 47.0, base="naive", temperature="0.5")
    sheet = sensitivity_sheet(Suite("streets", tmp_path, load_catalogue([EXPERIMENTS])))
    assert sheet is not None
    spread = f"{statistics.stdev((41.0, 43.5, 42.25)):.2f}"
    assert [list(row) for row in sheet.csv_rows] == [
        ["model.temperature", "1e-2", "1", "44.00", ""],
        ["model.temperature", "0.07", "3", "40.25", spread],
        ["model.temperature", "0.5", "3", "42.25", spread],
    ]


def test_report_writes_it_where_there_is_any(tmp_path: Path) -> None:
    path = tmp_path / "streets/tables/sensitivity.csv"
    record(tmp_path, 50.0)
    report(runs=tmp_path, experiments=EXPERIMENTS, page=False)
    assert not path.exists()
    for k in ("0.5", "0.7"):
        record(tmp_path, 40.0, confident_proportion=k)
    report(runs=tmp_path, experiments=EXPERIMENTS, page=False)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["parameter", "value", "seeds", "miou_mean", "miou_std"]
    assert [row[:2] for row in rows[1:]] == [
        ["model.confident_proportion", "0.5"], ["model.confident_proportion", "0.7"],
    ]  # fmt: skip
