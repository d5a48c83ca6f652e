"""The paper's two benchmarks from the command line, on tiny data sets in their true layout: data, training, tables."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from repository import REPOSITORY
from stpl.cli import main
from stpl.runs.experiments import load_catalogue
from stpl.runs.record import RunKey

pytestmark = pytest.mark.slow

LIGHT: dict[str, dict[str, Any]] = {
    "network": {"architecture": {"init_args": {"depth": 18, "width": 8, "dilations": [1, 2], "auxiliary": True}}},
    "data": {"init_args": {"target_size": [64, 128], "source_size": [64, 128], "loading": {"num_workers": 0}}},
    "trainer": {"max_steps": 2, "val_check_interval": 2},
}


def merge(base: dict[str, Any], light: dict[str, Any]) -> dict[str, Any]:
    return base | {k: merge(base.get(k, {}), v) if isinstance(v, dict) else v for k, v in light.items()}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the shipped overlays and sweeps, of which the benchmarks are made small."""
    for name in ("experiments", "sweeps"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    for path in (tmp_path / "experiments/bench").glob("*.yaml"):
        light = {
            "": LIGHT,
            "training": {"trainer": LIGHT["trainer"]},
            "oracle": {"trainer": LIGHT["trainer"]},
            "source": {"model": {"init_args": {"checkpoint": None}}},
            "uda": {"model": {"init_args": {"checkpoint": None}}, "trainer": LIGHT["trainer"]},
        }.get(path.stem.partition(".")[2], {})
        path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), light)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STPL_RUNS", str(tmp_path / "runs"))
    return tmp_path


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must succeed; what it printed."""

    def run(*words: str) -> str:
        assert main(words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.mark.long
@pytest.mark.parametrize("bench", ["viper", "synthia"])
def test_data_sets_and_tables(bench: str, workplace: Path, check: Callable[..., str]) -> None:
    """Every row that runs, each in the way `stpl sweep` runs it, then the tables.

    On SYNTHIA rows that use each of its overlays: what else differs is the data set.
    """
    for name in (bench, "cityscapes"):
        check("data", "fake", name, "--root=data", "--size=64,128", "--clips=2")
        for split in ("train", "val") if name == "cityscapes" else ("train",):
            check("data", "flow", name, "--root=data", f"--split={split}", "--size=64,128", "--workers=1")
            said = check("data", "check", name, "--root=data", f"--split={split}", "--size=64,128", "--workers=1")
            assert "flow" in said
    catalogue = load_catalogue([workplace / "experiments"])
    rows = {
        row.experiment for name in ("table1", "table3", "table4", "baselines") for row in catalogue.table(name).rows
    }
    few = {"source_only", "self_training", "stpl", "rda", "tps_target", "oracle"}
    run = {name for name in rows if name and (bench == "viper" or name in few)}
    for experiment in ("source", "vat", *sorted(run)):
        files = "files" if experiment == "stpl" else "estimated"  # the lineage's files and our cache are both read
        check("fit", f"--bench={bench}", f"--experiment={experiment}", "--data.root=data",
              f"--run.experiment={experiment}", f"--data.flow={files}", "--trainer.precision=32-true")  # fmt: skip
        record = RunKey(bench, experiment, 0).read(workplace / "runs")
        assert record is not None
        assert len(record["classes"]) == {"viper": 15, "synthia": 12}[bench]
    said = check("report", f"--bench={bench}")
    with Path(f"runs/{bench}/tables/table3.csv").open() as file:
        table = {row["row"]: row for row in csv.DictReader(file)}
    shown = [row for row in table.values() if row["miou_last_mean"]]
    assert all(row["seeds"] == "1" and float(row["miou_last_mean"]) >= 0 for row in shown)
    assert len(shown) == (len(table) if bench == "viper" else 4)
    assert table["STPL"]["paper_miou"] == {"viper": "52.50", "synthia": "51.80"}[bench]
    own = {"viper": "Table 1", "synthia": "Table 2"}[bench]
    assert own in said
    alone = check("report", f"--bench={bench}", "--page=false", "--only=[costs]")
    assert "RDA (image, UDA)" in alone
    assert own not in alone
    with Path(f"runs/{bench}/tables/costs.csv").open() as file:
        costs = {row["row"]: (row["source"], row["video"], row["steps"]) for row in csv.DictReader(file)}
    assert costs["RDA (image, UDA)"] == ("yes", "no", "2")
    assert costs["TPS* (video, SFDA)"] == ("no", "yes", "2")
    assert costs["Source-only"] == ("no", "no", "0")
    per_class = Path(f"runs/{bench}/tables/per_class.csv").read_text()
    assert "STPL (paper),0," in per_class
    out = check("predict", f"--bench={bench}", "--data.root=data", "--out=predictions",
                f"--network=runs/{bench}/stpl/seed0/checkpoints/last.ckpt")  # fmt: skip
    assert len(list(Path("predictions").glob("*_pred_labelIds.png"))) == 2, out


@pytest.mark.long
def test_every_row_of_vat_vst_s_paper(workplace: Path, check: Callable[..., str]) -> None:
    """On Cityscapes-VPS, frame by frame, one step each, in the order of its sweeps; then its tables."""
    check("data", "fake", "viper", "--root=data", "--size=64,128", "--clips=2")
    check("data", "fake", "vps", "--root=data", "--size=64,128")
    sweeps = [yaml.safe_load(Path(f"sweeps/{name}.yaml").read_text()) for name in ("vatvst-start", "vatvst")]
    rows = [name for sweep in sweeps for name in sweep["parameters"]["experiment"]["values"]]
    short = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.precision=32-true"]
    for experiment in ("source", *rows):
        check("fit", "--bench=vps", f"--experiment={experiment}", f"--run.experiment={experiment}", *short)
    record = RunKey("vps", "vat_vst", 0).read(workplace / "runs")
    assert record is not None
    assert record["classes"][4] == "pole"
    assert set(record["last"]["temporal"]["vpq"]) == {"1", "2", "3", "4"}
    judged = ["--model.share=0.3", "--model.rounds=1", "--run.judge_labels=true"]
    check("fit", "--bench=vps", "--experiment=vst_clip", *judged, *short)
    said = check("report", "--bench=vps", "--page=false", "--only=[vatvst1,vatvst4,per_class_vpq,pseudo_labels]")
    for part in ("VAT-VST, Tables 1 and 2: systems", "45.5", "Per-class VPQ", "Pseudo-labels"):
        assert part in said
    with Path("runs/vps/tables/pseudo_labels.csv").open() as file:
        (judged_run,) = csv.DictReader(file)
    assert "share=0.3" in judged_run["experiment"]
    assert 0 <= float(judged_run["pseudo_share"]) <= 100
    with Path("runs/vps/tables/per_class_vpq.csv").open() as file:
        paper = {row["row"]: row["vpq"] for row in csv.DictReader(file)}
    assert float(paper["VAT-VST (paper)"]) == pytest.approx(36.43, abs=0.01)
    assert set(paper) >= {"VAT-VST", "CBST, source-free", "Source-only"}


@pytest.mark.long
def test_a_sweep_runs_on_the_data_given(workplace: Path, check: Callable[..., str]) -> None:
    """`make ablation BENCH=viper DATA=elsewhere`, one row of it, with real subprocesses."""
    for name in ("viper", "cityscapes"):
        check("data", "fake", name, "--root=elsewhere", "--size=64,128", "--clips=2")
    sweep = yaml.safe_load(Path("sweeps/table3.yaml").read_text())
    sweep["parameters"]["experiment"] = {"values": ["source_only"]}
    Path("one.yaml").write_text(yaml.safe_dump(sweep))
    check("sweep", "sweeps/source.yaml", "one.yaml", "--bench=viper", "--data=elsewhere", "--seeds=1")
    record = json.loads(Path("runs/viper/source_only/seed0/result.json").read_text())
    assert record["last"]["protocol"] == "lineage"
    assert not Path("data").exists()
