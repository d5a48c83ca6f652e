"""The number that a sweep optimises, read from what a run leaves on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stpl.errors import ConfigError, unknown
from stpl.runs.record import METRICS, RunRecord, flat, read_metrics


def curve(directory: Path, name: str) -> list[float]:
    """The values of a metric in a run's `metrics.csv`, in the order of writing; empty if there are none yet."""
    return [value for _, found, value in read_metrics(directory / METRICS) if found == name]


def final_value(record: RunRecord, directory: Path, name: str) -> float:
    """The value of a metric at the end of a recorded run.

    Its `name` is `val/…`, `selected/…` or `best/…` for an evaluation in the record (`val/iou/road` for one class), a
    field of the record such as `seconds`, or any other name in metrics.csv, whose last value counts.

    Raises:
        ConfigError: if the run has no such number.
    """
    known = _numbers(record)
    if name in known:
        return known[name]
    values = curve(directory, name)
    if not values:
        raise _no_metric(name, {*known, *(found for _, found, _ in read_metrics(directory / METRICS))}, directory)
    return values[-1]


def _no_metric(name: str, known: set[str], directory: Path) -> ConfigError:
    error = unknown("metric", name, known, directory)
    return ConfigError(error.what, where=directory, mend=f"name another in the sweep file; {error.mend}")


def _numbers(record: RunRecord) -> dict[str, float]:
    """Every number of a record by its name."""
    content: dict[str, Any] = dict(record)
    found = {key: float(value) for key, value in content.items() if _is_number(value)}
    for moment, key in (("val", "last"), ("selected", "selected"), ("best", "best")):
        found |= {f"{moment}/{name}": value for name, value in flat(content[key] or {}).items()}
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
