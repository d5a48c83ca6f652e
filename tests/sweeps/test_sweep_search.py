"""Searches run by real workers over fake trials; several workers, status, check, and the worst of disks."""

from __future__ import annotations

import csv
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from repository import REPOSITORY
from stpl.cli import main
from stpl.errors import DIVERGED, STOPPED, ConfigError, StplError
from stpl.runs.folder import lock_run
from stpl.runs.record import read_records
from stpl.sweeps.status import read_status
from stpl.sweeps.storage import default_url, opened
from stpl.sweeps.supervisor import places
from sweep_harness import (
    COMMAND,
    FAKE,
    SWEEP,
    children,
    finish,
    ledger,
    mentions,
    prepare,
    start,
    starts,
    sweep,
    wait_for,
)
from waiting import PATIENCE

pytestmark = pytest.mark.slow

SEARCH = f"""
program: stpl
method: random
metric: {{name: val/miou, goal: maximize}}
run_cap: 4
parameters:
  bench: {{value: streets}}
  experiment: {{value: a}}
  model.x: {{min: 0.0, max: 1.0}}
  model.colour: {{values: [red, green]}}
  seed_everything: {{values: [0, 1]}}
{COMMAND}"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(tmp_path, monkeypatch)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- searches ---------------------------------------------------------------------------------------------------------


def test_search_runs_every_seed_and_tells_what_matters(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "sweep.yaml").write_text(SEARCH)
    sweep([Path("sweep.yaml")])
    trials = table(work / "runs/streets/tables/sweep_trials.csv")
    assert [row["state"] for row in trials] == ["complete"] * 4
    for row in trials:
        quality = -20 * (float(row["model.x"]) - 0.3) ** 2 + (5 if row["model.colour"] == "green" else 0)
        assert float(row["value"]) == pytest.approx(40.5 + quality, abs=1e-4)  # the mean of seeds 0 and 1
        assert len(read_records("streets", row["runs"], work / "runs")) == 2
    best = max(trials, key=lambda row: float(row["value"]))
    said = capsys.readouterr().out
    assert f"best val/miou {float(best['value']):.2f} with" in said
    assert said.endswith("sweep: all 4 trials are recorded\n")
    shares = {
        row["parameter"]: float(row["importance"]) for row in table(work / "runs/streets/tables/sweep_importance.csv")
    }
    assert set(shares) == {"model.x", "model.colour"}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)

    before = len(starts(work))
    sweep([Path("sweep.yaml")])
    (work / "sweep.yaml").write_text(SEARCH.replace("run_cap: 4", "run_cap: 5"))
    sweep([Path("sweep.yaml")])  # a longer search goes on
    assert len(starts(work)) == before + 2
    with pytest.raises(ConfigError, match="did you mean 'tpe'"):
        sweep([Path("sweep.yaml")], sampler="tpo")


def test_bad_trials_end_early(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A grid with `early_terminate`: of the two that come to the first evaluation, the worse one is stopped."""
    text = SWEEP.replace("[a, b]", "[a]").replace("command:", "  model.x: {values: [0.3, 0.9]}\ncommand:")
    (work / "sweep.yaml").write_text(
        text.replace("method: grid", "method: grid\nearly_terminate: {type: hyperband, min_iter: 1, eta: 2}")
    )
    monkeypatch.setenv("FAKE_SECONDS", "0.7")
    monkeypatch.setenv("FAKE_STEPS", "5")
    sweep([Path("sweep.yaml")])
    said = capsys.readouterr().out
    assert re.search(r"a,x=0\.9 seed 0: ended early \(evaluation 1: val/miou 6\.\d+\)", said)
    assert said.endswith("sweep: all 2 cells are done, 1 of them ended early\n")
    assert not any("a,x=0.9 seed0 step 5" in line for line in ledger(work))
    before = len(starts(work))
    sweep([Path("sweep.yaml")])
    assert len(starts(work)) == before
    (status,) = read_status(default_url(work / "runs", "streets"), work / "runs")
    assert (status.done, status.early, status.total, status.running) == (1, 1, 2, ())


def test_failing_trial_of_a_search_counts_as_one(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "sweep.yaml").write_text(SEARCH.replace("run_cap: 4", "run_cap: 2"))
    monkeypatch.setenv("FAKE_BREAK", "a:3:1")  # once in each folder: two failures of a trial with two seeds
    sweep([Path("sweep.yaml")])
    assert [row["state"] for row in table(work / "runs/streets/tables/sweep_trials.csv")] == ["complete"] * 2
    monkeypatch.setenv("FAKE_BREAK", "a:3")
    (work / "sweep.yaml").write_text(SEARCH.replace("run_cap: 4", "run_cap: 3"))
    with pytest.raises(SystemExit):
        sweep([Path("sweep.yaml")])
    (status,) = read_status(default_url(work / "runs", "streets"), work / "runs")
    assert (status.done, status.total, len(status.failed)) == (2, 3, 1)


def test_a_trial_that_diverged_is_told_to_the_study_and_the_search_goes_on(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: its settings would do so again."""
    text = SEARCH.replace("run_cap: 4", "run_cap: 3").replace("[0, 1]", "[0]")
    (work / "sweep.yaml").write_text(text)
    monkeypatch.setenv("FAKE_BREAK", f"a:{DIVERGED}")
    with pytest.raises(SystemExit):
        sweep([Path("sweep.yaml")], attempts=3)
    assert len(starts(work)) == len(set(starts(work))) == 3
    said = capsys.readouterr().out
    assert said.count(f"failed (exit code {DIVERGED}), given up") == 3
    assert said.endswith("sweep: 3 of 3 trials failed\n")
    with opened(default_url(work / "runs", "streets")) as storage:
        (study,) = storage.get_all_studies()
        assert [trial.state.name for trial in storage.get_all_trials(study._study_id)] == ["FAIL"] * 3
    (status,) = read_status(default_url(work / "runs", "streets"), work / "runs")
    assert len(status.failed) == 3


def test_a_trial_that_was_stopped_goes_on_without_spending_an_attempt(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `trainer.max_time` ends one session after the other; one that comes no further is a failure."""
    (work / "sweep.yaml").write_text(SWEEP.replace("[a, b]", "[a]"))
    monkeypatch.setenv("FAKE_STEPS", "4")
    monkeypatch.setenv("FAKE_SESSION", "1")
    sweep([Path("sweep.yaml")], attempts=1)
    assert len(starts(work)) == 4
    said = capsys.readouterr().out
    assert "stopped at step 1, goes on" in said
    assert said.endswith("sweep: all 1 cells are recorded\n")
    (work / "sweep.yaml").write_text(SWEEP.replace("[a, b]", "[b]"))
    monkeypatch.setenv("FAKE_SESSION", "0")
    with pytest.raises(SystemExit):
        sweep([Path("sweep.yaml")], attempts=2)
    assert f"failed (exit code {STOPPED}), given up" in capsys.readouterr().out


def test_unknown_metric_is_named_after_the_first_run(work: Path) -> None:
    (work / "sweep.yaml").write_text(SWEEP.replace("val/miou", "val/mious"))
    with pytest.raises(ConfigError, match="did you mean 'val/miou'"):
        sweep([Path("sweep.yaml")])
    assert len(starts(work)) == 1


# --- workers ----------------------------------------------------------------------------------------------------------


def test_gpus_and_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("stpl.machine.cores", lambda: [0, 1, 2, 3, 8])
    monkeypatch.setattr("stpl.machine.visible_gpus", list)
    assert [set(place.cores or ()) for place in places(2)] == [{0, 1}, {2, 3, 8}]
    assert [place.environment["OMP_NUM_THREADS"] for place in places(2)] == ["2", "3"]
    assert {place.environment["STPL_SWEEP_CORES"] for place in places(2)} == {"0,1,2,3,8"}
    assert len(places(0)) == 4
    assert places(6)[-1].cores == frozenset({8})
    monkeypatch.setattr("stpl.machine.visible_gpus", lambda: ["0", "GPU-5f"])
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places(0)] == ["0", "GPU-5f"]
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places(3)] == ["0", "GPU-5f", "0"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert {place.environment["OMP_NUM_THREADS"] for place in places(2)} == {"1"}


def test_visible_gpus_are_those_that_the_variable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from stpl.machine import visible_gpus

    for given, expected in (("2,3", ["2", "3"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_gpus() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_share_the_cells_and_stop_at_ctrl_c(work: Path) -> None:
    options = "{'seeds': 2, 'workers': 2}"
    process = start(work, options, FAKE_SECONDS="0.2", FAKE_STEPS="40")
    wait_for(work, " step ", count=4)
    assert mentions(str(FAKE), work)
    (status,) = read_status(default_url(work / "runs", "streets"), work / "runs")
    assert status.total == 4
    assert 1 <= len(status.running) <= 2
    assert all(running.steps == 40 and running.step >= 1 for running in status.running)
    assert {int(running.worker.rpartition(":")[2]) for running in status.running} <= set(children(process.pid))
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert time.monotonic() - begin < 20
    assert "once more to stop at once" in output
    assert "Traceback" not in output
    assert not mentions(str(FAKE), work)
    (status,) = read_status(default_url(work / "runs", "streets"), work / "runs")
    assert status.running == ()
    code, output = finish(start(work, options))
    assert code == 0, output
    assert Counter(line for line in ledger(work) if "recorded" in line) == {
        f"streets/{name}/seed{seed} recorded": 1 for name in "ab" for seed in range(2)
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_second_interrupt_kills_now(work: Path) -> None:
    stubborn = work / "stubborn.py"
    stubborn.write_text(
        "import signal, time, os\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(os.environ['FAKE_LEDGER'], 'a').write('stubborn\\n')\ntime.sleep(60)\n"
    )
    (work / "sweep.yaml").write_text(SWEEP.replace(str(FAKE), str(stubborn)))
    process = start(work)
    wait_for(work, "stubborn")
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # it waits for the trial
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, _ = finish(process)
    assert code == 130
    assert time.monotonic() - begin < 10
    assert not mentions(str(stubborn), work)


def test_run_that_somebody_trains_by_hand_is_waited_for(work: Path) -> None:
    """The folder is locked: the sweep neither fails nor stops, and takes the record when it is there."""
    hand = {"FAKE_SECONDS": "1", "FAKE_STEPS": "3", "STPL_RUNS": str(work / "runs")}
    arguments = ["--bench=streets", "--experiment=a", "--seed_everything=0"]
    with subprocess.Popen([sys.executable, str(FAKE), *arguments], env={**os.environ, **hand}):
        wait_for(work, "a/seed0 started")
        sweep([Path("sweep.yaml")])
    assert starts(work) == ["streets/a/seed0", "streets/b/seed0"]


def test_grpc_proxy_serves_several_workers(work: Path) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed (pip install 'stpl[cluster]')")
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = f"sqlite:///{work / 'shared.sqlite3'}"
    call = [sys.executable, "-m", "stpl", "sweep", "serve", f"--storage={database}", f"--port={port}"]
    server = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        assert f"--storage=grpc://localhost:{port}" in server.stdout.readline()
        code, output = finish(start(work, f"{{'seeds': 2, 'workers': 2, 'storage': 'grpc://localhost:{port}'}}"))
        assert code == 0, output
        assert sorted(starts(work)) == sorted(f"streets/{name}/seed{seed}" for name in "ab" for seed in range(2))
    finally:
        server.kill()
        server.communicate()


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_study_that_breaks_in_the_middle_is_named(work: Path) -> None:
    process = start(work, FAKE_SECONDS="0.3", FAKE_STEPS="6")
    wait_for(work, "step 2")
    path = work / "runs/streets/sweeps.sqlite3"
    content = bytearray(path.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    path.write_bytes(content)
    code, output = finish(process)
    assert code == 2, output
    assert "sweeps.sqlite3: the database failed" in output
    assert "Traceback" not in output
    path.unlink()  # as the message says: the records decide what is done
    code, output = finish(start(work))
    assert code == 0, output


def test_full_disk_is_named(work: Path) -> None:
    log = work / "runs/streets/a/seed0/log.txt"
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")
    with pytest.raises(StplError, match="No space left on device") as caught:
        sweep([Path("sweep.yaml")])
    assert "a/seed0/log.txt" in str(caught.value)
    with lock_run(log.parent):
        assert not (log.parent / "result.json").exists()


def test_full_disk_under_the_study_is_named(work: Path) -> None:
    """Files of this process cannot grow beyond 64 KiB: the database is cut off while it is made."""
    code = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "from stpl.arguments import Command\nfrom stpl.commands.sweep import sweep\nfrom stpl.errors import StplError\n"
        "try:\n    Command(sweep, 'stpl sweep').run(['sweep.yaml'])\nexcept StplError as error:\n    print(error)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert "sweeps.sqlite3: " in done.stdout
    assert re.search("full|I/O error", done.stdout)
    assert done.stderr == ""


# --- the command line -------------------------------------------------------------------------------------------------


def test_check_prints_commands_and_finds_wrong_options(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "check", "sweep.yaml"]) == 0
    said = capsys.readouterr().out
    assert f"{FAKE} --bench=streets --experiment=b --seed_everything=0" in said
    assert "2 cells; options not checked" in said
    monkeypatch.chdir(REPOSITORY)
    assert main(["sweep", "check", "sweeps/search.yaml"]) == 0
    said = capsys.readouterr().out
    assert "--model.temperature=0.02" in said
    assert "--model.temperature=0.5" in said
    assert said.endswith("sweeps/search.yaml: 40 trials by bayes, examples above\n")
    wrong = work / "wrong.yaml"
    text = Path("sweeps/tau.yaml").read_text()
    wrong.write_text(text.replace("model.temperature", "model.temprature"))
    assert main(["sweep", "check", str(wrong)]) == 2
    said = capsys.readouterr().err
    assert "wrong.yaml" in said
    assert "did you mean 'temperature'" in said
    wrong.write_text(text.replace("0.5]", "hot]"))
    assert main(["sweep", "check", str(wrong)]) == 2
    assert "model.temperature=hot" in capsys.readouterr().err


def test_status_tells_why(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "status"]) == 2
    assert "no sweep has been started" in capsys.readouterr().err
    monkeypatch.setenv("FAKE_BREAK", "a:3")
    with pytest.raises(SystemExit):
        sweep([Path("sweep.yaml")], attempts=1)
    capsys.readouterr()
    assert main(["sweep", "status", "--bench=streets"]) == 0
    said = capsys.readouterr().out
    assert "streets/sweep: 1 of 2 recorded, 0 running, 0 waiting, 1 failed" in said
    assert "failed: streets/a/seed0 (exit code 3): error: the fake breaks" in said
    assert "runs/streets/a/seed0/log.txt" in said
    assert main(["sweep", "status", "--bench=viper"]) == 2
