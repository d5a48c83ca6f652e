"""The drill: workers are killed at random moments, and nothing is lost and nothing is done twice."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_trial
from repository import REPOSITORY
from stpl.commands.report import report
from stpl.runs.folder import lock_run
from stpl.sweeps.grid import cells, command_line, narrow
from stpl.sweeps.queues import GridQueue
from stpl.sweeps.schema import read_sweep
from stpl.sweeps.storage import default_url, opened
from sweep_harness import FAKE, SWEEP, children, finish, ledger, mentions, prepare, start, starts, wait_for

WORKERS, SEEDS, STEPS = 3, 3, 8
KILLS = ["worker"] * 4 + ["all"] + ["worker"] * 3
"""Ten workers die: seven alone, and three with the call that supervises them."""
TEXT = SWEEP.replace("[a, b]", "[source_only, self_training, duplicate, temporal]")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent"),
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return prepare(tmp_path, monkeypatch, TEXT)


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of a database on a PostgreSQL server of the test's own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'stpl[cluster]')")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb") or (str(programs[-1]) if programs else None)
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # The server refuses to run as root.
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="stpl-postgres-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        shutil.chown(folder, user)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        data = str(folder / "data")
        call = {"user": user if os.getuid() == 0 else None, "cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([found, "-D", data, "-A", "trust", "-U", "stpl", "--no-sync"], **call)  # type: ignore[call-overload]
        control = [str(Path(found).with_name("pg_ctl")), "-D", data, "-w", "-l", str(folder / "log"), "-o", options]
        subprocess.run([*control, "start"], **call)  # type: ignore[call-overload]
        try:
            yield f"postgresql://stpl@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **call)  # type: ignore[call-overload]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_ten_kills_on_sqlite(work: Path) -> None:
    _drill(work, default_url(work / "runs", "streets"))


def test_ten_kills_on_postgresql(work: Path, postgres: str) -> None:
    _drill(work, postgres)


def _drill(work: Path, url: str) -> None:
    options = f"{{'workers': {WORKERS}, 'seeds': {SEEDS}, 'storage': {url!r}}}"
    environment = {"FAKE_SECONDS": "0.15", "FAKE_STEPS": str(STEPS)}
    chance = random.Random(20)
    sweep, said = start(work, options, **environment), ""
    for victim in KILLS:
        wait_for(work, " step ", count=sum(" step " in line for line in ledger(work)) + 1)
        time.sleep(chance.uniform(0.0, 0.4))
        assert sweep.poll() is None, "it was over before all kills were done"
        if victim == "all":
            sweep.kill()
            said += sweep.communicate()[0]
            sweep = start(work, options, **environment)
        else:
            os.kill(chance.choice(children(sweep.pid)), signal.SIGKILL)
    code, output = finish(sweep)
    assert code == 0, said + output
    assert 5 <= (said + output).count("begun again") <= 7  # one killed at the very end need not be
    plan = narrow(read_sweep(work / "sweep.yaml"), None, SEEDS)
    keys = [str(cell.key) for cell in cells(plan)]
    recorded = Counter(line.removesuffix(" recorded") for line in ledger(work) if line.endswith("recorded"))
    assert set(recorded.values()) == {1}, "a row was done twice"
    interruptions = len(starts(work)) - len(keys)
    assert interruptions <= 10
    # A kill falls between a step and its checkpoint, which repeats the step, or between these and the ledger's line.
    steps = Counter(line for line in ledger(work) if " step " in line)
    assert len(steps) >= len(keys) * STEPS - interruptions
    assert steps.total() <= len(keys) * STEPS + interruptions
    _check_nothing_is_left(work, url)
    _check_against_undisturbed(work)


def _check_nothing_is_left(work: Path, url: str) -> None:
    assert not mentions(str(FAKE), work)
    assert not mentions(url, work)
    for folder in (work / "runs" / "streets").glob("*/seed*"):
        with lock_run(folder):
            assert not list(folder.glob("*.tmp"))
    plan = narrow(read_sweep(work / "sweep.yaml"), None, SEEDS)
    with opened(url) as storage:
        states = Counter(trial.state.name for trial in GridQueue(storage, plan, work / "runs").trials())
    assert not {"RUNNING", "WAITING"} & set(states)


def _check_against_undisturbed(work: Path) -> None:
    """The same cells, run one after the other in this process, give the same records and tables to the last bit."""
    (work / "undisturbed").mkdir()
    plan = narrow(read_sweep(work / "sweep.yaml"), None, SEEDS)
    environment = {"STPL_RUNS": str(work / "undisturbed"), "FAKE_STEPS": str(STEPS)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for cell in cells(plan):
            fake_trial.main(command_line(plan, cell)[3:])
    for runs in ("runs", "undisturbed"):
        report(runs=work / runs, experiments=REPOSITORY / "experiments", output=work / f"{runs}-tables", page=False)
    for files, least in (("/streets/*/seed*/result.json", 12), ("-tables/*.csv", 3), ("-tables/*.md", 3)):
        disturbed, undisturbed = (sorted(work.glob(runs + files)) for runs in ("runs", "undisturbed"))
        assert [path.read_bytes() for path in disturbed] == [path.read_bytes() for path in undisturbed]
        assert len(disturbed) >= least
