"""What footage is by its content: the same for a copy, a link and a file that moved. Imports no torch."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from stpl.data.videos.image_folder import list_frames
from stpl.errors import DataError

_MOST = 2**32  # bytes that are read of footage: beyond, sizes and blocks that are spread evenly
_BLOCK = 2**20


def content_id(path: Path) -> str:
    """The identity of a video file or a folder of images, 32 hexadecimal digits.

    It follows from the bytes of the file, whatever its name, place and times are; of a folder, from its frames in their
    order, with their names in it. Remembered per process as long as the files stay as they are.

    Raises:
        DataError: it cannot be read.
    """
    try:
        files = list_frames(path) if path.is_dir() else [path]
        states = tuple((file.resolve(), *_state(file)) for file in files)
        return _content_id(states, tuple(file.name for file in files) if path.is_dir() else ())
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"it cannot be read ({reason})", where=path, mend="check the file") from error


def _state(file: Path) -> tuple[int, int, int, int]:
    """Recognises, within this process, a file that was replaced; size and time alone can be copied."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


@cache
def _content_id(states: Sequence[tuple[Path, int, int, int, int]], names: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    total = sum(size for _, size, *_ in states)
    for place, (file, size, *_) in enumerate(states):
        digest.update(f"{names[place] if names else ''}\0{size}\0".encode(errors="surrogateescape"))
        _hash(digest, file, size, size if total <= _MOST else int(_MOST * size / total))
    return digest.hexdigest()


def _hash(digest: hashlib.blake2b, file: Path, size: int, budget: int) -> None:
    """Add a file's bytes to a digest: all of them, or blocks that are spread evenly."""
    with file.open("rb") as content:
        if budget >= size or size <= 2 * _BLOCK:
            while block := content.read(_BLOCK):
                digest.update(block)
            return
        count = max(2, budget // _BLOCK)
        for number in range(count):
            content.seek(round(number * max(0, size - _BLOCK) / (count - 1)))
            digest.update(content.read(_BLOCK))
