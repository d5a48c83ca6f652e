"""Draws a split once and keeps it on disk as plain arrays, memory-mapped when opened.

    ROOT/camera-train-1a2b3c4d5e6f/   frames.npy labels.npy flow.npy visible.npy manifest.json

The folder's name holds a hash of the options and of the renderer's source, so another version draws beside it. A split
is complete or absent (`stpl.rows`, with a row for each frame), and drawing that was stopped goes on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from stpl.data.streets.drive import StreetsOptions, renderer_version
from stpl.data.streets.worker import DISK_FAILED, SplitPlan, command, draw_share, rows_of
from stpl.errors import DataError, note
from stpl.files import locked, writing
from stpl.machine import sweep_cores
from stpl.progress import Progress
from stpl.rows import Rows

_LAYOUT = 3


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
        return rows_of(self.folder, self.shape)


def open_split(
    root: Path, domain: str, split: str, options: StreetsOptions | None = None, workers: int | None = None
) -> StreetsSplit:
    """Open a split of the benchmark, drawing it first if this renderer has not drawn it under `root` yet.

    Args:
        root: folder of all drawn splits; made if it is missing.
        domain: "studio" (the clean, labelled source) or "camera" (the target).
        split: "train" or "val".
        options: defaults to `StreetsOptions()`.
        workers: processes that draw; by default one per available core, all cores of a sweep included. The result
            does not depend on it.

    Raises:
        DataError: a file is torn, or the disk is full or not writable.
        ConfigError: there is no such domain or split.
    """
    plan = SplitPlan(domain, split, options or StreetsOptions())
    content = {
        "layout": _LAYOUT,
        "renderer": renderer_version(),
        "split": plan.name,
        **plan.options.content(domain, split),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(root) / f"{plan.name}-{digest}"
    rows = rows_of(folder, plan.shape, content)
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
        for _ in draw_share(rows, plan, 0, 1):
            progress.add()
    else:
        _run_workers(rows, plan, min(workers, total), progress)
        progress.add(total - progress.done)
    rows.finish()


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
