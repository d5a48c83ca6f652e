"""Draws a share of a split's drives into single files, in a process of its own.

`python -m stpl.data.streets.worker FOLDER DOMAIN SPLIT OPTIONS SHARE OF PARENT` draws drives SHARE, SHARE+OF, … It is
started by `cache`, not by users. A plain subprocess, since `multiprocessing` would import the user's main module anew.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from stpl.data.streets.drive import StreetsOptions, draw_drive
from stpl.machine import sweep_cores

DISK_FAILED = 3
"""Exit code when a drive could not be written; number and reason are the last line on stderr."""


def command(folder: Path, domain: str, split: str, options: StreetsOptions, share: int, of: int) -> list[str]:
    """The command line of one worker."""
    values = json.dumps(asdict(options))
    arguments = [str(folder), domain, split, values, str(share), str(of), str(os.getpid())]
    return [sys.executable, "-m", "stpl.data.streets.worker", *arguments]


def drive_file(folder: Path, index: int) -> Path:
    """Where the drawn drive `index` waits for its split to be complete."""
    return folder / f"drive-{index:05d}.npz"


def draw_share(folder: Path, domain: str, split: str, options: StreetsOptions, share: int, of: int) -> Iterator[int]:
    """Draw every `of`-th drive from `share` on, unless its file is there already; yields after each one."""
    for index in range(share, options.drives(domain, split), of):
        path = drive_file(folder, index)
        if not path.exists():
            _draw_file(path, domain, split, options, index)
        yield index


def _draw_file(path: Path, domain: str, split: str, options: StreetsOptions, index: int) -> None:
    drive = draw_drive(options, domain, split, index)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, frames=drive.frames, labels=drive.labels, flow=drive.flow.astype(np.float16),
                     visible=drive.visible)  # fmt: skip
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """Draw one share; stops when the process that started it is gone."""
    folder, domain, split, values, share, of, parent = arguments
    cv2.setNumThreads(0)  # one worker per core already
    if hasattr(os, "sched_setaffinity"):  # a sweep's worker has a share of them, while the others wait for this
        with suppress(OSError):
            os.sched_setaffinity(0, sweep_cores())
    options = StreetsOptions(**json.loads(values))
    try:
        for _ in draw_share(Path(folder), domain, split, options, int(share), int(of)):
            if os.name == "posix" and os.getppid() != int(parent):
                return 1
    except OSError as error:
        print(error.errno or 0, error.strerror or error, file=sys.stderr)
        return DISK_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
