"""Loader processes: what they need, and how one that dies is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import cv2
import pytest
from torch.utils.data import DataLoader

from stpl.cli import main
from stpl.data import loading
from stpl.errors import ConfigError, lacking

Arguments = Callable[..., list[str]]


@pytest.mark.slow
def test_processes_that_shared_memory_cannot_hold_are_refused(
    tiny_run: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loading, "_SHARED", tmp_path)
    usage = shutil.disk_usage
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 10) if path == tmp_path else usage(path)
    )
    options = ["--start_from=null", "--data.init_args.loading.num_workers=2"]
    code = main(["fit", *tiny_run("self_training", *options, steps=2)])
    said = capsys.readouterr().err
    assert code == 2
    assert "data.loading.num_workers: 2 loader processes need" in said
    assert f"{tmp_path} has 0 free\n  → set data.loading.num_workers=0" in said
    assert not list(tmp_path.rglob("*.ckpt"))
    assert "__old__init__" not in vars(DataLoader)  # an error in a loader's hook would leave Lightning's changes behind


def test_a_batch_that_cannot_be_sent_ends_its_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python would print the error and go on, and the trainer would wait for the batch for ever."""
    queue: Any = Queue
    ended: list[int] = []
    monkeypatch.setattr(queue, "_on_queue_feeder_error", queue._on_queue_feeder_error)  # is put back
    monkeypatch.setattr(cv2, "setNumThreads", lambda _: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    loading.begin_process(0)
    queue._on_queue_feeder_error(RuntimeError("unable to allocate shared memory"), None)
    assert ended == [1]
    assert capsys.readouterr().err == "loader process: unable to allocate shared memory\n"


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 3) is killed by signal: Bus error. It is possible that dataloader's workers are out of",
        "DataLoader worker (pid(s) 3, 4) exited unexpectedly",
    ],
)
def test_a_process_that_died_is_told_with_what_mends_it(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("stpl.arguments.Command.run", fail)
    assert main(["report"]) == 2
    said = capsys.readouterr().err
    assert "data.loading.num_workers: a loader process died (DataLoader worker" in said
    assert "set data.loading.num_workers=0: shared memory" in said
    assert lacking(RuntimeError("odd")) is None
    assert isinstance(lacking(RuntimeError(text)), ConfigError)
