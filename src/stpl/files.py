"""How a file is written: whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stpl.errors import ConfigError, StplError, cannot_write


@contextlib.contextmanager
def whole_file(path: Path, *, kind: type[StplError] = StplError, sync: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which becomes `path` at the end of the block: no reader ever sees half of it.

    The folder is made. Several processes and threads may write one path at once: each has a temporary sibling of its
    own, and the last one stays. Give the file itself to `torch.save`, not its name: torch's own writer names no cause
    of a failure, and ends the process where a script does not fit on the disk.

    Args:
        path: the file, replaced as a whole.
        kind: of the error.
        sync: the bytes are on the disk before the file has its name, for what must outlast a loss of power.

    Raises:
        StplError: of that kind, if the disk refuses it; the old file, if any, is untouched and nothing else is left.
    """
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    made = [folder for folder in path.parents if not os.path.lexists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w+b") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the error under way is the one to tell
            partial.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
        if isinstance(error, OSError):
            raise cannot_write(path, error, kind=kind) from error
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`, making its folder: whole and synced, or not at all.

    Raises:
        StplError: if the disk refuses it; see `whole_file`.
    """
    with whole_file(path, sync=True) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def check_file(path: Path) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold; nothing is left there.

    Raises:
        StplError: a folder or a device stands there, or no file can be made in the folder that is to hold it.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            raise ConfigError("this is no ordinary file", where=path, mend="choose another path")
        folder = next(one for one in path.absolute().parents if os.path.lexists(one))
        with tempfile.TemporaryFile(dir=folder):  # asks the disk itself: rights alone do not tell all
            pass
    except OSError as error:
        raise cannot_write(path, error) from error
