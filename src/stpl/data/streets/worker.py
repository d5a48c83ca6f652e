"""Draws a share of a split's drives, in a process of its own.

`python -m stpl.data.streets.worker FOLDER DOMAIN SPLIT OPTIONS SHARE OF PARENT` draws drives SHARE, SHARE+OF, … It is
started by `cache`, not by users. A plain subprocess, since `multiprocessing` would import the user's main module anew.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from stpl.data.streets.drive import StreetsOptions, draw_drive
from stpl.machine import sweep_cores
from stpl.rows import Rows

DISK_FAILED = 3
"""Exit code when a drive could not be written; number and reason are the last line on stderr."""


class SplitPlan(NamedTuple):
    """Which split is drawn, and how."""

    domain: str
    split: str
    options: StreetsOptions

    @property
    def name(self) -> str:
        """Domain and split, e.g. "camera-train"."""
        return f"{self.domain}-{self.split}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Drives D, frames per drive T, height H, width W."""
        options = self.options
        return options.drives(self.domain, self.split), options.frames, options.height, options.width


def command(folder: Path, plan: SplitPlan, share: int, of: int) -> list[str]:
    """The command line of one worker."""
    values = json.dumps(asdict(plan.options))
    arguments = [str(folder), plan.domain, plan.split, values, str(share), str(of), str(os.getpid())]
    return [sys.executable, "-m", "stpl.data.streets.worker", *arguments]


def rows_of(folder: Path, shape: tuple[int, int, int, int], about: Mapping[str, Any] | None = None) -> Rows:
    """The rows of a split, one for each frame of each drive; see `StreetsSplit`."""
    drives, frames, height, width = shape
    arrays = {
        "frames": ("uint8", (3, height, width)),
        "labels": ("uint8", (height, width)),
        "flow": ("float16", (2, height, width)),
        "visible": ("bool", (height, width)),
    }
    return Rows(folder, arrays, drives * frames, about or {}, "the drawn split")


def draw_share(rows: Rows, plan: SplitPlan, share: int, of: int) -> Iterator[int]:
    """Draw every `of`-th drive from `share` on, unless it is there already; yields after each that was drawn."""
    done, (drives, frames, _, _) = rows.written(), plan.shape
    for index in range(share, drives, of):
        places = range(index * frames, (index + 1) * frames)
        if not done.keys() >= set(places):
            drive = draw_drive(plan.options, plan.domain, plan.split, index)
            for frame, place in enumerate(places):
                rows.write(place, {name: getattr(drive, name)[frame] for name in rows.arrays})
            yield index


def main(arguments: list[str]) -> int:
    """Draw one share; stops when the process that started it is gone."""
    folder, domain, split, values, share, of, parent = arguments
    cv2.setNumThreads(0)  # one worker per core already
    if hasattr(os, "sched_setaffinity"):  # a sweep's worker has a share of them, while the others wait for this
        with suppress(OSError):
            os.sched_setaffinity(0, sweep_cores())
    plan = SplitPlan(domain, split, StreetsOptions(**json.loads(values)))
    try:
        for _ in draw_share(rows_of(Path(folder), plan.shape), plan, int(share), int(of)):
            if os.name == "posix" and os.getppid() != int(parent):
                return 1
    except OSError as error:
        print(error.errno or 0, error.strerror or error, file=sys.stderr)
        return DISK_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
