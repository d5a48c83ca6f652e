"""Work on many files in several threads, with one line of progress on stderr, and by one process at a time.

Threads are enough: decoding and resizing (Pillow), optical flow (OpenCV, torch), checksums and writing all run outside
Python's lock, so they use all cores; and no process is left behind when this one is killed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from stpl.errors import check_range, locks_are_kept, no_locks
from stpl.machine import cores
from stpl.progress import Progress

try:
    import fcntl
except ImportError:  # not POSIX: no lock, so do not make one thing from two processes at once there
    fcntl = None  # type: ignore[assignment]

Task = TypeVar("Task")
Result = TypeVar("Result")


def each(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int = 0, title: str
) -> Iterator[Result]:
    """Results of `function` for all tasks, as they come.

    Leaving early (an error, Ctrl-C) lets the running tasks end and drops the others.

    Args:
        function: safe in several threads at once.
        tasks: its arguments.
        workers: threads; 0 for one a core.
        title: what progress is shown of.

    Raises:
        ConfigError: `workers` is negative.
    """
    check_range("workers", workers)
    progress = Progress(title, len(tasks))
    pool = ThreadPoolExecutor(workers or len(cores()), thread_name_prefix=title)
    try:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            yield future.result()
            progress.add()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def only_one(lock: Path, waiting: str) -> Iterator[None]:
    """Hold the lock file `lock`; while another process holds it, say `waiting` on stderr and wait.

    Raises:
        OSError: the file cannot be made.
        ConfigError: the file system keeps no locks.
    """
    with lock.open("w") as file:
        if fcntl is not None and locks_are_kept():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(waiting, file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise no_locks(lock, error) from error
        yield  # closing the file releases the lock
