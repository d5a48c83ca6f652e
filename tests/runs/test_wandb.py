"""The real W&B client, end to end, against a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_trial import record_of
from repository import REPOSITORY
from stpl.errors import ConfigError
from stpl.runs.charts import CONFUSION, FEATURES, PURITY
from stpl.runs.record import RunKey, read_record
from stpl.runs.recorder import RunOptions
from stpl.runs.tracking import Tracking, _keep_files, wandb_logger
from stpl.sweeps.grid import cells
from stpl.sweeps.schema import read_sweep
from sweep_harness import FAKE, ledger, prepare
from waiting import PATIENCE
from wandb_stub import WandbStub

pytestmark = pytest.mark.slow

KEY = RunKey("streets", "stpl", 0)


@pytest.fixture
def stub() -> Iterator[WandbStub]:
    with WandbStub() as server:
        yield server


def client(work: Path, stub: WandbStub, *words: str) -> str:
    """Run `wandb` with an account on the stub's server; what it says."""
    environment = {
        **os.environ,
        "WANDB_BASE_URL": stub.url,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_DIR": str(work),
        "STPL_RUNS": str(work / "runs"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # `${interpreter}` is the first python there
    }
    call = [sys.executable, "-m", "wandb", *words]
    done = subprocess.run(call, cwd=work, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.long
def test_sweep_and_agent_drive_the_rows_of_table_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub: WandbStub
) -> None:
    work = prepare(tmp_path, monkeypatch)
    (work / "runs").mkdir()
    path = REPOSITORY / "sweeps/table3.yaml"
    said = client(work, stub, "sweep", "--entity", "tester", "--project", "stpl", str(path))
    assert "wandb agent tester/stpl/sweep0" in said
    ours = [dict(cell.parameters) for cell in cells(read_sweep(path))]
    command = ["${env}", "${interpreter}", str(FAKE), "${args}"]
    theirs = stub.limit("sweep0", command, cells=2)
    assert sorted(map(str, theirs)) == sorted(str(dict(sorted(cell.items()))) for cell in ours)

    client(work, stub, "agent", "tester/stpl/sweep0")
    assert [line for line in ledger(work) if "recorded" in line] == [
        "streets/source_only/seed0 recorded", "streets/batchnorm_statistics/seed0 recorded",
    ]  # fmt: skip
    assert stub.unknown == []
    assert [run.values()["experiment"] for run in stub.runs.values()] == ["source_only", "batchnorm_statistics"]
    for run in stub.runs.values():
        assert run.sweep == "sweep0"
        assert run.exit_code == 0
        assert run.curve("val/miou") == [20.0, 40.0]
        assert run.summary["val/miou"] == 40.0


@pytest.mark.long
def test_real_run_without_an_account_is_synced_later(
    tmp_path: Path, tiny_run: Callable[..., list[str]], stub: WandbStub
) -> None:
    """`stpl fit` with W&B offline asks nothing; `wandb sync` then brings all of it."""
    arguments = tiny_run("self_training", "--start_from=null", "--run.wandb=offline", steps=2)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    call = [sys.executable, "-m", "stpl", "fit", *arguments]
    quiet = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        call, env=environment | quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    directory = RunKey("streets", "self_training", 0).directory(tmp_path / "runs")
    record = read_record(directory)
    assert record is not None
    offline = list(directory.glob("wandb/offline-run-*"))
    assert len(offline) == 1
    client(tmp_path, stub, "sync", str(offline[0]))

    assert stub.unknown == []
    ((identifier, run),) = ((name, run) for name, run in stub.runs.items() if run.history)
    assert identifier == (directory / "wandb.id").read_text().strip()
    config = run.values()
    assert config["model"]["class_path"].endswith("SelfTraining")
    assert config["network"]["architecture"]["init_args"]["width"] == 8
    assert config["code"]["git"] == record["git"]
    assert config["code"]["torch"] == record["versions"]["torch"]
    assert run.curve("val/miou") == pytest.approx([e["miou"] for e in _evaluations(directory)])
    assert run.curve("trainer/global_step")[-1] == 2
    assert run.summary["best/miou"] == pytest.approx(record["best"]["miou"] if record["best"] else None)
    assert run.summary["val/iou/road"] == pytest.approx(record["last"]["iou"]["road"])
    uploaded = stub.runs["artifact"].files | run.files
    tables = [json.loads(content) for name, content in uploaded.items() if name.endswith(".table.json")]
    by_columns = {tuple(table["columns"]): table["data"] for table in tables}
    assert dict(by_columns["class", "IoU"]) == pytest.approx(record["last"]["iou"])
    assert {CONFUSION.columns, PURITY.columns, FEATURES.columns} <= set(by_columns)
    purity = {str(k): percent for k, percent in by_columns[PURITY.columns]}
    assert purity == pytest.approx(record["last"]["feature_space"]["purity"])
    charts = run.config["_wandb"]["value"]["visualize"]
    assert {key: chart["panel_config"]["panelDefId"] for key, chart in charts.items()} == {
        chart.key: chart.preset for chart in (CONFUSION, PURITY, FEATURES)
    }
    (video,) = (content for name, content in run.files.items() if name.startswith("media/videos/"))
    assert video.startswith(b"\x1aE\xdf\xa3")  # EBML, as WebM begins
    assert run.tags == ["streets"]
    pictures = [name for name in run.files if name.startswith("media/images/predictions")]
    masks = [name for name in run.files if name.startswith("media/images/mask")]
    assert len(pictures) == 2 * 4  # at the start and at the end
    assert len(masks) == 2 * len(pictures)  # prediction and label


def _evaluations(directory: Path) -> list[dict[str, float]]:
    rows = [line.split(",") for line in (directory / "metrics.csv").read_text().splitlines()]
    return [{"miou": float(row[2])} for row in rows if row[1] == "val/miou"]


class Listener:
    """Stands for a `WandbLogger` and for its run."""

    def __init__(self, save_dir: Path) -> None:
        self.save_dir = str(save_dir)
        self.metrics: dict[int, dict[str, Any]] = {}
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.tables: dict[str, Any] = {}
        self.videos: dict[str, bytes] = {}
        self.finished = 0
        self.experiment = self

    def log_hyperparams(self, config: dict[str, Any]) -> None:
        self.config = config

    def log_metrics(self, values: dict[str, Any], step: int) -> None:
        self.metrics[step] = values

    def log_video(self, key: str, videos: list[str], step: int, caption: list[str]) -> None:
        (path,) = videos
        self.videos[f"{key} {step}: {caption[0]}"] = Path(path).read_bytes()

    def log_table(self, key: str, **table: Any) -> None:
        self.tables[key] = table

    def finish(self) -> None:
        self.finished += 1


def test_recorded_run_is_sent_to_an_agent_without_running_again(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,name,value\n0,progress/steps,4.0\n0,val/miou,20.5\n4,val/miou,30.5\n4,val/score,0.5\n"
    )
    listener = Listener(tmp_path)
    Tracking(listener, {"a": 1}).replay(record_of(KEY, 30.5), tmp_path / "metrics.csv")  # type: ignore[arg-type]
    assert listener.metrics == {0: {"progress/steps": 4.0, "val/miou": 20.5}, 4: {"val/miou": 30.5, "val/score": 0.5}}
    assert listener.config["a"] == 1
    assert {"git", "python"} <= set(listener.config["code"])
    assert listener.summary["best/miou"] == 32.5
    assert listener.tables["iou per class"]["data"] == [["road", 40.5], ["car", 20.5]]
    assert listener.videos == {}  # a run of an older version keeps no arrays
    assert listener.finished == 1


def test_nobody_is_asked_for_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub: WandbStub) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_BASE_URL", stub.url)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    assert wandb_logger(RunOptions(), tmp_path, KEY) is None
    with pytest.raises(ConfigError, match="no W&B account is known here"):
        wandb_logger(RunOptions(wandb="online"), tmp_path, KEY)
    logger = wandb_logger(RunOptions(wandb="offline"), tmp_path / "run", KEY)
    assert logger is not None
    again = wandb_logger(RunOptions(wandb="offline"), tmp_path / "run", KEY)
    assert again is not None
    assert again.version == logger.version == (tmp_path / "run" / "wandb.id").read_text().strip()


def test_files_below_home_go_into_the_folder_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub: WandbStub
) -> None:
    """Always offline; else where HOME cannot be written to. A place that the user named stays."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _keep_files(tmp_path / "one", offline=True)
    assert os.environ["WANDB_DATA_DIR"] == os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "one" / "wandb" / "files")
    _keep_files(tmp_path / "two", offline=True)
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "two" / "wandb" / "files")
    _keep_files(tmp_path / "two", offline=False)
    assert "WANDB_DATA_DIR" not in os.environ
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("WANDB_CACHE_DIR", "mine")
    _keep_files(tmp_path / "two", offline=False)
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "two" / "wandb" / "files")
    assert os.environ["WANDB_CACHE_DIR"] == "mine"


def test_what_fails_in_wandb_is_told_before_the_run_or_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError("Unable to write staging files")

    listener = Listener(tmp_path)
    monkeypatch.setattr(listener, "log_hyperparams", fail)
    monkeypatch.setattr(listener, "log_table", fail)
    tracking: Any = Tracking(listener, {})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="W&B cannot begin: Unable to write"):
        tracking.setup(None, None, "fit")
    tracking.finish(record_of(KEY, 30.5))
    assert capsys.readouterr().err == "note: run.wandb: W&B lacks the end of this run: Unable to write staging files\n"
    assert listener.finished == 1
