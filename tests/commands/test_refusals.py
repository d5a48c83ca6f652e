"""What Lightning, torch, Optuna and the disk refuse is one line that names the setting or the file."""

from __future__ import annotations

import errno
import sqlite3
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from repository import REPOSITORY
from stpl.cli import main
from stpl.data.fake import fake
from stpl.errors import ConfigError, RecordError, check_range, refusals
from stpl.files import locked
from stpl.runs.folder import lock_run
from stpl.sweeps.distributions import read_distribution
from stpl.sweeps.storage import open_storage

Arguments = Callable[..., list[str]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("trainer.accelerator=gpu", "trainer: No supported gpu backend found!"),
        ("trainer.accelerator=foo", "invalid accelerator name"),
        ("trainer.devices=0", "`Trainer(devices='0')`"),
        ("trainer.devices=9999", "9999 processes are too many for"),
        ("model.engine=triton", "the engine 'triton' cannot run: it is for GPUs"),
        ("trainer.num_nodes=0", "`num_nodes` must be a positive integer"),
        ("trainer.num_nodes=2", "nothing starts them: MASTER_ADDR, MASTER_PORT, NODE_RANK not set"),
        ("trainer.max_time=abc", "trainer.max_time: `Timer(duration='abc')`"),
        ("trainer.profiler=foo", "`profiler`"),
        ("trainer.precision=64-true", "trainer.precision: '64-true' is not supported"),
        ("trainer.limit_val_batches=2.5", "invalid value 2.5 for limit_val_batches"),
        ("trainer.limit_val_batches=0", "nothing would be evaluated"),
        ("trainer.limit_val_batches=0.001", "Please increase the `limit_val_batches`"),
        ("trainer.limit_train_batches=3", "trainer.limit_train_batches: a run is counted in steps"),
        ("trainer.max_epochs=1", "trainer.max_epochs: a run is counted in steps"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval (0)"),
        ("trainer.check_val_every_n_epoch=0", "trainer: integer modulo by zero"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: -1 is not 0 or more"),
        ("seed_everything=-1", "seed_everything: -1 is not in bounds"),
        ("seed_everything=99999999999", "is not in bounds"),
        ("optimizer.lr=-1e-3", "optimizer.lr: -0.001 is not 0 or more"),
        ("optimizer.lr=1e400", "optimizer.lr: inf is not finite"),
        ("optimizer.momentum=-0.5", "optimizer.momentum: -0.5 is not between 0 and 1"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay: -1 is not 0 or more"),
        ("optimizer.head_factor=-1", "optimizer.head_factor: -1"),
        ("optimizer.power=-1", "optimizer.power: -1"),
        ("batchnorm.momentum=1.5", "batchnorm.momentum: 1.5 is not between 0 and 1"),
        ("network.architecture.width=0", "network.architecture.width: 0 is not 1 or more"),
        ("network.architecture.depth=19", "network.architecture.depth: no ResNet of depth 19"),
        ("network.architecture.dilations=[]", "network.architecture.dilations: none is given"),
        ("model.embedding_dim=-4", "model.embedding_dim: -4 is not 1 or more"),
        ("model.temperature=1e-30", "model.temperature: 1e-30 is not 0.0001 or more"),
        ("data.draw_workers=-1", "data.draw_workers: -1 is not 1 or more"),
        ("optimizer=null", "optimizer"),
    ],
)
def test_a_setting_that_is_refused(
    setting: str, told: str, tiny_run: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run("stpl", "--start_from=null", f"--{setting}")]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 2  # what is wrong, and what to do
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.slow
@pytest.mark.parametrize("content", ["null", "[1, 2]", "3"])
@pytest.mark.parametrize("group", ["optimizer", "trainer", "run", "model"])
def test_a_group_of_settings_that_is_none(
    group: str, content: str, tiny_run: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(f"{group}: {content}\n")
    assert main(["fit", *tiny_run("stpl", "-c", str(overlay))]) == 2
    assert f"{overlay}: '{group}' is {content}, not a group of settings" in capsys.readouterr().err


def test_what_other_libraries_refuse_is_told_and_defects_keep_their_traceback() -> None:
    def defect() -> None:
        raise ValueError("of ours")

    defect.__globals__["__name__"], name = "stpl.test", __name__
    try:
        with pytest.raises(ValueError, match="of ours"), refusals("x"):
            defect()
    finally:
        defect.__globals__["__name__"] = name
    with pytest.raises(ConfigError, match=r"x: No such distribution") as caught, refusals("x"):
        raise LookupError("\n  No such distribution\nand more")
    assert "and more" not in str(caught.value)
    with pytest.raises(OSError, match="disk"), refusals("x"):
        raise OSError("disk")
    with pytest.raises(KeyError), refusals("x", among="lightning"):
        raise KeyError


def test_ranges_include_their_ends() -> None:
    for value in (0, 0.5, 1):
        check_range("x", value, 0, 1)
    for value in (-1e-9, 1.0001, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            check_range("x", value, 0, 1)


def test_nodes_that_a_launcher_or_the_user_brings_together_may_train(monkeypatch: pytest.MonkeyPatch) -> None:
    from stpl.runs.trainer import build_trainer

    settings: dict[str, Any] = {"accelerator": "cpu", "num_nodes": 2, "max_steps": 1, "logger": False}
    for name, value in (("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500"), ("NODE_RANK", "1")):
        with pytest.raises(ConfigError, match=f"{name}.* not set"):
            build_trainer(settings, synchronized=False, leaves_idle=False)
        monkeypatch.setenv(name, value)
    assert build_trainer(settings, synchronized=False, leaves_idle=False).world_size == 2


def test_a_database_of_another_optuna(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    with sqlite3.connect(path) as database:
        database.execute("create table version_info(version_info_id integer primary key, schema_version integer,"
                         " library_version varchar)")  # fmt: skip
        database.execute("insert into version_info values(1, 5, '0.10')")
        database.execute("create table alembic_version(version_num varchar)")
        database.execute("insert into alembic_version values('v0.9.0.a')")
    database.close()
    with pytest.raises(ConfigError, match=r"optuna version .* no longer compatible") as caught:
        open_storage(f"sqlite:///{path}")
    assert "another Optuna's may be deleted, the records decide" in str(caught.value)


# --- small options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "check", "viper", "--workers=-1"],
        ["data", "check", "viper", "--sample=-1"],
        ["data", "cache", "viper", "--workers=-3"],
        ["data", "flow", "viper", "--workers=-2"],
        ["report", "--port=-1"],
        ["video", "--video=a", "--network=[b]", "--size=[0,0]"],
        ["adapt", "--network=a", "--video=b", "--stride=-1"],
        ["sweep", "sweeps/table3.yaml", "--seeds=-1"],
    ],
)
def test_counts_below_zero(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(arguments) == 2
    assert f"{arguments[-1].partition('=')[0]}: " in (said := capsys.readouterr().err)
    assert "or more" in said


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"distribution": "log_uniform", "min": 1, "max": 1000}, "write log_uniform_values"),
        ({"distribution": "inv_log_uniform", "min": -1000, "max": 1}, "write inv_log_uniform_values"),
        ({"distribution": "log_normal", "mu": 1000.0}, "too large for a computer"),
        ({"distribution": "q_uniform", "min": 0.0, "max": 1e300, "q": 1e-300}, "too large for a computer"),
        ({"distribution": "uniform", "min": "1e-6", "max": 1.0}, "write min: 1.0e-6"),
        ({"distribution": "uniform", "min": 0.0, "max": "3E5"}, "write max: 3.0e+5"),
        ({"distribution": "uniform", "min": "low", "max": 1.0}, "write min: NUMBER"),
    ],
)
def test_distributions_beyond_numbers(entry: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_distribution(entry, "s.yaml")
    assert told in str(caught.value)


def test_a_list_that_begins_with_a_byte_order_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Windows' editor saves it."""
    fake("viper", tmp_path / "data", size=(48, 96), clips=2)
    frames = tmp_path / "list.txt"
    frames.write_bytes(b"\xef\xbb\xbf001/001_00010.jpg\n")
    arguments = ["data", "check", "viper", f"--root={tmp_path / 'data'}", "--size=48,96", f"--frame_list={frames}"]
    assert main(arguments) == 0
    assert "1 clips" in capsys.readouterr().out.replace("1 clip ", "1 clips ")


# --- folders, locks, disks --------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_another_process(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    locks: list[Callable[[], AbstractContextManager[None]]] = [
        partial(lock_run, tmp_path),
        partial(locked, tmp_path / ".lock", pytest.fail),
    ]
    for lock in locks:
        with pytest.raises(ConfigError, match="the file system keeps no locks") as caught, lock():
            pass
        assert "STPL_LOCKS=off" in str(caught.value)
        with monkeypatch.context() as patch:
            patch.setenv("STPL_LOCKS", "off")
            with lock():
                pass


def test_another_process_is_still_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("fcntl.flock", busy)
    with pytest.raises(RecordError, match="is training in this folder"), lock_run(tmp_path):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_a_file_where_the_run_s_folder_should_be(
    inside: str, tiny_run: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / inside
    assert main(["fit", *tiny_run("self_training", "--start_from=null", f"--run.directory={place}")]) == 2
    assert f"{tmp_path / 'file'}" in (said := capsys.readouterr().err)
    assert "a file stands where a folder should" in said


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device\n  → free some space"),
        (
            OSError(errno.EROFS, "Read-only file system", "/runs/a"),
            "/runs/a: Read-only file system\n  → mend the rights",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/runs/a"),
            "/runs/a: Permission denied\n  → mend the rights",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "b"), "b: No such file or directory\n  → check"),
        (RuntimeError("can't allocate memory: you tried to allocate 3221225472 bytes."), "it needs 3.0 GiB at once\n"),
        (MemoryError("Unable to allocate 9 TiB for an array"), "Unable to allocate 9 TiB for an array\n  → give"),
    ],
)
def test_what_a_disk_refuses_in_any_verb(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("stpl.arguments.Command.run", fail)
    assert main(["report"]) == 2
    assert told in capsys.readouterr().err
