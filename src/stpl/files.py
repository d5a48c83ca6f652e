"""How files are written: whole or not at all, and by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stpl.errors import ConfigError, StplError, cannot_write

if TYPE_CHECKING:
    from filelock import FileLock

PARTIAL = ".partial"
"""What hidden names of half-written files and folders end with."""

_LOCKS = "STPL_LOCKS"
_OF_THREADS: dict[Path, threading.Lock] = {}
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def writing(path: Path, *, kind: type[StplError] = StplError, then: str | None = None) -> Iterator[None]:
    """Within, an error of the file system becomes `cannot_write(path, error, kind=kind, then=then)`."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error, kind=kind, then=then) from error
    except RuntimeError as error:
        cause = error.__context__  # torch.save ends its archive even where a write failed, and that fails, too
        if not isinstance(cause, OSError):
            raise
        raise cannot_write(path, cause, kind=kind, then=then) from error


@contextlib.contextmanager
def whole_file(
    path: Path, *, kind: type[StplError] = StplError, sync: bool = False, then: str | None = None
) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` at the end of the block: no reader ever sees half of it.

    The folder is made. Several processes and threads may write one path at once: each has a temporary sibling of its
    own, and the last one stays. Give the file itself to `torch.save`, not its name: torch's own writer names no cause
    of a failure, and ends the process where a script does not fit on the disk.

    Args:
        path: the file, replaced as a whole.
        kind: of the error.
        sync: the bytes are on the disk before the file has its name, for what must outlast a loss of power.
        then: what to do once the cause of the error is mended.

    Raises:
        StplError: of that kind, if the disk refuses it; the old file, if any, is untouched and nothing else is left.
    """
    with writing(path, kind=kind, then=then), half_written(path.parent) as partial:
        with partial.open("w+b") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)


@contextlib.contextmanager
def half_written(folder: Path) -> Iterator[Path]:
    """A hidden name in a folder, which is made, for what is renamed at the end; nothing stays of what fails."""
    partial = folder / f".{uuid.uuid4().hex}{PARTIAL}"
    made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield partial
    except BaseException:
        with contextlib.suppress(OSError):  # the error under way is the one to report
            if partial.is_dir():
                shutil.rmtree(partial)
            partial.unlink(missing_ok=True)
            for place in made:
                place.rmdir()
        raise


def write_atomically(path: Path, content: str | bytes, *, kind: type[StplError] = StplError, sync: bool = True) -> None:
    """Write `content` (text as UTF-8) to `path`, making its folder: whole or not at all; see `whole_file`."""
    with whole_file(path, kind=kind, sync=sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def check_file(path: Path) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold; nothing is left there.

    Raises:
        StplError: a folder or a device stands there, or no file can be made in the folder that is to hold it.
    """
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            raise ConfigError("this is no ordinary file", where=path, mend="choose another path")
        folder = next(one for one in path.absolute().parents if os.path.lexists(one))
        with tempfile.TemporaryFile(dir=folder):  # asks the disk itself: rights alone do not say all
            pass


@contextlib.contextmanager
def locked(
    path: Path, on_busy: Callable[[], None], *, kind: type[StplError] = StplError, then: str | None = None
) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made, with its folder, and stays; only its content is the caller's.

    The system releases it when the process ends in whatever way; forked processes do not inherit it. Where
    the variable `STPL_LOCKS` is `off`, for file systems that keep no locks, only threads of this process are excluded.

    Args:
        path: the file.
        on_busy: called once while another process or thread holds the lock, which is then waited for unless this
            raises.
        kind: of the error.
        then: what to do once the cause of the error is mended.

    Raises:
        ConfigError: the file system keeps no locks.
        StplError: of that kind, if the file cannot be made.
    """
    lock: threading.Lock | FileLock
    if os.environ.get(_LOCKS) == "off":
        with writing(path, kind=kind, then=then):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = _OF_THREADS.setdefault(path.absolute(), threading.Lock())
        if not lock.acquire(blocking=False):
            on_busy()
            lock.acquire()
    else:
        import filelock  # takes a twentieth of a second, and `--help` locks nothing

        lock = filelock.FileLock(path, fallback_to_soft=False)
        with writing(path, kind=kind, then=then):
            _acquire(lock, path, on_busy)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, on_busy: Callable[[], None]) -> None:
    timeout = 0
    while not lock.is_locked:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout)
        except FileNotFoundError:  # whoever held it removed the folder meanwhile
            continue
        except TimeoutError:
            on_busy()
            timeout = -1
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            mend = f"use another one ($STPL_RUNS moves the runs), or set {_LOCKS}=off and start nothing twice"
            raise ConfigError(f"the file system keeps no locks ({error.strerror})", where=path, mend=mend) from error
