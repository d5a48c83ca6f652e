"""Work on many files in several threads, with one line of progress on stderr.

Threads are enough: decoding and resizing (Pillow), optical flow (OpenCV, torch), checksums and writing all run outside
Python's lock, so they use all cores; and no process is left behind when this one is killed.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from stpl.machine import cores
from stpl.progress import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")


def each(function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int = 0, title: str) -> list[Result]:
    """Results of `function` for all tasks, in the order in which they end, by `workers` threads; 0 for one a core.

    Leaving early (an error, Ctrl-C) lets the running tasks end and drops the others.
    """
    progress, results = Progress(title, len(tasks)), []
    pool = ThreadPoolExecutor(workers or len(cores()), thread_name_prefix=title)
    try:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            results.append(future.result())
            progress.add()
    finally:
        pool.shutdown(cancel_futures=True)
    return results
