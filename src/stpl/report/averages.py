"""Means over seeds and how far they spread; `None` where there is too little to say."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those values that there are."""
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation; `None` for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def error(values: Sequence[float]) -> float | None:
    """The standard error of the mean; `None` for fewer than two values."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
