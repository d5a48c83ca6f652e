"""The process that starts trials: what a trial finds, how its end is told, what dies with what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repository import REPOSITORY
from stpl.sweeps.engine import _may_prepare
from stpl.sweeps.launcher import Launched, Launcher, own_arguments
from stpl.sweeps.schema import read_sweep
from sweep_harness import children
from waiting import wait_until

pytestmark = pytest.mark.slow

PYTHON = ["/usr/bin/env", sys.executable]


@pytest.fixture
def bare() -> Iterator[Launcher]:
    with Launcher(prepared=False) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def prepared() -> Iterator[Launcher]:
    with Launcher(prepared=True) as launcher:
        yield launcher


def ask(launcher: Launcher, log: Path, *command: str, **environment: str) -> Launched:
    return launcher.start([*PYTHON, *command], log, {**os.environ, **environment})


def wait_for_text(path: Path) -> str:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), f"{path} stays empty")
    return path.read_text()


def test_only_this_program_by_this_interpreter_is_our_own() -> None:
    ours = [sys.executable, "-m", "stpl", "fit", "--bench=streets"]
    assert own_arguments(ours) == own_arguments(["/usr/bin/env", *ours]) == ["fit", "--bench=streets"]
    assert own_arguments(["python", *ours[1:]]) is None
    assert own_arguments([sys.executable, "-m", "other"]) is None
    assert own_arguments(["/usr/bin/env"]) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only there is anything prepared")
def test_only_trials_of_this_program_without_a_gpu_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = REPOSITORY / "sweeps" / "table3.yaml"
    foreign = tmp_path / "foreign.yaml"
    foreign.write_text(shipped.read_text().replace('"-m", "stpl"', '"-m", "other"'))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _may_prepare([read_sweep(shipped)])
    assert not _may_prepare([read_sweep(foreign)])
    assert _may_prepare([read_sweep(foreign), read_sweep(shipped)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert not _may_prepare([read_sweep(shipped)])


def test_exit_codes_and_signals_are_told(bare: Launcher, tmp_path: Path) -> None:
    assert ask(bare, tmp_path / "log", "-c", "raise SystemExit(7)").wait() == 7
    assert ask(bare, tmp_path / "log", "-c", "import os; os.kill(os.getpid(), 15)").wait() == -signal.SIGTERM


def test_a_missing_program_is_named(bare: Launcher, tmp_path: Path) -> None:
    assert bare.start(["no-such-program"], tmp_path / "log", {}).wait() == 2
    assert (tmp_path / "log").read_text() == "cannot run 'no-such-program': No such file or directory\n"


def test_waiting_is_no_longer_than_asked(bare: Launcher, tmp_path: Path) -> None:
    trial = ask(bare, tmp_path / "log", "-c", "import time; print(1, flush=True); time.sleep(60)")
    wait_for_text(tmp_path / "log")
    begin = time.monotonic()
    assert trial.wait(0.1) is None
    assert time.monotonic() - begin < 5
    trial.signal(signal.SIGTERM)
    assert trial.wait() == trial.code == -signal.SIGTERM


def test_prepared_trial_runs_as_a_command_line_does(prepared: Launcher, tmp_path: Path) -> None:
    """The same exit code and the same words, from its own process, with its own variables."""
    command = ["-m", "stpl", "fit", "--bench=streets", "--experiment=sourc"]
    told = subprocess.run([*PYTHON, *command], capture_output=True, text=True)
    assert ask(prepared, tmp_path / "log", *command).wait() == told.returncode == 2
    assert (tmp_path / "log").read_text() == told.stderr
    assert "did you mean" in told.stderr


def test_prepared_trial_has_imported_everything(prepared: Launcher, tmp_path: Path) -> None:
    """It finds `stpl.runs.fit` imported, and finishes in less time than the import takes."""
    ask(prepared, tmp_path / "log", "-m", "stpl", "--version").wait()  # the launcher may still be importing
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import stpl.runs.fit"], check=True)
    imported = time.monotonic() - start
    start = time.monotonic()
    assert ask(prepared, tmp_path / "log", "-m", "stpl", "fit", "--help").wait() == 0
    assert time.monotonic() - start < imported / 2


def test_prepared_launcher_starts_other_programs_too(prepared: Launcher, tmp_path: Path) -> None:
    script = "import os, sys; print(os.environ['WORD'], 'torch' in sys.modules, sys.stdin.read())"
    assert ask(prepared, tmp_path / "log", "-c", script, WORD="variable").wait() == 0
    assert (tmp_path / "log").read_text() == "variable False \n"


def test_signal_before_the_trial_has_begun_ends_it(tmp_path: Path) -> None:
    with Launcher(prepared=True) as launcher:  # it takes seconds to import
        trial = ask(launcher, tmp_path / "log", "-m", "stpl", "--version")
        trial.signal(signal.SIGTERM)
        assert trial.wait() == -signal.SIGKILL
        assert not (tmp_path / "log").exists()
        assert ask(launcher, tmp_path / "log", "-m", "stpl", "--version").wait() == 0  # it is begun again


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_trial_dies_with_the_launcher_and_the_launcher_with_its_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(tmp_path / "log")])
    trial = int(wait_for_text(tmp_path / "log"))
    (launcher,) = children(owner.pid)
    assert children(launcher) == [trial]
    owner.kill()
    owner.wait()
    files = [Path(f"/proc/{process}/cmdline") for process in (launcher, trial)]
    wait_until(lambda: not any(file.exists() for file in files), "orphans run on")


_OWNER = """
import os, sys
from pathlib import Path
from stpl.sweeps.launcher import Launcher
with Launcher(prepared=False) as launcher:
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    launcher.start([sys.executable, "-c", script], Path(sys.argv[1]), os.environ).wait()
"""
