"""Work on many files in several threads, with one line of progress on stderr.

Threads are enough: decoding and resizing (Pillow), optical flow (OpenCV, torch), checksums and writing all run outside
Python's lock, so they use all cores; and no process is left behind when this one is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from stpl.errors import check_range
from stpl.machine import cores
from stpl.progress import Progress

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
