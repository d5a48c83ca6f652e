from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem

from fake_trial import record_of
from stpl.errors import ConfigError, RecordError, StplError
from stpl.report.curves import read_metric
from stpl.runs.folder import lock_run
from stpl.runs.record import (
    METRICS,
    RECORD,
    RunKey,
    RunRecord,
    experiment_name,
    read_metrics,
    read_record,
    read_records,
    read_steps,
    runs_root,
    write_record,
)
from stpl.runs.recorder import MetricsFile, Recorder, RunOptions
from stpl.sweeps.runner import curve
from waiting import PATIENCE

KEY = RunKey("streets", "stpl", 0)


def test_directory_is_bench_experiment_seed() -> None:
    assert KEY.directory() == Path("runs/streets/stpl/seed0")
    assert RunKey("viper", "a,b=1", 12).directory(Path("x")) == Path("x/viper/a,b=1/seed12")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "a\nb"])
def test_names_that_are_no_folder_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a folder"):
        RunKey("streets", name, 0)
    with pytest.raises(ConfigError, match="cannot name a folder"):
        RunKey(name, "stpl", 0)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="negative"):
        RunKey("streets", "stpl", -1)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({}, "stpl"),
        ({"model.confident_proportion": "0.5"}, "stpl,confident_proportion=0.5"),
        ({"model.init_args.temperature": "0.1", "model.b": "2"}, "stpl,b=2,temperature=0.1"),
        ({"optimizer.lr": "1e-3"}, "stpl,optimizer.lr=1e-3"),
        ({"run.wandb": "offline", "trainer.accelerator": "gpu", "data.init_args.loading.num_workers": "4"}, "stpl"),
        ({"trainer.devices": "2"}, "stpl,trainer.devices=2"),  # a step then has twice as many clips
        ({"trainer.max_steps": "10"}, "stpl,trainer.max_steps=10"),
    ],
)
def test_experiment_name(overrides: dict[str, str], name: str) -> None:
    assert experiment_name("stpl", overrides) == name


def test_names_stay_safe_short_and_different() -> None:
    paths = [
        experiment_name("stpl", {"model.checkpoint": path}) for path in ("a/b.ckpt", "a_b.ckpt", "x" * 300, "x" * 301)
    ]
    assert len(set(paths)) == 4
    assert paths[0].startswith("stpl,checkpoint=a_b.ckpt-")
    assert all(len(path) <= 120 and "/" not in path for path in paths)


def test_runs_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STPL_RUNS", raising=False)
    assert runs_root() == Path("runs")
    monkeypatch.setenv("STPL_RUNS", "/elsewhere")
    assert runs_root() == Path("/elsewhere")


def test_round_trip_and_absence(tmp_path: Path) -> None:
    directory = KEY.directory(tmp_path)
    assert read_record(directory) is None
    write_record(directory, record_of(KEY, 41.25))
    assert read_record(directory) == record_of(KEY, 41.25)
    assert KEY.read(tmp_path) == record_of(KEY, 41.25)
    assert [path.name for path in directory.iterdir()] == [RECORD]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write_record(tmp_path / "a", record_of(KEY, 41.25))
    write_record(tmp_path / "b", record_of(KEY, 41.25))
    assert (tmp_path / "a" / RECORD).read_bytes() == (tmp_path / "b" / RECORD).read_bytes()


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    record = record_of(KEY, 40.0)
    record["last"] = {**record["last"], "iou": {"road": float("nan")}, "score": float("inf")}
    write_record(tmp_path, record)
    found = read_record(tmp_path)
    assert found is not None
    assert found["last"]["iou"] == {"road": None}
    assert found["last"]["score"] is None


@pytest.mark.parametrize("text", ["", '{"schema": 1, "ben', "[]", '{"schema": 2}', '{"schema": 1}', "\x00\x00"])
def test_torn_record_names_the_file_and_the_folder_to_delete(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(RecordError) as caught:
        read_record(tmp_path)
    assert str(tmp_path / RECORD) in str(caught.value)
    assert f"delete the folder {tmp_path}" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("seed", "0", "'seed' is '0', expected int"),
        ("seed", True, "'seed' is True"),
        ("selected", 3, "'selected' is 3, expected dict or null"),
        ("last", {"step": 1, "miou": 120.0, "iou": {}, "score": None}, "outside 0..100"),
        ("last", {"step": 1, "miou": 1.0, "iou": {"tram": 1.0}, "score": None}, "tram"),
        ("last", {"step": 1, "miou": 1.0, "iou": {"road": "high"}, "score": None}, "'last.iou.road' is not a number"),
        ("best", {"step": 1, "iou": {}, "score": None}, "lacks 'best.miou'"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, field: str, value: object, fault: str) -> None:
    record = {**record_of(KEY, 40.0), field: value}
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(RecordError) as caught:
        read_record(tmp_path)
    assert fault in str(caught.value)
    with pytest.raises(RecordError, match="refusing to write"):
        write_record(tmp_path / "new", cast(RunRecord, record))
    assert not (tmp_path / "new").exists()


def test_record_copied_from_another_run_is_refused(tmp_path: Path) -> None:
    write_record(RunKey("streets", "stpl", 1).directory(tmp_path), record_of(KEY, 40.0))
    with pytest.raises(RecordError, match="streets/stpl/seed0"):
        read_records("streets", "stpl", tmp_path)


def test_records_come_by_seed(tmp_path: Path) -> None:
    for seed in (10, 2, 0):
        key = RunKey("streets", "stpl", seed)
        write_record(key.directory(tmp_path), record_of(key, 40.0 + seed))
    (tmp_path / "streets/stpl/seed3").mkdir()
    (tmp_path / "streets/stpl/seed01").mkdir()
    assert [record["seed"] for record in read_records("streets", "stpl", tmp_path)] == [0, 2, 10]
    assert read_records("streets", "absent", tmp_path) == []


def test_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, record_of(KEY, 40.0))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StplError, match="No space left"):
        write_record(tmp_path, record_of(KEY, 50.0))
    assert read_record(tmp_path) == record_of(KEY, 40.0)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


def test_a_damaged_line_of_the_metrics_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    assert list(read_metrics(path)) == []
    damaged = [
        b"\xff\xfe\x00", b"3,val/m\xc3,1.0", b"x,val/miou,1", b"", b'"', b"7,val/miou,1.0,2\x00",
        b"-1,val/miou,1.0", b"1e3,val/miou,2.0", b"\x00" * 50, b"8,a\x00b,1.0", b"4,val/miou",
    ]  # fmt: skip
    lines = [
        b"step,name,value",
        b"0,progress/steps,4.0",
        b"2,train/a, b,0.5",
        b"4,val/miou,30.25\r",
        b"9,val/miou,31.5",
    ]
    path.write_bytes(b"\n".join([*lines[:4], *damaged, lines[4], b"10,val/miou,3"]))  # the last is still being written
    found = [(0, "progress/steps", 4.0), (2, "train/a, b", 0.5), (4, "val/miou", 30.25), (9, "val/miou", 31.5)]
    assert list(read_metrics(path)) == found
    assert read_metric(path, "val/miou") == {4: 30.25, 9: 31.5}
    assert curve(tmp_path, "val/miou") == [30.25, 31.5]
    assert read_steps(path) == (9, 4)
    metrics = MetricsFile(path)
    metrics.rewind(4)
    metrics.write(5, {"val/miou": 32.0})
    assert list(read_metrics(path)) == [*found[:3], (5, "val/miou", 32.0)]


@pytest.mark.slow
def test_lock_keeps_other_processes_out_and_names_the_holder(tmp_path: Path) -> None:
    lines = "from pathlib import Path", "from stpl.runs.folder import lock_run"
    code = "\n".join([*lines, f"with lock_run(Path({str(tmp_path)!r})): print('in')"])
    with lock_run(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert other.returncode == 1
        assert f"process {os.getpid()} is training in this folder" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "in\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_lock_ends_with_its_process_though_a_forked_worker_lives(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom pathlib import Path\nfrom stpl.runs.folder import lock_run\n"
        f"lock = lock_run(Path({str(tmp_path)!r}))\nlock.__enter__()\n"
        "if os.fork() == 0:\n    os.close(1)\n    time.sleep(2)\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
    with lock_run(tmp_path):
        pass


def test_a_plugin_of_the_user_writes_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept, remote = type("Own", (TorchCheckpointIO,), {})(), "memory://net.ckpt"
    for plugins in ([], [kept]):
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, plugins=plugins)
        Recorder(tmp_path, RunOptions()).setup(trainer, LightningModule(), "fit")
        assert (trainer.strategy.checkpoint_io is kept) == bool(plugins)
        trainer.strategy.checkpoint_io.save_checkpoint({"step": 1}, remote)  # as a callback of the user's may
        get_filesystem(remote).rm(remote)
    assert not any(tmp_path.iterdir())
