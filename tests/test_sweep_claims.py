from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from stpl.sweeps.claims import CellQueue, open_storage
from stpl.sweeps.progress import read_steps


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 's.sqlite3'}"


@pytest.fixture
def queue(url: str) -> CellQueue:
    return CellQueue(open_storage(url), "streets/x", "maximize")


def test_claim_of_another_living_worker_is_respected(queue: CellQueue, url: str) -> None:
    ran = []

    def run(cell: str) -> float:
        ran.append(cell)
        assert not CellQueue(open_storage(url), "streets/x", "maximize").offer(["one"])  # claimed right now
        return 1.0

    assert queue.offer(["one"])
    queue.claim(["one"], run)
    assert ran == ["one"]
    assert queue.offer(["one"])  # a finished trial does not say that the cell is done: only the record would


def test_cell_enqueued_twice_is_run_by_the_older_claim_only(queue: CellQueue, url: str) -> None:
    ran = []
    for _ in range(2):
        queue.study.enqueue_trial({}, user_attrs={"cell": "one"})

    def run(cell: str) -> float:
        ran.append(cell)
        other = CellQueue(open_storage(url), "streets/x", "maximize")
        other.claim(["one"], run)
        return 1.0

    queue.claim(["one"], run)
    assert ran == ["one"]
    assert [trial.state.name for trial in queue.study.trials] == ["COMPLETE", "PRUNED"]


def test_claim_of_a_worker_that_died_elsewhere_is_freed_by_its_silence(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = (
        "import os, platform\nfrom stpl.sweeps.claims import CellQueue, open_storage\n"
        "platform.node = lambda: 'elsewhere'\n"
        f"queue = CellQueue(open_storage({url!r}), 'streets/x', 'maximize')\n"
        "queue.offer(['one'])\nqueue.claim(['one'], lambda cell: os._exit(0))"
    )
    subprocess.run([sys.executable, "-c", dying], check=True, timeout=20)
    monkeypatch.setattr("stpl.sweeps.claims.GRACE_SECONDS", 2)
    monkeypatch.setattr("stpl.sweeps.claims.HEARTBEAT_SECONDS", 1)
    queue = CellQueue(open_storage(url), "streets/x", "maximize")
    assert not queue.offer(["one"])
    deadline = time.monotonic() + 10
    while not queue.offer(["one"]):
        assert time.monotonic() < deadline
        queue.wait()


def test_claim_that_was_never_signed_is_freed(queue: CellQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"cell": "one"}))
    assert not queue.offer(["one"])
    monkeypatch.setattr("stpl.sweeps.claims._SIGNING", timedelta(0))
    assert queue.offer(["one"])


def test_cells_of_another_call_are_left_alone(queue: CellQueue) -> None:
    queue.offer(["other"])
    queue.claim(["mine"], lambda cell: pytest.fail(f"ran {cell}"))
    assert [trial.state.name for trial in queue.study.trials] == ["PRUNED"]


def test_steps_are_read_from_the_tail_of_the_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_steps(path) == (0, 0)
    path.write_text("step,name,value\n0,progress/steps,200.0\n")
    assert read_steps(path) == (0, 200)
    with path.open("a") as file:
        file.writelines(f"{step},train/loss,0.5\n{step},train/lr,1e-4\n" for step in range(1, 1000))
        file.write("1000,train/lo")  # still being written
    assert read_steps(path) == (999, 200)
    path.write_bytes(b"\x00\xff,,\n\n,")
    assert read_steps(path) == (0, 0)
