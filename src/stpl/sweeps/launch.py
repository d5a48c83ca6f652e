"""Start a trial that cannot outlive its sweep. Run as a script: `python launch.py PARENT_PID COMMAND...`.

On Linux the kernel kills the trial when the sweep dies, even by `kill -9`, so that no orphan trains on beside the next
call. The setting survives `exec`. A script of its own, because running Python between `fork` and `exec` of a process
with threads may deadlock. Elsewhere an orphan trains on, and the lock on its folder keeps a second one out.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, command: list[str]) -> None:
    """Tie this process to `parent`, then become `command`; exits with 2 if there is no such program."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(_refuse(command[0], error))


def _refuse(program: str, error: OSError) -> int:
    print(f"cannot run '{program}': {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
