"""Tables of runs that left arrays beside their records: what is marked, what is exported, what is refused."""

from __future__ import annotations

import csv
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repository import REPOSITORY
from stpl.commands.report import report as report_all
from stpl.errors import ConfigError, RecordError
from stpl.report.sheet import tex
from stpl.runs.record import RunKey, read_record, read_records
from suite_writer import CLASSES, ERRORS, KEYS, iou, scene, write_run, write_suite

report = partial(report_all, page=False, experiments=REPOSITORY / "experiments")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all experiments but stpl_concat, reported."""
    runs = tmp_path_factory.mktemp("suite")
    write_suite(runs)
    report(runs=runs)
    return runs


@pytest.fixture
def copy(suite: Path, tmp_path: Path) -> Path:
    return shutil.copytree(suite, tmp_path / "runs")


def table(runs: Path, name: str) -> list[dict[str, str]]:
    with (runs / "streets/tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def cells(runs: Path, name: str, row: str) -> list[str]:
    lines = (runs / "streets/tables" / f"{name}.md").read_text().splitlines()
    return [cell.strip() for line in lines if line.startswith(f"| {row} ") for cell in line.split("|")[1:-1]]


def test_what_is_significant_is_marked_and_what_is_not_too(suite: Path) -> None:
    stpl = cells(suite, "table3", "STPL")
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d†", stpl[2])  # far above the controls by construction
    assert stpl[5].endswith("*")
    assert re.fullmatch(r"\+\d+\.\d\d \[\+\d+\.\d, \+\d+\.\d\]\*", stpl[6])
    assert "†" not in cells(suite, "table3", "BatchNorm statistics only")[2]
    found = {(t["row"], t["against"]): t for t in table(suite, "tests") if t["table"] == "table3"}
    assert found["STPL", "batchnorm_augmented"]["significant"] == "yes"
    assert found["BatchNorm statistics only", "batchnorm_augmented"]["significant"] == "yes"  # worse than the other one
    assert float(found["BatchNorm statistics only", "batchnorm_augmented"]["difference"]) < 0


def test_differences_are_paired_by_seed(suite: Path) -> None:
    """Mean and standard error over seeds, by hand from the records."""
    mious = {
        name: [record["last"]["miou"] for record in read_records("streets", name, suite)]
        for name in ("stpl", "batchnorm_augmented")
    }
    differences = np.subtract(mious["stpl"], mious["batchnorm_augmented"])
    row = next(row for row in table(suite, "table3") if row["row"] == "STPL")
    assert row["baseline"] == "batchnorm_augmented"
    assert float(row["delta_vs_baseline"]) == pytest.approx(differences.mean(), abs=0.006)
    assert float(row["delta_vs_baseline_se"]) == pytest.approx(differences.std(ddof=1) / 2**0.5, abs=0.006)
    assert float(row["delta_vs_baseline_low"]) < differences.mean() < float(row["delta_vs_baseline_high"])
    test = next(t for t in table(suite, "tests") if (t["row"], t["against"]) == ("STPL", "batchnorm_augmented"))
    assert (test["se"], test["ci_low"]) == (row["delta_vs_baseline_se"], row["delta_vs_baseline_low"])


def test_the_control_is_the_better_one_on_the_rows_own_seeds(tmp_path: Path) -> None:
    """Seed 2 turns the order of the controls round; a row that has no seed 2 is not held against it."""
    errors = {"source_only": 0.6, "batchnorm_statistics": 0.45, "batchnorm_augmented": 0.43, "stpl": 0.3}
    write_suite(tmp_path, errors)
    write_run(tmp_path, "batchnorm_statistics", 2, 0.0, scene(), np.random.default_rng(0), True)
    report(runs=tmp_path)
    against = {row["row"]: row["baseline"] for row in table(tmp_path, "table3")}
    assert against["STPL"] == "batchnorm_augmented"
    assert "Δ control" in (tmp_path / "streets/tables/table3.md").read_text()


def test_rows_that_are_alike_are_said_to_be_so(tmp_path: Path) -> None:
    write_suite(tmp_path, {"source_only": 0.4, "batchnorm_statistics": 0.4, "stpl": 0.2})
    report(runs=tmp_path)
    assert cells(tmp_path, "table3", "BatchNorm statistics only")[5].endswith(" ns")
    found = {(t["row"], t["against"]): t for t in table(tmp_path, "tests")}
    assert found["BatchNorm statistics only", "source_only"]["significant"] == "no"
    low, high = (float(found["BatchNorm statistics only", "source_only"][name]) for name in ("ci_low", "ci_high"))
    assert low < 0 < high


def test_the_best_baseline_never_trains_on_target_labels(suite: Path, tmp_path: Path) -> None:
    """Without controls in the catalogue, it is the best other row."""
    copy = shutil.copytree(REPOSITORY / "experiments", tmp_path / "experiments")
    text = (copy / "tables.yaml").read_text()
    (copy / "tables.yaml").write_text(re.sub(r"\n    controls: .*", "", text))
    report_all(runs=suite, experiments=copy, output=tmp_path / "out", page=False)
    with (tmp_path / "out" / "tests.csv").open(newline="") as file:
        against = {t["row"]: t["against"] for t in csv.DictReader(file) if t["against"] != "source_only"}
    assert against["STPL"] == "naive"
    assert "Oracle" not in against
    assert "Source-only" not in against
    assert "oracle" not in against.values()
    assert "Δ best other" in (tmp_path / "out" / "table3.md").read_text()


def test_differences_of_tests_are_those_of_the_table(suite: Path) -> None:
    deltas = {row["row"]: row["delta_vs_source"] for row in table(suite, "table3")}
    tested = {
        t["row"]: t["difference"]
        for t in table(suite, "tests")
        if (t["table"], t["against"]) == ("table3", "source_only")
    }
    assert tested
    for row, difference in tested.items():
        assert float(difference) == pytest.approx(float(deltas[row]), abs=0.011)
        assert {t["clips"] for t in table(suite, "tests")} == {str(len(KEYS))}


def test_validators_have_columns_between_last_and_best(suite: Path) -> None:
    row = table(suite, "selection")[0]
    assert list(row) == ["row", "seeds", "last", "information_maximization", "entropy", "best"]
    assert row["last"] == row["entropy"]


def test_metrics_are_means_over_seeds(suite: Path) -> None:
    row = next(row for row in table(suite, "metrics") if row["row"] == "STPL")
    assert row["sigma_intra"] == "2.300"
    assert row["purity@10"] == "65.00"
    assert row["vpq@2"] == "38.70"


def statistics_of(run: Path) -> dict[str, Any]:
    with np.load(run / "statistics.npz") as arrays:
        return dict(arrays)


def test_weights_by_statistics(suite: Path, copy: Path) -> None:
    """Means over seeds, by hand; nothing where none was measured."""
    runs = [suite / "streets/stpl" / f"seed{seed}" for seed in range(2)]
    row = {row["weights"]: row for row in table(suite, "statistics")}["stpl"]
    for kind in ("running", "original", "all"):
        mious = [iou(statistics_of(run)[kind].sum(0)).mean() for run in runs]
        assert float(row[kind]) == pytest.approx(np.mean(mious), abs=0.006)
        assert float(row[f"{kind}_std"]) == pytest.approx(np.std(mious, ddof=1), abs=0.006)
    for path in copy.rglob("statistics.npz"):
        path.unlink()
    shutil.rmtree(copy / "streets/tables")
    report(runs=copy)
    assert not (copy / "streets/tables/statistics.csv").exists()


@pytest.mark.parametrize("fault", ["torn", "old", "short"])
def test_torn_or_foreign_statistics_are_named(copy: Path, fault: str) -> None:
    path = copy / "streets/stpl/seed1/statistics.npz"
    arrays = statistics_of(path.parent)
    if fault == "torn":
        path.write_bytes(path.read_bytes()[:200])
    else:
        np.savez(path, **(arrays | ({"step": np.array(20)} if fault == "old" else {"all": arrays["all"][1:]})))
    with pytest.raises(RecordError, match=r"stpl/seed1/statistics\.npz"):
        report(runs=copy)


def test_cameras_side_by_side(copy: Path) -> None:
    """Each is held against the better control before the same camera."""
    runs = {"batchnorm_statistics": (0.5, 0.5), "batchnorm_augmented": (0.3, 0.4), "stpl": (0.2, 0.2)}
    mious: dict[str, list[float]] = {}
    for name, errors in runs.items():
        for seed, error in enumerate(errors):
            experiment, settings = f"{name},data.options.shift=fog", {"data.options.shift": "fog"}
            random = np.random.default_rng(seed)
            write_run(copy, experiment, seed, error, scene(), random, True, settings)
            record = read_record(RunKey("streets", experiment, seed).directory(copy))
            assert record is not None
            mious.setdefault(name, []).append(record["last"]["miou"])
    often = {"data.options.shift": "fog", "trainer.val_check_interval": "20"}  # no row of a table, evaluated more often
    write_run(copy, "affine_teacher,fog,often", 0, 0.1, scene(), np.random.default_rng(0), True, often)
    report(runs=copy)
    found = {row["row"]: row for row in table(copy, "shifts")}
    assert list(found) == ["batchnorm_statistics", "batchnorm_augmented", "stpl", "affine_teacher"]
    assert found["affine_teacher"]["fog_delta_control"]
    differences = np.subtract(mious["stpl"], mious["batchnorm_augmented"])
    assert float(found["stpl"]["fog"]) == pytest.approx(np.mean(mious["stpl"]), abs=0.006)
    assert float(found["stpl"]["fog_delta_control"]) == pytest.approx(differences.mean(), abs=0.006)
    assert float(found["stpl"]["fog_delta_control_se"]) == pytest.approx(differences.std(ddof=1) / 2**0.5, abs=0.006)
    assert float(found["stpl"]["camera"]) == float(
        next(r for r in table(copy, "table3") if r["row"] == "STPL")["miou_last_mean"]
    )


def test_latex_is_a_booktabs_table_of_the_same_numbers(suite: Path) -> None:
    for path in (suite / "streets/tables").glob("*.tex"):
        text = path.read_text()
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
        columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
        assert columns
        assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {len(columns[1])}
        assert text.count("{") == text.count("}")
        assert not re.search(r"(?<!\\)[_#%](?!.*booktabs)", "\n".join(body))
        assert len(body) == len(path.with_suffix(".csv").read_text().splitlines()) - 1
    assert r"$\pm$" in (suite / "streets/tables/table3.tex").read_text()


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("a_b & 50%", r"a\_b \& 50\%"),
        ("-2.25", "$-$2.25"),
        ("+1.50*", "+1.50$^{*}$"),
        ("VIPER→CS ~ ^ \\ {x}", r"VIPER$\rightarrow$CS \textasciitilde{} \textasciicircum{} \textbackslash{} \{x\}"),
        ("non-empty", "non-empty"),
    ],
)
def test_text_for_latex(plain: str, expected: str) -> None:
    assert tex(plain) == expected


def test_runs_without_arrays_are_reported_as_before(tmp_path: Path) -> None:
    write_suite(tmp_path, artifacts=False)
    report(runs=tmp_path)
    assert {path.stem for path in (tmp_path / "streets/tables").iterdir()} == {"table3", "table4", "per_class"}
    assert "±" in cells(tmp_path, "table3", "STPL")[2]
    assert not set("†*") & set("".join(cells(tmp_path, "table3", "STPL")))


def test_counts_that_are_not_the_records_are_refused(copy: Path) -> None:
    path = copy / "streets/stpl/seed1/evaluation.npz"
    with np.load(path) as arrays:
        keys, confusions = arrays["keys"], arrays["confusions"]
    np.savez_compressed(path, keys=keys, confusions=confusions[:, ::-1])
    with pytest.raises(RecordError, match=r"stpl/seed1/evaluation\.npz: it counts .* the record says"):
        report(runs=copy)


def test_seeds_on_different_clips_are_refused(copy: Path) -> None:
    path = copy / "streets/stpl/seed1/evaluation.npz"
    with np.load(path) as arrays:
        np.savez_compressed(path.with_name("other.npz"), keys=arrays["keys"][::-1], confusions=arrays["confusions"])
    path.with_name("other.npz").replace(path)
    with pytest.raises(RecordError, match=r"seed1/evaluation\.npz: its clips are not those of seed 0"):
        report(runs=copy)


@pytest.mark.parametrize("fault", ["torn", "no array", "no numbers"])
def test_a_broken_array_file_is_named(copy: Path, fault: str) -> None:
    path = copy / "streets/naive/seed0/evaluation.npz"
    if fault == "torn":
        path.write_bytes(path.read_bytes()[:200])
    elif fault == "no array":
        np.savez(path, keys=np.array(KEYS))
    else:
        np.savez(path, keys=np.array(KEYS), confusions=np.array([object()]), allow_pickle=True)
    with pytest.raises(RecordError, match=r"naive/seed0/evaluation\.npz"):
        report(runs=copy)


def test_unknown_row_to_stress_is_answered(suite: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'stpl'"):
        report_all(runs=suite, experiments=REPOSITORY / "experiments", output=tmp_path, chosen="stlp")


def test_writer_and_space_agree() -> None:
    assert len(CLASSES) == 15
    assert "stpl_concat" not in ERRORS
