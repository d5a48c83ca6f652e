"""Actions whose peak memory is known; `test_bench.py` has them measured in a fresh process."""

from __future__ import annotations

from collections.abc import Callable


def allocate(megabytes: int, keep: bool) -> Callable[[], object]:
    """An action that takes memory, or takes and frees half of it twice."""
    size = megabytes * 1_000_000
    if keep:
        return lambda: b"x" * size
    return lambda: [len(b"x" * (size // 2)) for _ in range(2)]
