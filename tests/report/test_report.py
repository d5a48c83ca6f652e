from __future__ import annotations

import csv
import shutil
from functools import partial
from pathlib import Path

import pytest

from fake_trial import record_of
from stpl.cli import main
from stpl.commands.report import report as report_all
from stpl.errors import ConfigError, RecordError
from stpl.report import print_table
from stpl.runs.record import RunKey, write_record

report = partial(report_all, page=False)

COLUMNS = (
    "row", "seeds", "miou_last_mean", "miou_last_std", "miou_selected_mean", "miou_best_mean", "delta_vs_source",
    "miou_original_mean", "miou_original_std",
    "original_delta", "original_delta_low", "original_delta_high", "original_delta_se",
    "miou_all_mean", "miou_all_std", "all_delta", "all_delta_low", "all_delta_high", "all_delta_se", "paper_miou",
)  # fmt: skip
TABLES = """
benchmarks: {viper: VIPER→CS, streets: streets}
tables:
  - id: table3
    title: Table 3
    citation: the paper's Table 3
    benchmark: viper
    reference: source_only
    rows:
      - {row: Source-only, experiment: source_only, paper: {viper: 37.1}}
      - {row: Control, experiment: control, overlays: [b]}
      - {row: STPL, experiment: stpl, paper: {viper: 52.5}}
      - {row: "Missing, never run", experiment: missing, overlays: [d], paper: {viper: 45}}
  - id: table4
    title: Table 4
    citation: the paper's Table 4
    benchmark: viper
    reference: source_only
    notes: {streets: Rows are short., viper: Rows are long.}
    rows: [{row: STAM, experiment: stpl}]
"""


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    folder = tmp_path / "experiments"
    (folder / "bench").mkdir(parents=True)
    for bench in ("streets", "viper"):
        (folder / "bench" / f"{bench}.yaml").touch()
    (folder / "tables.yaml").write_text(TABLES)
    return folder


def put(runs: Path, mious: dict[str, list[float]], bench: str = "streets") -> None:
    for experiment, values in mious.items():
        for seed, miou in enumerate(values):
            key = RunKey(bench, experiment, seed)
            write_record(key.directory(runs), record_of(key, miou))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    put(root, {"source_only": [17.0, 18.0], "control": [16.999], "stpl": [40.0, 41.0, 43.5]})
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_numbers_against_hand_computation(runs: Path, experiments: Path) -> None:
    report(runs=runs, experiments=experiments)
    text = (runs / "streets/tables/table3.csv").read_text()
    assert text.splitlines() == [
        ",".join(COLUMNS),
        "Source-only,2,17.50,0.71,18.50,19.50,0.00" + "," * 13 + "37.10",  # std = sqrt(((-.5)² + .5²) / 1)
        "Control,1,17.00,,18.00,19.00,0.00" + "," * 13,  # -0.001 is shown as 0.00, not as -0.00
        "STPL,3,41.50,1.80,42.50,43.50,23.00" + "," * 13 + "52.50",  # std = sqrt((1.5² + .5² + 2²) / 2); 23 twice
        '"Missing, never run",0' + "," * 18 + "45.00",
    ]
    assert list(rows(runs / "streets/tables/table4.csv")[0]) == list(COLUMNS)
    assert rows(runs / "streets/tables/table4.csv")[0]["miou_last_mean"] == "41.50"


def test_markdown_shows_context_on_another_benchmark(runs: Path, experiments: Path) -> None:
    report(runs=runs, experiments=experiments)
    lines = (runs / "streets/tables/table3.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1  # columns line up
    assert "paper (VIPER→CS)" in table[0]
    assert "ours − paper" not in table[0]
    assert "| 41.50 ± 1.80 |" in table[4]
    assert table[5].split("|")[3].strip() == "–"
    notes = "\n".join(lines)
    assert "chosen without labels by entropy" in notes
    assert "context, not a comparison" in notes
    assert "Seeds: 0, 1, 2." in notes
    assert "- Rows are short." in (runs / "streets/tables/table4.md").read_text()


def test_paper_beside_ours_on_the_papers_benchmark(tmp_path: Path, experiments: Path) -> None:
    put(tmp_path / "runs", {"stpl": [50.25]}, "viper")
    report(bench="viper", runs=tmp_path / "runs", experiments=experiments)
    table = (tmp_path / "runs/viper/tables/table3.md").read_text()
    assert "ours − paper" in table
    assert [cell.strip() for cell in table.splitlines()[6].split("|")][1:-1] == [
        "STPL", "1", "50.25", "–", "52.5", "-2.25",
    ]  # fmt: skip


def test_per_class_means_skip_absent_classes(runs: Path, experiments: Path) -> None:
    key = RunKey("streets", "stpl", 0)
    record = record_of(key, 40.0)
    record["last"] = {**record["last"], "iou": {"road": None, "car": 30.0}}
    write_record(key.directory(runs), record)
    report(runs=runs, experiments=experiments)
    found = {row["row"]: row for row in rows(runs / "streets/tables/per_class.csv")}
    assert list(found) == ["Source-only", "Control", "STPL", "Missing, never run"]  # STAM is STPL again
    assert found["STPL"] == {"row": "STPL", "seeds": "3", "miou": "41.50", "road": "52.25", "car": "31.50"}
    assert found["Missing, never run"]["road"] == ""


def test_same_records_give_the_same_bytes(runs: Path, experiments: Path, tmp_path: Path) -> None:
    report(runs=runs, experiments=experiments, output=tmp_path / "one")
    report(runs=runs, experiments=experiments, output=tmp_path / "two")
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert sorted(first) == [
        f"{name}.{kind}" for name in ("per_class", "table3", "table4") for kind in ("csv", "md", "tex")
    ]


def test_changed_settings_are_listed_as_variants(runs: Path, experiments: Path) -> None:
    put(runs, {"stpl,temperature=0.1": [42.0]})
    report(runs=runs, experiments=experiments)
    assert [(row["row"], row["delta_vs_source"]) for row in rows(runs / "streets/tables/variants.csv")] == [
        ("stpl,temperature=0.1", "25.00")
    ]
    assert "paper" not in (runs / "streets/tables/variants.md").read_text()


def test_no_checkpoint_to_choose_from(tmp_path: Path, experiments: Path) -> None:
    key = RunKey("streets", "source_only", 0)
    write_record(key.directory(tmp_path), record_of(key, 17.0, selected=None, best=None))
    report(runs=tmp_path, experiments=experiments)
    assert rows(tmp_path / "streets/tables/table3.csv")[0]["miou_selected_mean"] == ""


def test_nothing_recorded_still_gives_tables(tmp_path: Path, experiments: Path) -> None:
    report(runs=tmp_path, experiments=experiments)
    assert [row["seeds"] for row in rows(tmp_path / "streets/tables/table3.csv")] == ["0"] * 4


def test_deleted_record_leaves_its_row_empty(runs: Path, experiments: Path) -> None:
    shutil.rmtree(runs / "streets/control")
    report(runs=runs, experiments=experiments)
    assert rows(runs / "streets/tables/table3.csv")[1]["seeds"] == "0"


def test_torn_record_is_named(runs: Path, experiments: Path) -> None:
    path = runs / "streets/stpl/seed1/result.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(RecordError, match=r"stpl/seed1/result\.json"):
        report(runs=runs, experiments=experiments)


def test_records_of_different_classes_are_refused(runs: Path, experiments: Path) -> None:
    key = RunKey("streets", "stpl", 2)
    write_record(key.directory(runs), record_of(key, 40.0, classes=["road", "car", "tram"]))
    with pytest.raises(RecordError, match="differ"):
        report(runs=runs, experiments=experiments)


def test_unknown_bench_is_answered(runs: Path, experiments: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'streets'"):
        report(bench="street", runs=runs, experiments=experiments)


def test_an_unknown_table_is_refused_before_anything_is_computed(
    runs: Path, experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None:
        pytest.fail("something was computed")

    for name in ("report.suite.Suite", "report.rows.tables"):
        monkeypatch.setattr(f"stpl.{name}", nothing)
    with pytest.raises(ConfigError, match=r"--only: unknown table 'tabel3'\n.*did you mean 'table3'"):
        report(bench="streets", runs=runs, experiments=experiments, only=["costs", "tabel3"])


def test_a_table_without_records_has_nothing_to_show(runs: Path, experiments: Path) -> None:
    with pytest.raises(ConfigError, match="--only: the table 'shifts' has nothing to show of these runs"):
        report(bench="streets", runs=runs, experiments=experiments, only=["shifts"], page=False)


def test_print_one_table(runs: Path, experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_table("table4", runs=runs, experiments=experiments)
    shown = capsys.readouterr().out
    assert "STAM" in shown
    assert "41.50" in shown
    assert "± 1.80" in shown
    assert "Source-only" not in shown
    assert not (runs / "streets/tables").exists()


def test_terminal_never_cuts_a_number(
    runs: Path, experiments: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    report(runs=runs, experiments=experiments)
    assert "…" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--page=false"], ["--page", "false"]])
def test_a_switch_takes_its_value_either_way(
    words: list[str], runs: Path, experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", f"--runs={runs}", f"--experiments={experiments}", *words]) == 0
    assert "written to" in capsys.readouterr().out
    assert not (runs / "streets/report").exists()


def test_a_bare_switch_is_on(runs: Path, experiments: Path) -> None:
    assert main(["report", f"--runs={runs}", f"--experiments={experiments}", "--page"]) == 0
    assert (runs / "streets/report/index.html").exists()


def test_a_missing_extra_leaves_the_tables(
    runs: Path, experiments: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stpl.commands.report.EXTRA", ("no_such_package",))
    report_all(runs=runs, experiments=experiments)
    assert "pip install 'stpl[report]'" in capsys.readouterr().out
    assert (runs / "streets/tables/table3.csv").exists()
