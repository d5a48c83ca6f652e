"""Draws a split once and keeps it on disk as plain arrays, memory-mapped when opened.

    ROOT/camera-train-1a2b3c4d5e6f/   frames.npy labels.npy flow.npy visible.npy manifest.json

The folder's name holds a hash of the options and of the renderer's source, so another version draws beside it. A split
is complete or absent: drives are drawn into `….partial`, where a run that was stopped goes on, and the finished folder
is renamed into place. Every frame of every array has a checksum in the manifest, compared at every reading.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stpl.data.streets.drive import StreetsOptions, renderer_version
from stpl.data.streets.worker import DISK_FAILED, command, draw_share, drive_file
from stpl.errors import DataError, cannot_write, note
from stpl.files import locked
from stpl.machine import sweep_cores

ARRAYS = {"frames": "uint8", "labels": "uint8", "flow": "float16", "visible": "bool"}
"""The stored arrays. float16 holds flow to within 1/2048 of its value: 0.008 pixels at 16 pixels."""
_MANIFEST, _LAYOUT = "manifest.json", 2
_HEAD = 1 << 16  # bytes of a file whose hash is kept by itself


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
        """A read-only memory map.

        Args:
            kind: "frames" uint8 `[D,T,3,H,W]` RGB, "labels" uint8 `[D,T,H,W]`, "flow" float16 `[D,T,2,H,W]` (backward
                flow of each frame in pixels) or "visible" bool `[D,T,H,W]`.

        Raises:
            DataError: if the file is missing or torn.
        """
        path = self.folder / f"{kind}.npy"
        try:
            return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
        except Exception as error:  # a damaged header is parsed as Python
            raise _torn(path, str(error)) from error

    def check(self, kind: str, drive: int, frame: int, entry: NDArray[Any]) -> None:
        """Raise `DataError` unless `entry`, read from the array `kind`, is what was written for that frame."""
        if _checksum(entry) != self._checksums[kind][drive * self.shape[1] + frame]:
            raise _torn(self.folder / f"{kind}.npy", f"drive {drive}, frame {frame} is not what was written")

    def frames_of(self, drive: int) -> NDArray[np.uint8]:
        """All frames of one drive, uint8 `[T,3,H,W]` RGB; for videos and for estimating flow."""
        if not 0 <= drive < self.shape[0]:
            raise DataError(f"there is no drive {drive}", where=self.folder, mend=f"choose 0 to {self.shape[0] - 1}")
        frames = np.array(self.array("frames")[drive])
        for index, frame in enumerate(frames):
            self.check("frames", drive, index, frame)
        return frames

    @cached_property
    def _checksums(self) -> dict[str, list[int]]:
        path, count = self.folder / _MANIFEST, self.shape[0] * self.shape[1]
        try:
            files = _read_manifest(self.folder)[1]
            found = {kind: [int(checksum) for checksum in files[f"{kind}.npy"]["checksums"]] for kind in ARRAYS}
        except (ValueError, KeyError, TypeError) as error:
            raise _torn(path, repr(error)) from error
        if any(len(checksums) != count for checksums in found.values()):
            raise _torn(path, "its checksums are not as many as the frames")
        return found


def open_split(root: Path, domain: str, split: str, options: StreetsOptions | None = None, workers: int | None = None,
               verify: bool = False) -> StreetsSplit:  # fmt: skip
    """Open a split of the benchmark, drawing it first if this renderer has not drawn it under `root` yet.

    Args:
        root: folder of all drawn splits; made if it is missing.
        domain: "studio" (the clean, labelled source) or "camera" (the target).
        split: "train" or "val".
        options: defaults to `StreetsOptions()`.
        workers: processes that draw; by default one per available core, all cores of a sweep included. The result
            does not depend on it.
        verify: check the whole content of every file instead of its size. What is read is compared with checksums in
            any case; an array that nobody asks for is not opened.

    Raises:
        DataError: a file is torn, or the disk is full or not writable.
        ConfigError: there is no such domain or split.
    """
    options = options or StreetsOptions()
    content = {
        "layout": _LAYOUT,
        "renderer": renderer_version(),
        "split": f"{domain}-{split}",
        **options.content(domain, split),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(root) / f"{domain}-{split}-{digest}"
    shape = (options.drives(domain, split), options.frames, options.height, options.width)
    if not folder.exists():
        try:
            on_busy = partial(note, f"streets: another process draws {folder.name}: waiting")
            with locked(folder.with_name(f".{folder.name}.lock"), on_busy, kind=DataError):
                if not folder.exists():  # another process may have drawn it while this one waited
                    _draw(folder, domain, split, options, shape, content, workers or len(sweep_cores()))
        except OSError as error:
            raise cannot_write(folder, error, kind=DataError, then="run again: it goes on where it stopped") from error
    _check(folder, content, verify)
    return StreetsSplit(folder, f"{domain}-{split}", shape)


def _draw(folder: Path, domain: str, split: str, options: StreetsOptions, shape: tuple[int, int, int, int],
          content: dict[str, Any], workers: int) -> None:  # fmt: skip
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    # Single drives and the final arrays lie side by side for a moment, hence twice; 9 bytes a pixel.
    need, free = 2 * 9 * int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(partial).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{need / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free")
    progress = _Progress(f"{domain}-{split}", partial, shape[0])
    if min(workers, shape[0]) <= 1:
        for _ in draw_share(partial, domain, split, options, 0, 1):
            progress.show()
    else:
        _run_workers(partial, domain, split, options, min(workers, shape[0]), progress)
    progress.end()
    _assemble(partial, shape, content)
    partial.replace(folder)


def _run_workers(
    partial: Path, domain: str, split: str, options: StreetsOptions, workers: int, progress: _Progress
) -> None:
    with tempfile.TemporaryFile("w+") as log:
        running = [
            subprocess.Popen(command(partial, domain, split, options, share, workers), stdout=log, stderr=log)
            for share in range(workers)
        ]
        try:
            while any(process.poll() is None for process in running) and not any(p.returncode for p in running):
                progress.show()
                time.sleep(0.05)
        finally:
            for process in running:
                process.kill()  # nothing to do unless another worker failed or the user interrupts
                process.wait()
        _raise_failure([process.returncode for process in running], log)


def _raise_failure(codes: list[int], log: IO[str]) -> None:
    """Tell why a worker ended early; a disk or memory that is full is the user's, all else is a defect."""
    log.seek(0)
    text = log.read().strip()[-2000:]
    if DISK_FAILED in codes:
        number, _, reason = (last := text.splitlines()[-1]).partition(" ")
        raise OSError(int(number), reason) if number.isdecimal() else OSError(last)
    if any(code > 0 for code in codes):
        raise RuntimeError(f"a drawing process failed:\n{text}")
    if any(codes):
        raise OSError(errno.ENOMEM, "a drawing process was killed")


def _assemble(partial: Path, shape: tuple[int, int, int, int], content: dict[str, Any]) -> None:
    """Gather the single drives into the final arrays, write the manifest, remove the single drives."""
    drives, frames, height, width = shape
    middle = {"frames": (3,), "flow": (2,)}
    files: dict[str, dict[str, Any]] = {}
    for kind, dtype in ARRAYS.items():
        full, checksums = (drives, frames, *middle.get(kind, ()), height, width), []
        path = partial / f"{kind}.npy"
        with path.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": full}
            np.lib.format.write_array_header_1_0(file, header)
            for index in range(drives):
                drawn = _drawn(drive_file(partial, index), kind)
                checksums += [_checksum(frame) for frame in drawn]
                file.write(drawn.tobytes())
        files[path.name] = {"shape": full, "dtype": dtype, **_fingerprint(path), "checksums": checksums}
    text = json.dumps({**content, "files": files})
    (partial / _MANIFEST).write_text(text + "\n", encoding="utf-8")
    for rest in (*partial.glob("drive-*.npz"), *partial.glob("*.part")):
        rest.unlink()


def _checksum(entry: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(entry).data)


def _drawn(path: Path, kind: str) -> NDArray[Any]:
    """One array of a single drive; a file torn by a power cut is removed, so that the next run draws it anew."""
    try:
        with np.load(path) as data:
            return data[kind]  # type: ignore[no-any-return]
    except Exception as error:  # a damaged archive raises whatever its bytes ask for; its checksums are compared here
        path.unlink(missing_ok=True)
        raise DataError(f"torn drive: {error}", where=path, mend="run again: this drive is drawn anew") from error


def _fingerprint(path: Path, whole: bool = True) -> dict[str, Any]:
    """Size and SHA-256 of a file's head and, if asked, of all of it."""
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(_HEAD)).hexdigest()
        result: dict[str, Any] = {"bytes": path.stat().st_size, "sha256_head": head}
        if whole:
            file.seek(0)
            result["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return result


def _check(folder: Path, content: dict[str, Any], whole: bool) -> None:
    """Raise `DataError` naming the first file of `folder` that is not as it was written."""
    manifest, files = _read_manifest(folder)
    if {name: manifest.get(name) for name in content} != json.loads(json.dumps(content)):
        raise _torn(folder / _MANIFEST, "it describes another split")
    for name in files:
        _compare(folder / name, files, ("bytes", "sha256_head", "sha256") if whole else ("bytes",))


def _read_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest, and its part on each array's file."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return manifest, {f"{kind}.npy": manifest["files"][f"{kind}.npy"] for kind in ARRAYS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _torn(folder / _MANIFEST, repr(error)) from error


def _compare(path: Path, files: dict[str, Any], keys: Sequence[str]) -> None:
    """Raise `DataError` unless a file has the properties `keys` that were written down; its size is told without it."""
    try:
        found = {"bytes": path.stat().st_size} if keys == ("bytes",) else _fingerprint(path, "sha256" in keys)
    except OSError as error:
        raise _torn(path, str(error)) from error
    for key in keys:
        if files[path.name].get(key) != found[key]:
            raise _torn(path, f"{key} is {found[key]}, {files[path.name].get(key)} was written")


def _torn(path: Path, why: str) -> DataError:
    return DataError(f"torn file ({why})", where=path, mend=f"delete the folder {path.parent}; it will be drawn again")


class _Progress:
    """One line on stderr that updates; a line every five seconds where stderr is not a terminal."""

    def __init__(self, name: str, folder: Path, total: int) -> None:
        self.name, self.folder, self.total = name, folder, total
        self.start = self.shown = time.monotonic()
        self.before = self._count()

    def _count(self) -> int:
        return sum(1 for _ in self.folder.glob("drive-*.npz"))

    def show(self) -> None:
        """Print the state if the last line is old enough."""
        now = time.monotonic()
        if now - self.shown < (0.3 if sys.stderr.isatty() else 5.0):
            return
        self.shown = now
        self._print(self._count(), now)

    def end(self) -> None:
        """Print the final state."""
        self._print(self.total, time.monotonic())
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def _print(self, count: int, now: float) -> None:
        drawn, spent = count - self.before, now - self.start
        left = f", {spent / drawn * (self.total - count):.0f} s left" if drawn > 0 and count < self.total else ""
        line = f"streets: drawing {self.name}: {count}/{self.total} drives, {spent:.0f} s{left}"
        print(f"\r{line}\033[K" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() else "\n",
              file=sys.stderr, flush=True)  # fmt: skip
