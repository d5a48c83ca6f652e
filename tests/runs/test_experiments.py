from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from repository import REPOSITORY
from stpl.data.label_space import label_space
from stpl.errors import ConfigError
from stpl.runs.experiments import benches, load_catalogue, overlays
from stpl.yaml_files import load_yaml

TABLES = """
benchmarks: {viper: VIPER→CS}
tables:
  - id: table3
    title: Objective functions
    citation: the paper
    benchmark: viper
    reference: source_only
    rows:
      - {row: Source-only, experiment: source_only, overlays: [method/source_only], paper: {viper: 37.1}}
      - {row: Oracle, experiment: oracle, overlays: ["bench/{bench}.training", method/oracle]}
  - id: table4
    title: Fusion
    citation: the paper
    benchmark: viper
    reference: source_only
    rows:
      - {row: Again, experiment: oracle}
experiments:
  source: {overlays: [method/source]}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "base",
        "bench/streets",
        "bench/streets.training",
        "bench/viper",
        "method/source_only",
        "method/oracle",
    ):
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("trainer: {max_steps: 1}\n")
    (tmp_path / "tables.yaml").write_text(TABLES)
    return tmp_path


def names(paths: list[Path], root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in paths]


def test_overlays_in_order(root: Path) -> None:
    assert names(overlays("source_only", "streets", [root]), root) == [
        "base.yaml", "bench/streets.yaml", "method/source_only.yaml",
    ]  # fmt: skip
    assert names(overlays("oracle", "streets", [root]), root)[2:] == [
        "bench/streets.training.yaml",
        "method/oracle.yaml",
    ]


def test_settings_of_one_row_on_one_benchmark_come_last(root: Path) -> None:
    (root / "bench" / "streets.source_only.yaml").write_text("trainer: {max_steps: 2}\n")
    assert names(overlays("source_only", "streets", [root]), root)[-1] == "bench/streets.source_only.yaml"
    shipped = [REPOSITORY / "experiments"]
    assert overlays("tps", "viper", shipped)[-1].name == "viper.tps.yaml"
    assert overlays("tps", "synthia", shipped)[-1].name == "synthia.uda.yaml"


def test_benches_are_the_overlays_without_training(root: Path) -> None:
    assert benches([root]) == ["streets", "viper"]


def test_a_benchmark_may_be_like_another_one(root: Path) -> None:
    """It has all of the other's overlays, each followed by its own where there is one."""
    like = "benchmarks: {viper: VIPER→CS, mine: {title: Mine, like: streets}}"
    (root / "tables.yaml").write_text(TABLES.replace("benchmarks: {viper: VIPER→CS}", like))
    for name in ("mine", "mine.training", "streets.oracle"):
        (root / "bench" / f"{name}.yaml").write_text("trainer: {max_steps: 2}\n")
    assert names(overlays("oracle", "mine", [root]), root) == [
        "base.yaml", "bench/streets.yaml", "bench/mine.yaml", "bench/streets.training.yaml",
        "bench/mine.training.yaml", "method/oracle.yaml", "bench/streets.oracle.yaml",
    ]  # fmt: skip
    catalogue = load_catalogue([root])
    assert (catalogue.benchmarks["mine"], catalogue.like) == ("Mine", {"mine": "streets"})
    (root / "tables.yaml").write_text(
        TABLES.replace("benchmarks: {viper: VIPER→CS}", like.replace("like: s", "like: "))
    )
    with pytest.raises(ConfigError, match=r"unknown benchmark 'treets'.*\n.*did you mean 'streets'"):
        overlays("oracle", "mine", [root])
    circle = like.replace("viper: VIPER→CS", "streets: {title: S, like: mine}")
    (root / "tables.yaml").write_text(TABLES.replace("benchmarks: {viper: VIPER→CS}", circle))
    with pytest.raises(ConfigError, match="benchmark streets is like mine, which is like streets"):
        load_catalogue([root])
    (root / "tables.yaml").write_text(TABLES.replace("benchmarks: {viper: VIPER→CS}", like.replace("like", "lik")))
    with pytest.raises(ConfigError, match="benchmark mine: unknown key 'lik'"):
        load_catalogue([root])


def test_an_ablation_has_the_settings_of_its_method(root: Path) -> None:
    shipped = [REPOSITORY / "experiments"]
    assert [path.name for path in overlays("vst_clip", "streets-long", shipped)][2:] == [
        "streets-long.yaml", "vst_clip.yaml", "streets.vat_vst.yaml"
    ]  # fmt: skip
    assert [path.name for path in overlays("vst_clip", "vps", shipped)][-1] == "vst_clip.yaml"


def test_missing_overlay_is_named(root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        overlays("source", "viper", [root])
    assert str(root / "method/source.yaml") in str(caught.value)
    with pytest.raises(ConfigError, match=r"viper\.training"):
        overlays("oracle", "viper", [root])


def test_unknown_names_are_answered_with_did_you_mean(root: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown experiment 'orakel'.*\n.*did you mean 'oracle'\? known: oracle, source"
    ):
        overlays("orakel", "streets", [root])
    with pytest.raises(ConfigError, match=r"unknown benchmark 'street'.*\n.*did you mean 'streets'"):
        overlays("oracle", "street", [root])
    with pytest.raises(ConfigError, match="did you mean 'table3'"):
        load_catalogue([root]).table("tabel3")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("    title: Fusion\n", "", "table table4: lacks 'title'"),
        ("citation:", "citatoin:", "did you mean 'citation'"),
        ("paper: {viper: 37.1}", "paper: {viper: high}", "row 'Source-only': 'high' is not a number"),
        ("experiment: oracle}", "experiment: orakle}", "did you mean 'oracle'"),
        ("experiment: oracle}", "experiment: oracle, overlays: [method/x]}", "has the overlays ['method/x'] here"),
        ("overlays: [method/source]", "overlays: method/source", "is not a list"),
        ("    rows:\n", "    rows: 3\n    nothing:\n", "unknown key 'nothing'"),
    ],
)
def test_faults_in_the_catalogue_are_named(root: Path, old: str, new: str, fault: str) -> None:
    assert old in TABLES
    (root / "tables.yaml").write_text(TABLES.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_catalogue([root])
    assert fault in str(caught.value)
    assert str(root / "tables.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: [1\nc: 2\n", ":3: "),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", ":4: the key 'c' is given twice"),
        ("- 1\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("1: 2\n", "must be a mapping"),
        ("a: !!python/object:os.system {}\n", ":1: "),
        ("a: \x07\n", "is not YAML"),
    ],
)
def test_yaml_faults_name_file_and_line(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)
    assert fault in str(caught.value)


def test_missing_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_yaml(tmp_path / "none.yaml")


def test_merge_keys_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a {b: 1}\nc:\n  <<: *a\n  b: 2\n")
    assert load_yaml(tmp_path / "x.yaml")["c"] == {"b": 2}


def test_the_catalogue_states_the_papers_rows() -> None:
    catalogue = load_catalogue([REPOSITORY / "experiments"])
    rows = {table.id: {row.title: row.paper.get("viper") for row in table.rows} for table in catalogue.tables}
    assert rows["table3"] == {
        "Source-only": 37.1, "BatchNorm statistics only": None, "Augmented statistics only": None,
        "Vanilla self-training": 45.4, "Duplicate CL": 45.7,
        "Temporal-only CL": 47.4, "Spatial-only CL": 51.1, "Naive T+S CL": 51.4, "STPL": 52.5, "Oracle": 69.9,
    }  # fmt: skip
    assert rows["table4"] == {
        "Element-wise addition": 51.4, "1x1 convolution layer": 51.8, "Concatenation": 52.3, "STAM": 52.5,
    }  # fmt: skip
    assert catalogue.table("table4").rows[-1].experiment == "stpl"


def test_the_papers_means_are_those_of_its_classes() -> None:
    catalogue = load_catalogue([REPOSITORY / "experiments"])
    tables = [catalogue.table(name) for name in ("table1", "table2", "vatvst1")]
    stated = [(row, bench) for table in tables for row in table.rows for bench in row.paper_iou]
    assert len(stated) == 28 + 10
    for row, bench in stated:
        values = row.paper_iou[bench]
        # Both are rounded to one digit, so the two may differ by twice half a digit.
        assert sum(values) / len(values) == pytest.approx(row.paper[bench], abs=0.1), (row.title, bench)


def test_paper_classes_are_the_reported_ones() -> None:
    classes = load_catalogue([REPOSITORY / "experiments"]).paper_classes
    for bench, name in (("viper", "viper15"), ("synthia", "synthia12"), ("vps", "vps15")):
        space = label_space(name)
        assert classes[bench] == tuple(space.classes[i] for i in space.reported)


def test_tables_1_and_2_are_those_of_their_benchmarks() -> None:
    catalogue = load_catalogue([REPOSITORY / "experiments"])
    shown = [table for table in catalogue.tables if table.shown_on("streets")]
    assert [table.id for table in shown] == ["table1", "table3", "table4", "baselines"]
    assert [table.id for table in shown if table.optional_on("streets")] == ["table1", "baselines"]
    assert [table.id for table in catalogue.tables if table.shown_on("synthia")] == [
        "table2",
        "table3",
        "table4",
        "baselines",
    ]


@pytest.mark.slow
def test_what_only_reads_results_imports_no_torch() -> None:
    modules = "stpl.runs.record, stpl.runs.experiments, stpl.report, stpl.sweeps, stpl.sweeps.claims"
    code = f"import sys, {modules}\nprint(sorted({{'torch', 'lightning'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_listing_recorded_cells_does_not_import_optuna() -> None:
    code = "import sys, stpl.sweeps, stpl.report\nprint('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
