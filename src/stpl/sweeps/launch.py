"""Start what cannot outlive its parent: a worker of a sweep, or a worker's trials.

Importing Lightning takes longer than many a trial trains, so `python -m stpl.sweeps.launch` imports it once and forks
for every trial. On Linux the kernel kills a process of this kind when its parent dies, even by `kill -9`; the setting
survives `exec`. Elsewhere an orphan trains on, and the lock on its folder keeps a second one out.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(*, prepared: bool) -> None:
    """Start trials one by one: requests on stdin, each trial's process and then its exit code on stdout.

    In the process of a trial of this program it returns, so that the trial runs as `python -m stpl` does, up to the end
    of the interpreter. `prepared` imports this program first, for such trials.
    """
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an import prints is no answer
    if prepared:
        _prepare()
    for line in iter(requests.readline, ""):
        server, trial = os.getpid(), os.fork()
        if trial == 0:
            os.setpgid(0, 0)
            _tie_to(server)
            requests.close()
            answers.close()
            _become(json.loads(line))
            return
        with contextlib.suppress(OSError):  # both sides set it, and whoever comes second is refused
            os.setpgid(trial, trial)
        print(trial, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(trial, 0)[1]), file=answers)
    sys.exit()


def _prepare() -> None:
    """Import this program, and what it imports on the way to a first step."""
    with contextlib.suppress(Exception):  # the trial will meet it too, and its log says why
        importlib.import_module("stpl.runs.fit")
        importlib.import_module("stpl.data.augment").import_albumentations()
    gc.freeze()  # trials share the imported objects, and their collector need not look at them
    # The only threads that imports begin are those of BLAS libraries, which end them before a fork.
    warnings.filterwarnings("ignore", message=".*is multi-threaded, use of fork", category=DeprecationWarning)


def _become(request: Mapping[str, Any]) -> None:
    """Turn this process into the trial: its streams and variables, then its program, or arguments for ours."""
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["arguments"] is None:
        _execute(request["command"])
    assert isinstance(sys.stdout, TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # a log is read while it is written
    sys.argv[1:] = request["arguments"]


def _tie_to(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)


def _execute(command: Sequence[str]) -> NoReturn:
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"cannot run '{command[0]}': {error.strerror}", file=sys.stderr)
        sys.exit(2)


def main(parent: str, role: str, *command: str) -> None:
    """Tie this process to `parent`, then `execute` the command, or `serve`, `prepared` or not."""
    _tie_to(int(parent))
    if role == "execute":
        _execute(command)
    status = [1]  # of an error that nobody caught
    atexit.register(_leave, status)  # the first to be registered is the last to be called
    try:
        serve(prepared=role == "prepared")
        runpy.run_module("stpl", run_name="__main__", alter_sys=True)
        status[0] = 0
    except SystemExit as end:
        status[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _leave(status: Sequence[int]) -> NoReturn:
    """End at once: to take apart all that was imported before the fork takes a second, and triton complains of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
