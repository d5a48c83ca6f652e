"""Curves over training steps, read from the `metrics.csv` that runs write line by line."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stpl.report.suite import Suite
from stpl.runs.record import METRICS, RECORD, read_metrics, read_steps


@dataclass(frozen=True)
class Curve:
    """One quantity of one experiment over rising steps: mean, least and greatest of the seeds that have the step.

    `seeds` counts those that have any step.
    """

    experiment: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int = 1


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that has begun and has no record yet.

    Attributes:
        run: its folder below the benchmark's, e.g. `stpl/seed0`.
        step: the last step in its metrics.
        steps: how many it will take; 0 if not known.
        miou: of its last evaluation in percent, if there was one.
    """

    run: str
    step: int
    steps: int
    miou: float | None


def curves(suite: Suite, experiments: Iterable[str], metric: str) -> list[Curve]:
    """The curve of `metric` for each of the experiments that wrote any, over all seeds, finished or not."""
    found = []
    for experiment in experiments:
        folders = sorted((suite.folder / experiment).glob(f"seed*/{METRICS}"))
        seeds = [values for values in (read_metric(path, metric) for path in folders) if values]
        steps = sorted({step for values in seeds for step in values})
        at = [[values[step] for values in seeds if step in values] for step in steps]
        if len(steps) > 1:
            mean = tuple(map(statistics.fmean, at))
            found.append(Curve(experiment, tuple(steps), mean, tuple(map(min, at)), tuple(map(max, at)), len(seeds)))
    return found


def read_metric(path: Path, metric: str) -> dict[int, float]:
    """Step → finite value of one metric in a `metrics.csv`; see `read_metrics` for what is left out."""
    return {step: value for step, name, value in read_metrics(path) if name == metric and math.isfinite(value)}


def unfinished(suite: Suite) -> list[UnfinishedRun]:
    """Runs of the benchmark that have begun and are not recorded, by name."""
    found = []
    for path in sorted(suite.folder.glob(f"*/seed*/{METRICS}")):
        if not path.with_name(RECORD).exists():
            mious = [None, *read_metric(path, "val/miou").values()]
            run = path.parent.relative_to(suite.folder).as_posix()
            found.append(UnfinishedRun(run, *read_steps(path), mious[-1]))
    return found
