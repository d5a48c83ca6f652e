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
import scipy.stats
from numpy.typing import NDArray

from repository import REPOSITORY
from stpl.commands.report import report as report_all
from stpl.errors import ConfigError, RecordError
from stpl.report import print_table
from stpl.report.sheet import tex
from stpl.runs.record import RunKey, read_record
from suite_writer import CLASSES, ERRORS, KEYS, iou, scene, write_run, write_suite

report = partial(report_all, page=False, experiments=REPOSITORY / "experiments")
SEEDS = 5


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all experiments but stpl_concat, reported."""
    runs = tmp_path_factory.mktemp("suite")
    write_suite(runs, ERRORS | {"self_training": ERRORS["source_only"]}, seeds=SEEDS)
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


KINDS = ("original", "all")


def differences_of(runs: Path, row: str, kind: str) -> NDArray[np.float64]:
    """Of mIoU to the source model's weights with the same statistics, by hand from the arrays, by seed."""
    folders = [[runs / "streets" / name / f"seed{seed}" for seed in range(SEEDS)] for name in (row, "source_only")]
    ours, theirs = ([iou(statistics_of(run)[kind].sum(0)).mean() for run in runs] for runs in folders)
    return np.subtract(ours, theirs)


def test_what_is_significant_is_marked_and_what_is_not_too(suite: Path) -> None:
    stpl = cells(suite, "table3", "STPL")
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", stpl[2])
    for delta in (stpl[5], stpl[7]):
        assert re.fullmatch(r"\+\d+\.\d\d\* \[\+\d+\.\d, \+\d+\.\d\]", delta)  # far above, by construction
    alike = cells(suite, "table3", "Vanilla self-training")
    assert alike[5].split()[1] == alike[7].split()[1] == "ns"  # as good as the source model, by construction
    # The control has the weights of the source model: its differences are told and not tested.
    assert not re.search(r"\*|ns", " ".join(cells(suite, "table3", "BatchNorm statistics only")[1:]))
    found = {(t["row"], t["statistics"]): t["significant"] for t in table(suite, "tests")}
    assert [found["STPL", kind] for kind in KINDS] == ["yes", "yes"]
    assert [found["Vanilla self-training", kind] for kind in KINDS] == ["no", "no"]
    assert not {"Source-only", "BatchNorm statistics only"} & {row for row, _ in found}


@pytest.mark.parametrize("kind", KINDS)
def test_differences_are_to_the_control_of_the_same_column_and_paired_by_seed(suite: Path, kind: str) -> None:
    """Mean, standard error, t interval and p over source models, against scipy's."""
    differences = differences_of(suite, "stpl", kind)
    expected = scipy.stats.ttest_1samp(differences, 0)
    ends = expected.confidence_interval()
    row = next(row for row in table(suite, "table3") if row["row"] == "STPL")
    test = next(t for t in table(suite, "tests") if (t["row"], t["statistics"]) == ("STPL", kind))
    names = ("", "_low", "_high", "_se")
    found = [float(row[f"{kind}_delta{name}"]) for name in names]
    assert found == pytest.approx([differences.mean(), *ends, scipy.stats.sem(differences)], abs=0.006)
    assert found == [float(test[name]) for name in ("difference", "ci_low", "ci_high", "se")]
    assert float(test["p"]) == pytest.approx(expected.pvalue, abs=6e-5)
    assert float(test["p_signs"]) == pytest.approx(2 / 2**SEEDS, abs=6e-5)
    assert float(test["nested_low"]) < differences.mean() < float(test["nested_high"])
    assert (test["experiment"], test["against"], test["source_models"]) == ("stpl", "source_only", str(SEEDS))


def test_one_run_has_one_verdict_in_all_tables(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The family is the report: each run counts once in it, and a table that is printed alone says the same."""
    tests = table(suite, "tests")
    assert len({(t["experiment"], t["statistics"]) for t in tests}) == len(tests)
    ps = sorted(float(t["p"]) for t in tests)
    assert float(max(tests, key=lambda t: float(t["p"]))["p_holm"]) >= ps[-1]
    least = min(tests, key=lambda t: float(t["p_holm"]))
    assert float(least["p_holm"]) == pytest.approx(min(1, ps[0] * len(tests)), abs=len(tests) * 1e-4)
    assert cells(suite, "table3", "STPL")[3:8] == cells(suite, "table4", "STAM")[3:8]
    print_table("table4", runs=suite, experiments=REPOSITORY / "experiments")
    shown = capsys.readouterr().out
    assert all(delta.split()[0] in shown for delta in (cells(suite, "table4", "STAM")[i] for i in (5, 7)))


def test_the_page_says_the_verdicts_of_the_tables(suite: Path, tmp_path: Path) -> None:
    rows = (("stpl", "STPL", "significant"), ("self_training", "Vanilla self-training", "not significant"))
    for chosen, title, said in rows:
        report_all(runs=suite, experiments=REPOSITORY / "experiments", output=tmp_path / chosen, chosen=chosen)
        page = " ".join(re.sub(r"<[^>]*>", " ", (tmp_path / chosen / "index.html").read_text()).split())
        row = next(row for row in table(suite, "table3") if row["row"] == title)
        for kind, which in (("original", "With original"), ("all", "with augmented")):
            delta = f"{float(row[f'{kind}_delta']):+.2f}"
            assert f"{which} statistics its weights differ from those of the source model by {delta} ({said})" in page


def test_too_few_source_models_have_no_mark_and_one_claims_nothing(tmp_path: Path) -> None:
    write_suite(tmp_path, {"source_only": 0.6, "stpl": 0.2}, seeds=4)
    write_run(tmp_path, "spatial", 0, 0.2, scene(), np.random.default_rng(0), True)
    report(runs=tmp_path)
    text = (tmp_path / "streets/tables/table3.md").read_text()
    assert re.fullmatch(r"\+\d+\.\d\d \[\+\d+\.\d, \+\d+\.\d\]", cells(tmp_path, "table3", "STPL")[5])
    assert re.fullmatch(r"\+\d+\.\d\d", cells(tmp_path, "table3", "Spatial-only CL")[5])
    assert "fewer than 5 source models has no mark" in text
    assert "significantly" not in text
    tests = {t["row"]: t for t in table(tmp_path, "tests") if t["statistics"] == "all"}
    assert (tests["STPL"]["p_holm"], tests["STPL"]["significant"]) == ("", "")
    assert [tests["Spatial-only CL"][name] for name in ("ci_low", "se", "p", "p_signs", "nested_low")] == [""] * 5


def test_runs_that_were_not_measured_show_nothing_and_are_named(suite: Path, copy: Path) -> None:
    for seed in range(SEEDS):
        (copy / "streets/naive" / f"seed{seed}" / "statistics.npz").unlink()
    (copy / "streets/spatial/seed0/statistics.npz").unlink()
    report(runs=copy)
    assert cells(copy, "table3", "Naive T+S CL")[4:8] == ["–"] * 4
    assert cells(copy, "table3", "Naive T+S CL")[2] == cells(suite, "table3", "Naive T+S CL")[2]
    text = (copy / "streets/tables/table3.md").read_text()
    assert "in all runs with both kinds of statistics: Spatial-only CL, Naive T+S CL. `stpl weights statistics" in text
    spatial = next(t for t in table(copy, "tests") if t["experiment"] == "spatial")
    assert spatial["source_models"] == str(SEEDS - 1)


def test_seeds_of_one_source_model_are_not_taken_for_several(copy: Path) -> None:
    name = "stpl,start_seed=0"
    for seed in range(SEEDS):
        write_run(copy, name, seed, 0.2, scene(), np.random.default_rng(seed), True, {"start_seed": "0"})
    report(runs=copy)
    row = next(row for row in table(copy, "variants") if row["row"] == name)
    assert row["miou_all_mean"]
    assert row["all_delta"] == ""


def test_validators_have_columns_between_last_and_best(suite: Path) -> None:
    row = table(suite, "selection")[0]
    assert list(row) == ["row", "seeds", "last", "information_maximization", "entropy", "best"]
    assert row["last"] == row["entropy"]


def test_metrics_are_means_over_seeds(suite: Path) -> None:
    row = next(row for row in table(suite, "metrics") if row["row"] == "STPL")
    assert row["sigma_intra"] == "2.300"
    assert row["purity@10"] == "65.00"
    assert row["vpq@2"] == "38.70"


def test_video_quality_by_class_and_what_pseudo_labels_are_worth(suite: Path) -> None:
    row = next(row for row in table(suite, "per_class_vpq") if row["row"] == "STPL")
    assert row["vpq"] == "38.20"
    assert row["road"] == ""  # absent
    assert row["sidewalk"] == "30.00"
    labels = next(row for row in table(suite, "pseudo_labels") if row["experiment"] == "stpl")
    assert (labels["pseudo_share"], labels["pseudo_miou"]) == ("30.0", "59.70")


def statistics_of(run: Path) -> dict[str, Any]:
    with np.load(run / "statistics.npz") as arrays:
        return dict(arrays)


def test_weights_by_statistics(suite: Path, copy: Path) -> None:
    """Means over seeds, by hand; nothing where none was measured."""
    runs = [suite / "streets/stpl" / f"seed{seed}" for seed in range(SEEDS)]
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
    """Each is held against the source model's weights before the same camera, with its own kind of statistics."""
    own = {"source_only": "running", "batchnorm_augmented": "all", "self_training": "original", "stpl": "all"}
    mious: dict[str, list[float]] = {}
    for number, (name, kind) in enumerate(own.items()):
        for seed in range(3 if name == "stpl" else 2):
            experiment, settings = f"{name},data.options.shift=fog", {"data.options.shift": "fog"}
            random = np.random.default_rng([number, seed])
            write_run(copy, experiment, seed, 0.5 - number / 10, scene(), random, True, settings, kind)
            record = read_record(RunKey("streets", experiment, seed).directory(copy))
            assert record is not None
            mious.setdefault(name, []).append(record["last"]["miou"])
    often = {"data.options.shift": "fog", "trainer.val_check_interval": "20"}  # no row of a table, evaluated more often
    write_run(copy, "affine_teacher,fog,often", 0, 0.1, scene(), np.random.default_rng(0), True, often, "all")
    report(runs=copy)
    found = {row["row"]: row for row in table(copy, "shifts")}
    assert list(found) == ["source_only", "batchnorm_augmented", "self_training", "stpl", "affine_teacher"]
    assert found["affine_teacher"]["fog_delta_control"]
    assert found["source_only"]["fog_delta_control"] == found["batchnorm_augmented"]["fog_delta_control"] == ""
    source = [copy / "streets/source_only,data.options.shift=fog" / f"seed{seed}" for seed in range(2)]
    for name in ("self_training", "stpl"):
        differences = np.subtract(mious[name][:2], [iou(statistics_of(run)[own[name]].sum(0)).mean() for run in source])
        assert float(found[name]["fog"]) == pytest.approx(np.mean(mious[name]), abs=0.006)
        assert float(found[name]["fog_delta_control"]) == pytest.approx(differences.mean(), abs=0.006)
        assert float(found[name]["fog_delta_control_se"]) == pytest.approx(scipy.stats.sem(differences), abs=0.006)
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
    assert "*" not in "".join(cells(tmp_path, "table3", "STPL"))


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
