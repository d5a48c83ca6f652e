"""The folder of a run: made, locked, and cleared of what a refusal left behind. Imports no torch."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from stpl.errors import ConfigError, RecordError, StplError, cannot_write, locks_are_kept, no_locks
from stpl.runs.record import CONFIG, METRICS, RECORD

if sys.platform != "win32":
    import fcntl

LOG = "log.txt"
"""File name of what a trial of a sweep said, which is there before its run is."""

_LOCK = ".lock"
START = "start.ckpt"
"""File name of the network that an adaptation begins with, inside its folder."""

_OF_RUNS = frozenset({_LOCK, RECORD})
"""Files by which a run's folder is known, beside its settings."""

_BEFORE = frozenset({LOG, "sweep_arguments.json", "wandb.id", "wandb", "flow"})
"""What may lie in a run's folder before it: of a sweep, of W&B, and flow that a refused call estimated."""

_SHOWN = 5


@contextlib.contextmanager
def run_folder(directory: Path) -> Iterator[None]:
    """A run's folder, made if absent and locked; of a refusal before the first checkpoint, no trace stays in it.

    Args:
        directory: absent, empty, or the folder of a run.

    Raises:
        ConfigError: it holds files and is no run's folder.
        RecordError: as `RunLock`.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    fresh = is_fresh(directory)
    with RunLock(directory):
        try:
            yield
        except StplError as error:
            if fresh and error.exit_code == StplError.exit_code and not (directory / RECORD).exists():
                with contextlib.suppress(OSError):  # the refusal is what matters
                    _clear(directory, made)
            raise


def is_fresh(directory: Path) -> bool:
    """Whether a folder is absent or empty; raises `ConfigError` for one that holds what no run wrote."""
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    if not names or _BEFORE.issuperset(names) or not _OF_RUNS.isdisjoint(names):
        return not names
    config = directory / CONFIG
    if config.is_file() and re.search(r"^run:", config.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
        return False
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    raise ConfigError(f"holds files that no run wrote ({shown})", where=directory, mend="give another folder")


def _clear(directory: Path, made: Sequence[Path]) -> None:
    """Remove what a run wrote before its first checkpoint, then the folders that were made for it and are empty."""
    if any(path.name != START for path in directory.rglob("*.ckpt")):
        return
    inner = [path for path in directory.iterdir() if path.is_dir() and (path / CONFIG).is_file()]
    for folder in (*inner, directory):
        for name in (CONFIG, METRICS, START):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (folder / "checkpoints").rmdir()
    (directory / _LOCK).unlink(missing_ok=True)
    for folder in (*inner, *made):
        folder.rmdir()


_held: set[Path] = set()
_holding = threading.Lock()


class RunLock:
    """Keeps two processes, or two threads, from training in one folder.

    A POSIX record lock on `<directory>/.lock`: the system releases it when the process ends in whatever way, and worker
    processes that were forked from it do not keep it. It does not exclude a second lock of the same process, so folders
    that this one holds are remembered. Windows has no such locks; there the user must not start a run twice in two
    processes. Nor are there any where the variable `STPL_LOCKS` is `off`, for file systems that keep no locks.

    Args:
        directory: the run's folder, made if absent.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / _LOCK
        self._descriptor: int | None = None
        self._mine: Path | None = None

    def __enter__(self) -> RunLock:
        """Take the lock; raises `RecordError` naming the process that holds it, `ConfigError` if there are no locks."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path.parent, error) from error
        try:
            real = self.path.resolve()
        except RuntimeError as error:  # of a link that leads to itself
            raise RecordError("the link leads to itself", where=self.path, mend="remove it") from error
        with _holding:
            if real in _held:
                raise self._busy(str(os.getpid()))
            _held.add(real)
        self._mine = real
        if sys.platform != "win32" and locks_are_kept():
            try:
                self._open()
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def _open(self) -> None:
        """Lock the file that has the name now: the one that was opened may have been removed meanwhile."""
        while True:
            try:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self._lock(self._descriptor)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                    return
            os.close(self._descriptor)
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def _lock(self, descriptor: int) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            self.__exit__(None, None, None)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise no_locks(self.path, error) from error
            raise self._busy(holder) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def _busy(self, holder: str) -> RecordError:
        return RecordError(
            f"process {holder} is training in this folder",
            where=self.path.parent,
            mend="wait for it to end, or stop it, then call again",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; the file stays."""
        if self._mine is not None:
            with _holding:
                _held.discard(self._mine)
            self._mine = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
