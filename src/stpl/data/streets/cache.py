"""Draws a split once and keeps it on disk as plain arrays, memory-mapped when opened.

    ROOT/camera-train-1a2b3c4d5e6f/   frames.npy labels.npy flow.npy visible.npy manifest.json

The folder's name holds a hash of the options and of the renderer's source, so another version draws beside it. A split
is complete or absent (`stpl.rows`, with a row for each frame), and drawing that was stopped goes on. Several processes
draw, each a share of the drives: plain ones, since `multiprocessing` would import the user's main module anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
from numpy.typing import NDArray

from stpl.data.streets.drive import StreetsOptions, draw_drive, renderer_version
from stpl.errors import DataError, note
from stpl.files import locked, writing
from stpl.machine import sweep_cores
from stpl.progress import Progress
from stpl.rows import Rows

DISK_FAILED = 3
"""Exit code of a worker that could not write a drive; number and reason are the last line on its stderr."""
_LAYOUT = 3


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
        """See `StreetsSplit`."""
        options = self.options
        return options.drives(self.domain, self.split), options.frames, options.height, options.width


@dataclass(frozen=True)
class StreetsSplit:
    """One drawn split on disk. Arrays are opened on first use only, and each by itself.

    Attributes:
        folder: where the arrays lie.
        name: domain and split, e.g. "camera-train".
        shape: drives D, frames per drive T, height H, width W.
    """

    folder: Path
    name: str
    shape: tuple[int, int, int, int]

    def array(self, kind: str) -> NDArray[Any]:
        """A read-only memory map, whose content is not checked.

        Args:
            kind: "frames" uint8 `[D,T,3,H,W]` RGB, "labels" uint8 `[D,T,H,W]`, "flow" float16 `[D,T,2,H,W]` (backward
                flow of each frame in pixels, to within 1/2048 of its value) or "visible" bool `[D,T,H,W]`.
        """
        rows = self._rows.array(kind)
        return rows.reshape(*self.shape[:2], *rows.shape[1:])

    def entry(self, kind: str, drive: int, frame: int) -> NDArray[Any]:
        """A copy of what an array holds of one frame; raises `DataError` if that is not what was written."""
        return self._rows.row(kind, drive * self.shape[1] + frame)

    @cached_property
    def _rows(self) -> Rows:
        return _rows_of(self.folder, self.shape, {})


def _rows_of(folder: Path, shape: tuple[int, int, int, int], about: Mapping[str, Any]) -> Rows:
    """The rows of a split, one for each frame of each drive."""
    drives, frames, height, width = shape
    arrays = {
        "frames": ("uint8", (3, height, width)),
        "labels": ("uint8", (height, width)),
        "flow": ("float16", (2, height, width)),
        "visible": ("bool", (height, width)),
    }
    return Rows(folder, arrays, drives * frames, about, "the drawn split")


def open_split(
    root: Path, domain: str, split: str, options: StreetsOptions | None = None, workers: int | None = None
) -> StreetsSplit:
    """Open a split of the benchmark, drawing it first if this renderer has not drawn it under `root` yet.

    Args:
        root: folder of all drawn splits; made if it is missing.
        domain: "studio" (the clean, labelled source) or "camera" (the target).
        split: "train" or "val".
        options: defaults to `StreetsOptions()`.
        workers: processes that draw, which does not change the result; by default one per core, a sweep's included.

    Raises:
        DataError: a file is torn, or the disk is full or not writable.
        ConfigError: there is no such domain or split.
    """
    plan = SplitPlan(domain, split, options or StreetsOptions())
    content = {"layout": _LAYOUT, "renderer": renderer_version(), "split": plan.name}
    content |= plan.options.content(domain, split)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(root) / f"{plan.name}-{digest}"
    rows = _rows_of(folder, plan.shape, content)
    if not rows.finished:
        on_busy = partial(note, f"streets: another process draws {folder.name}: waiting")
        lock = locked(folder.with_name(f".{folder.name}.lock"), on_busy, kind=DataError)
        with writing(folder, kind=DataError, then="run again: it goes on where it stopped"), lock:
            if not rows.finished:  # another process may have drawn it while this one waited
                _draw(rows, plan, workers or len(sweep_cores()))
    rows.check()
    return StreetsSplit(folder, plan.name, plan.shape)


def _draw(rows: Rows, plan: SplitPlan, workers: int) -> None:
    total, missing = plan.shape[0], {row // plan.options.frames for row in rows.begin()}
    progress = Progress(f"streets: drawing {plan.name}", total, total - len(missing))
    if min(workers, len(missing)) <= 1:
        for _ in _draw_share(rows, plan, 0, 1):
            progress.add()
    else:
        _run_workers(rows, plan, min(workers, total), progress)
        progress.add(total - progress.done)
    rows.finish()


def _draw_share(rows: Rows, plan: SplitPlan, share: int, of: int) -> Iterator[int]:
    """Draw every `of`-th drive from `share` on, unless it is there already; yields after each that was drawn."""
    done, (drives, frames, _, _) = rows.written(), plan.shape
    for index in range(share, drives, of):
        places = range(index * frames, (index + 1) * frames)
        if not done.keys() >= set(places):
            drive = draw_drive(plan.options, plan.domain, plan.split, index)
            for frame, place in enumerate(places):
                rows.write(place, {name: getattr(drive, name)[frame] for name in rows.arrays})
            yield index


def _run_workers(rows: Rows, plan: SplitPlan, workers: int, progress: Progress) -> None:
    with tempfile.TemporaryFile("w+") as log:
        running = [
            subprocess.Popen(command(rows.folder, plan, share, workers), stdout=log, stderr=log)
            for share in range(workers)
        ]
        try:
            while any(process.poll() is None for process in running) and not any(p.returncode for p in running):
                time.sleep(0.1)
                progress.add(len(rows.written()) // plan.options.frames - progress.done)
        finally:
            for process in running:
                process.kill()  # nothing to do unless another worker failed or the user interrupts
                process.wait()
        _raise_failure([process.returncode for process in running], log)


def _raise_failure(codes: list[int], log: IO[str]) -> None:
    """Raise why a worker ended early; a disk or memory that is full is the user's, all else is a defect."""
    log.seek(0)
    text = log.read().strip()[-2000:]
    if DISK_FAILED in codes:
        number, _, reason = (last := text.splitlines()[-1]).partition(" ")
        raise OSError(int(number), reason) if number.isdecimal() else OSError(last)
    if any(code > 0 for code in codes):
        raise RuntimeError(f"a drawing process failed:\n{text}")
    if any(codes):
        raise OSError(errno.ENOMEM, "a drawing process was killed")


def command(folder: Path, plan: SplitPlan, share: int, of: int) -> list[str]:
    """The command line of one worker, which draws every `of`-th drive from `share` on."""
    code = f"import sys; from {__name__} import work; sys.exit(work(*sys.argv[1:]))"
    arguments = [str(folder), plan.domain, plan.split, json.dumps(asdict(plan.options))]
    return [sys.executable, "-c", code, *arguments, str(share), str(of), str(os.getpid())]


def work(folder: str, domain: str, split: str, options: str, *numbers: str) -> int:
    """What a worker does, and its exit code; it stops when the process that started it is gone. See `command`."""
    share, of, parent = map(int, numbers)
    cv2.setNumThreads(0)  # one worker per core already
    if hasattr(os, "sched_setaffinity"):  # a sweep's worker has a share of them, while the others wait for this
        with suppress(OSError):
            os.sched_setaffinity(0, sweep_cores())
    plan = SplitPlan(domain, split, StreetsOptions(**json.loads(options)))
    try:
        for _ in _draw_share(_rows_of(Path(folder), plan.shape, {}), plan, share, of):
            if os.name == "posix" and os.getppid() != parent:
                return 1
    except OSError as error:
        print(error.errno or 0, error.strerror or error, file=sys.stderr)
        return DISK_FAILED
    return 0
