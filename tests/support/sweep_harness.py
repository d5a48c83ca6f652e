"""What tests of sweeps share: a sweep over fake trials, started as a process of its own, and what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stpl.arguments import Command
from stpl.commands.sweep import sweep as verb
from waiting import PATIENCE, wait_until

FAKE = Path(__file__).with_name("fake_trial.py")
COMMAND = f'command: ["${{env}}", "${{interpreter}}", "{FAKE}", "${{args}}"]\n'
SWEEP = f"""
program: stpl
method: grid
metric: {{name: val/miou, goal: maximize}}
parameters:
  bench: {{value: streets}}
  experiment: {{values: [a, b]}}
  seed_everything: {{values: [0]}}
{COMMAND}"""
DRIVER = """
import sys
from pathlib import Path
from stpl.arguments import Command
from stpl.commands.sweep import sweep
from stpl.errors import StplError
try:
    options = eval(sys.argv[1])
    Command(sweep, "stpl sweep").run(["sweep.yaml", *(f"--{name}={value}" for name, value in options.items())])
except StplError as error:
    print(error)
    sys.exit(2)
"""


def sweep(files: list[Path], **options: object) -> None:
    """Call `stpl sweep` in this process; what it raises passes through."""
    Command(verb, "stpl sweep").run([*map(str, files), *(f"--{name}={value}" for name, value in options.items())])


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str = SWEEP) -> Path:
    """Go to `folder`, write `sweep.yaml` and an empty ledger there, and forget what fakes were told before."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("FAKE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FAKE_LEDGER", str(folder / "ledger"))
    (folder / "ledger").touch()
    (folder / "sweep.yaml").write_text(text)
    return folder


def start(work: Path, options: str = "{}", **environment: str) -> subprocess.Popen[str]:
    """Call `sweep` with the options, in a process."""
    # The environment's own PYTHONWARNINGS is left alone: a trial's warnings are its own matter.
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", DRIVER, options],
        cwd=work,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_hear_interrupts,
    )
    _started.append(process)
    return process


_started: list[subprocess.Popen[str]] = []


def end_started() -> None:
    """End what a test that failed has left running, with all that it started: it would be seen in later tests."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            for descendant in _descendants(process.pid):
                os.kill(descendant, signal.SIGKILL)
            process.kill()
            process.communicate()


def _descendants(process: int) -> list[int]:
    return [one for child in children(process) for one in (child, *_descendants(child))]


def _hear_interrupts() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output, once it has ended."""
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def ledger(work: Path) -> list[str]:
    """What the fakes did, in order."""
    return (work / "ledger").read_text().splitlines()


def starts(work: Path) -> list[str]:
    """The runs that were started, in order."""
    return [line.removesuffix(" started") for line in ledger(work) if line.endswith("started")]


def wait_for(work: Path, text: str, count: int = 1) -> None:
    """Wait until so many lines of the ledger contain `text`."""
    wait_until(lambda: sum(text in line for line in ledger(work)) >= count, f"'{text}' never happened")


def children(process: int) -> list[int]:
    """The processes that `process` started and that live (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(parent) == process and state != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def mentions(text: str, work: Path) -> list[str]:
    """The command lines that mention `text` of all processes in the folder `work` (Linux): others are other tests'."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = (path.parent / "cwd").readlink()
        except OSError:
            continue
        if text in line and place == work.resolve() and int(path.parent.name) != os.getpid():
            found.append(line)
    return found
