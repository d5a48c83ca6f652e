from __future__ import annotations

import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from fake_trial import record_of
from repository import REPOSITORY
from stpl.cli import main
from stpl.errors import ConfigError, RecordError
from stpl.runs.experiments import load_catalogue
from stpl.runs.record import RunKey, read_records, write_record
from stpl.sweeps.display import Display
from stpl.sweeps.grid import cells, command_line, narrow
from stpl.sweeps.queues import GridQueue
from stpl.sweeps.schema import read_sweep
from stpl.sweeps.storage import open_storage
from sweep_harness import FAKE, SWEEP, finish, ledger, prepare, start, starts, sweep, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(tmp_path, monkeypatch)


# --- the schema -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("method: grid", "method: bayes", "without run_cap never ends"),
        ("method: grid", "method: gird", "did you mean 'grid'"),
        ("program: stpl", "progam: stpl", "did you mean 'program'"),
        ("{values: [a, b]}", "{values: []}", "non-empty list"),
        ("{values: [a, b]}", "{values: [a, a]}", "listed twice"),
        ("{values: [a, b]}", "{values: [a, null]}", "'None'"),
        ("{values: [a, b]}", "{value: null}", "'None'"),
        ("{values: [a, b]}", "{value: {a: 1}}", "not a number, word or list"),
        ("{values: [a, b]}", "{min: 0.0, max: 1}", "cannot list"),
        ("{values: [a, b]}", "{parameters: {x: {value: 1}}}", "flat dotted names"),
        ("{values: [a, b]}", "a", "must be a mapping"),
        ("  bench: {value: streets}\n", "", "lacks bench"),
        ("goal: maximize", "goal: up", "goal: maximize or minimize"),
        ("{values: [0]}", "{values: [zero]}", "not a whole number"),
        ("{values: [0]}", "{values: [-1]}", "negative"),
        ("{value: streets}", "{values: [streets, viper]}", "--bench"),
        ("{values: [0]}", "{values: [0]}\n  run.wandb: {values: [offline, disabled]}", "two cells are the same run"),
        ('"${args}"', '"${argz}"', "did you mean 'args'"),
        ('"${args}"', '"${envvar:STPL_ABSENT}"', "STPL_ABSENT is not set"),
        ('["${env}"', '"${env}" #', "must be a list"),
    ],
)
def test_faults_in_a_sweep_file_are_named_before_anything_runs(work: Path, old: str, new: str, fault: str) -> None:
    assert old in SWEEP
    (work / "sweep.yaml").write_text(SWEEP.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        sweep([Path("sweep.yaml")])
    assert fault in str(caught.value)
    assert not starts(work)


@pytest.mark.parametrize("option", ["--seeds=0", "--attempts=0", "--workers=-1", f"--workers={10**8}"])
def test_impossible_numbers_are_refused(work: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweep.yaml", option]) == 2
    assert option.partition("=")[0].lstrip("-") in capsys.readouterr().err


def test_macros_expand_as_in_wandb(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPL_TEST_WORD", "word")
    macros = (
        "env", "interpreter", "program", "args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags",
        "args_json", "envvar:STPL_TEST_WORD",
    )  # fmt: skip
    words = ", ".join(f'"${{{macro}}}"' for macro in macros)
    extra = "  model.on: {value: true}\n  model.off: {value: false}\n  model.list: {value: [1, 2]}\ncommand:"
    text = re.sub(r"command: .*", f'command: [{words}, "x-${{envvar:STPL_TEST_WORD}}-${{program}}"]', SWEEP)
    (work / "sweep.yaml").write_text(text.replace("command:", extra).replace("[a, b]", "[a]"))
    plan = read_sweep(work / "sweep.yaml")
    flags = [
        "bench=streets",
        "experiment=a",
        "model.list=[1, 2]",
        "model.off=False",
        "model.on=True",
        "seed_everything=0",
    ]
    assert command_line(plan, cells(plan)[0]) == [
        "/usr/bin/env", sys.executable, "stpl",
        *(f"--{flag}" for flag in flags),
        *(word for flag in flags for word in (f"--{flag.split('=')[0]}", flag.split("=")[1])),
        *flags,
        "--bench=streets", "--experiment=a", "--model.list=[1, 2]", "--model.on", "--seed_everything=0",
        '{"bench": "streets", "experiment": "a", "model.list": [1, 2], "model.off": false, "model.on": true, '
        '"seed_everything": 0}',
        "word", "x-word-${program}",
    ]  # fmt: skip


def test_cells_come_seed_by_seed_and_narrow_keeps_constants(work: Path) -> None:
    plan = narrow(read_sweep(work / "sweep.yaml"), "viper", 2)
    assert [str(cell.key) for cell in cells(plan)] == [
        "viper/a/seed0", "viper/b/seed0", "viper/a/seed1", "viper/b/seed1",
    ]  # fmt: skip
    (work / "sweep.yaml").write_text(SWEEP.replace("{values: [0]}", "{value: 7}"))
    constant = narrow(read_sweep(work / "sweep.yaml"), None, 3)
    assert [cell.key.seed for cell in cells(constant)] == [7, 7]


def test_the_shipped_sweeps_cover_the_shipped_tables() -> None:
    names = ("source", "table1", "table3", "table4", "ablation", "baselines", "k", "tau")
    found = {name: cells(read_sweep(REPOSITORY / f"sweeps/{name}.yaml")) for name in names}
    assert [str(cell.key) for cell in found["source"]] == ["streets/source/seed0"]
    assert narrow(read_sweep(REPOSITORY / "sweeps/source.yaml"), None, 3).constants["seed_everything"] == 0
    more = read_sweep(REPOSITORY / "sweeps/more-source-models.yaml")
    assert narrow(more, None, 8).choices["seed_everything"] == (5, 6, 7)
    assert narrow(more, None, 12).choices == more.choices
    with pytest.raises(ConfigError, match="no seed below 5 is left: the file begins with 5"):
        narrow(more, None, 5)
    tables = load_catalogue([REPOSITORY / "experiments"]).tables
    for table in (table for table in tables if table.shown_on("streets")):
        assert {cell.key.experiment for cell in found[table.id]} == {row.experiment for row in table.rows}
    both = {str(cell.key) for name in ("table3", "table4") for cell in found[name]}
    assert {str(cell.key) for cell in found["ablation"]} == both
    assert found["k"][2].key.experiment == "stpl,confident_proportion=0.5"
    assert found["tau"][0].key.experiment == "stpl,temperature=0.03"
    plan = read_sweep(REPOSITORY / "sweeps/tau.yaml")
    assert command_line(plan, cells(plan)[0]) == [
        "/usr/bin/env", sys.executable, "-m", "stpl", "fit", "--bench=streets", "--experiment=stpl",
        "--model.temperature=0.03", "--seed_everything=0",
    ]  # fmt: skip


# --- the engine -------------------------------------------------------------------------------------------------------


def test_the_estimate_counts_all_workers(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    display = Display("table", 8, console)
    display.on_start("a", 1, tmp_path)
    display.update([10, 30], left=6, workers=3)
    display.on_end("done")
    display.update([10, 30, 30], left=0, workers=1)
    display.on_end("done")
    assert console.export_text().splitlines() == [
        "[1/8] a: started",
        "[1/8] a: done, sweep ETA 0:00:40",
        "[1/8] a: done",
    ]


def test_every_cell_once_then_only_what_is_new(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep([Path("sweep.yaml")])
    assert starts(work) == ["streets/a/seed0", "streets/b/seed0"]
    shown = capsys.readouterr().out
    assert "[1/2] a seed 0: started" in shown
    assert re.search(r"\[1/2\] a seed 0: mIoU 40\.00 in \d+ s, sweep ETA 0:00:0\d", shown)
    assert shown.endswith("sweep: all 2 cells are recorded\n")

    sweep([Path("sweep.yaml")], seeds=2)
    assert starts(work)[2:] == ["streets/a/seed1", "streets/b/seed1"]

    shutil.rmtree(work / "runs/streets/b/seed0")
    sweep([Path("sweep.yaml")], seeds=2)
    assert starts(work)[4:] == ["streets/b/seed0"]

    begin = time.process_time()
    sweep([Path("sweep.yaml")], seeds=2)
    assert time.process_time() - begin < 1
    assert len(starts(work)) == 5


def test_log_and_study_tell_what_happened(work: Path) -> None:
    key = RunKey("streets", "a", 0)
    write_record(key.directory(work / "runs"), record_of(key, 33.0))
    sweep([Path("sweep.yaml")])
    assert starts(work) == ["streets/b/seed0"]
    log = (work / "runs/streets/b/seed0/log.txt").read_text()
    assert f"{FAKE} --bench=streets --experiment=b --seed_everything=0" in log
    study = f"sqlite:///{work / 'runs/streets/sweeps.sqlite3'}"
    trials = GridQueue(open_storage(study), read_sweep(Path("sweep.yaml")), work / "runs").study.trials
    assert [(trial.user_attrs["cell"], trial.value) for trial in trials] == [
        ("streets/a/seed0", 33.0), ("streets/b/seed0", 40.0),
    ]  # fmt: skip


def test_dry_run_runs_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = RunKey("streets", "a", 0)
    write_record(key.directory(work / "runs"), record_of(key, 33.0))
    sweep([Path("sweep.yaml")], dry_run=True)
    assert capsys.readouterr().out == "[1/2] a seed 0: recorded\n[2/2] b seed 0: to run\n"
    assert not starts(work)


def test_other_folder_and_storage(work: Path) -> None:
    sweep(
        [Path("sweep.yaml")],
        runs=Path("else where"),
        storage=f"sqlite:///{work / 'deep/shared.sqlite3'}",
        bench="viper",
    )
    assert (work / "else where/viper/a/seed0/result.json").exists()
    assert (work / "deep/shared.sqlite3").exists()


def test_bad_storage_is_named(work: Path) -> None:
    (work / "torn.sqlite3").write_text("no database at all, but some text that is long enough" * 40)
    for url in (f"sqlite:///{work / 'torn.sqlite3'}", "nonsense://x", "nonsense"):
        with pytest.raises(ConfigError, match="cannot be opened"):
            sweep([Path("sweep.yaml")], storage=url)


def test_failing_cell_is_retried_then_reported_and_the_others_run(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_BREAK", "a:3")
    (work / "later.yaml").write_text(SWEEP.replace("[a, b]", "[c]"))
    with pytest.raises(SystemExit) as caught:
        sweep([Path("sweep.yaml"), Path("later.yaml")], attempts=3)
    assert caught.value.code == 1
    assert Counter(starts(work)) == {"streets/a/seed0": 3, "streets/b/seed0": 1}  # and no cell of the later file
    shown = capsys.readouterr().out
    assert "failed (exit code 3), trying again (attempt 2 of 3)" in shown
    assert "failed (exit code 3), given up" in shown
    assert "    error: the fake breaks" in shown
    assert "runs/streets/a/seed0/log.txt ends:" in shown
    assert shown.endswith("sweep: 1 of 2 cells failed\n")

    monkeypatch.delenv("FAKE_BREAK")  # mended: the next call tries again
    sweep([Path("sweep.yaml"), Path("later.yaml")])
    assert starts(work)[4:] == ["streets/a/seed0", "streets/c/seed0"]


def test_cell_that_fails_once_is_recorded_in_the_end(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BREAK", "b:1:1")
    sweep([Path("sweep.yaml")])
    assert Counter(starts(work)) == {"streets/a/seed0": 1, "streets/b/seed0": 2}


def test_trial_without_a_record_counts_as_failed(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "sweep.yaml").write_text(re.sub(r"command: .*", 'command: ["true"]', SWEEP))
    with pytest.raises(SystemExit):
        sweep([Path("sweep.yaml")], attempts=1)
    assert "it wrote no record" in capsys.readouterr().out


def test_users_mistake_stops_the_sweep(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BREAK", "a:2")
    with pytest.raises(ConfigError, match="error: the fake breaks"):
        sweep([Path("sweep.yaml")])
    assert starts(work) == ["streets/a/seed0"]


def test_command_that_does_not_exist_stops_the_sweep(work: Path) -> None:
    (work / "sweep.yaml").write_text(re.sub(r"command: .*", 'command: ["no-such-program"]', SWEEP))
    with pytest.raises(ConfigError, match="cannot run 'no-such-program'"):
        sweep([Path("sweep.yaml")])


def test_torn_record_is_named(work: Path) -> None:
    path = work / "runs/streets/b/seed0/result.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1, "ben')
    with pytest.raises(RecordError, match=r"streets/b/seed0/result\.json"):
        sweep([Path("sweep.yaml")])
    assert not starts(work)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
def test_sigkill_at_any_moment_loses_at_most_one_step(work: Path) -> None:
    environment = {"FAKE_SECONDS": "0.15", "FAKE_STEPS": "8"}
    delays = random.Random(0)
    kills = 3
    for _ in range(kills):
        process = start(work, **environment)
        time.sleep(delays.uniform(0.3, 2.5))
        process.kill()
        process.communicate()
        time.sleep(0.1)
        before = ledger(work)
        time.sleep(0.4)
        assert ledger(work) == before, "an orphan trains on"
    code, output = finish(start(work, **environment))
    assert code == 0, output
    steps = Counter(line for line in ledger(work) if " step " in line)
    assert set(steps) == {f"{name} seed0 step {step}" for name in "ab" for step in range(1, 9)}
    assert steps.total() <= 16 + kills
    assert [len(read_records("streets", name, work / "runs")) for name in "ab"] == [1, 1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_ends_the_trial_and_resumes_later(work: Path, number: int, status: int) -> None:
    process = start(work, FAKE_SECONDS="0.2", FAKE_STEPS="20")
    wait_for(work, "step 2")
    begin = time.monotonic()
    process.send_signal(number)
    code, output = finish(process)
    assert (code, time.monotonic() - begin < 5) == (status, True)
    assert "call again to resume" in output
    assert "Traceback" not in output
    before = ledger(work)
    time.sleep(0.5)
    assert ledger(work) == before
    sweep([Path("sweep.yaml")])
    assert Counter(starts(work)) == {"streets/a/seed0": 2, "streets/b/seed0": 1}
    assert sum("a seed0 step 2" in line for line in ledger(work)) == 1  # resumed behind it
